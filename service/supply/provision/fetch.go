// SPDX-License-Identifier: GPL-3.0-or-later

package provision

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
)

// pin names an npm package and the digest that its tarball must have, as npm writes it (sha512, base64).
type pin struct {
	name      string
	version   string
	integrity string
}

// argv returns the command that downloads p's tarball to a folder of its own in dir.
func (p pin) argv(npm, dir string) []string {
	return []string{npm, "pack", p.name + "@" + p.version, "--silent", "--ignore-scripts", "--pack-destination", filepath.Join(dir, "tarball")}
}

// fetch downloads p's tarball into dir with the npm client as the user has configured it, and checks the tarball.
func fetch(ctx context.Context, o Options, p pin, dir string) (string, error) {
	if _, err := exec.LookPath(o.npm()); err != nil {
		return "", missing([]string{"npm"})
	}
	spec := p.name + "@" + p.version
	o.say("fetching %s", spec)
	argv := p.argv(o.npm(), dir)
	in := argv[len(argv)-1]
	if err := os.Mkdir(in, 0o755); err != nil {
		return "", err
	}
	// The working directory is an empty folder, so that npm finds no project's package.json or .npmrc.
	if _, err := command(ctx, in, nil, argv, o.Output); err != nil {
		return "", fmt.Errorf("fetching %s: %w", spec, err)
	}
	found, err := filepath.Glob(filepath.Join(in, "*.tgz"))
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("fetching %s: npm left %d tarballs, want 1", spec, len(found))
	}
	return found[0], checkIntegrity(found[0], p)
}

func checkIntegrity(file string, p pin) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha512.New()
	if _, err := io.Copy(h, f); err != nil {
		return err
	}
	got := "sha512-" + base64.StdEncoding.EncodeToString(h.Sum(nil))
	if got != p.integrity {
		return fmt.Errorf("the tarball of %s@%s is not the pinned one (got %s, want %s): do not use it, and check the registry npm is configured for",
			p.name, p.version, got, p.integrity)
	}
	return nil
}

// Bounds of what an archive may unpack to. The largest archive, with CUDA, holds 0.5 GB.
const (
	maxUnpackedBytes = 1 << 30
	maxUnpackedFiles = 20000
)

// unpack writes regular files of a gzipped tarball into dir, without sub-folders. want maps a path in the archive to a plain file name, or to ""
// to leave the file out. unpack never makes links, devices or folders, so nothing can leave dir.
func unpack(tarball, dir string, want func(name string) string) (int, error) {
	f, err := os.Open(tarball)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return 0, fmt.Errorf("opening the tarball: %w", err)
	}
	var (
		r     = tar.NewReader(z)
		room  = int64(maxUnpackedBytes)
		files int
	)
	for n := 0; ; n++ {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return files, fmt.Errorf("reading the tarball: %w", err)
		}
		if n > maxUnpackedFiles {
			return files, fmt.Errorf("the tarball holds more than %d files", maxUnpackedFiles)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		name := want(path.Clean(h.Name))
		if name == "" {
			continue
		}
		if name != filepath.Base(name) || !filepath.IsLocal(name) {
			return files, fmt.Errorf("the tarball names %q, which is no plain file name", name)
		}
		if room -= h.Size; room < 0 {
			return files, fmt.Errorf("the tarball unpacks to more than %d bytes", maxUnpackedBytes)
		}
		if err := writeFile(filepath.Join(dir, name), r); err != nil {
			return files, fmt.Errorf("unpacking %s: %w", name, err)
		}
		files++
	}
}

func writeFile(name string, r io.Reader) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, r); err != nil {
		_ = f.Close()
		return err
	}
	if err := f.Sync(); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}
