// SPDX-License-Identifier: GPL-3.0-or-later

package release

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"aead.dev/minisign"

	"github.com/llama-orch/llama-orch/ci/command"
)

// passwordEnv names the variable with the password of the key that signs.
const passwordEnv = "LLORCH_RELEASE_PASSWORD"

// Package makes a .deb and a package of Arch for this machine's processor, in build/package. Two runs on one commit make the same bytes.
func Package(ctx context.Context) error {
	s, err := look(ctx)
	if err != nil {
		return err
	}
	if err := os.RemoveAll("build/package"); err != nil { // what stands there is of other commits
		return err
	}
	made, err := s.packages(ctx, "build/package")
	if err == nil {
		fmt.Println(strings.Join(made, "\n"))
	}
	return err
}

// packages makes the packages in a folder.
func (s source) packages(ctx context.Context, dir string) (made []string, err error) {
	root := filepath.Join(dir, "root")
	if err := s.tree(ctx, root); err != nil {
		return nil, fmt.Errorf("make the files of the packages: %w", err)
	}
	config := filepath.Join(dir, "nfpm.yaml")
	if err := s.configure(config, root); err != nil {
		return nil, err
	}
	ctx = command.Setting(ctx, fmt.Sprintf("SOURCE_DATE_EPOCH=%d", s.at.Unix()))
	for packager, name := range map[string]string{
		"deb":       fmt.Sprintf("llama-orch_%s-1_%s.deb", s.version, runtime.GOARCH),
		"archlinux": fmt.Sprintf("llama-orch-%s-1-%s.pkg.tar.zst", s.version, map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]),
	} {
		to := filepath.Join(dir, name)
		if err := command.Run(ctx, "go", tool("nfpm", "package", "--config", config, "--packager", packager, "--target", to)...); err != nil {
			return nil, err
		}
		made = append(made, to)
	}
	slices.Sort(made)
	return made, nil
}

// configure writes what nfpm is told, with the variables of this commit.
func (s source) configure(to, root string) error {
	text, err := os.ReadFile("deploy/package/nfpm.yaml")
	if err != nil {
		return err
	}
	variables := map[string]string{"ARCH": runtime.GOARCH, "VERSION": s.version, "MTIME": s.at.Format(time.RFC3339), "ROOT": filepath.ToSlash(root)}
	unknown := ""
	out := os.Expand(string(text), func(name string) string {
		value, ok := variables[name]
		if !ok {
			unknown = name
		}
		return value
	})
	if unknown != "" {
		return fmt.Errorf("deploy/package/nfpm.yaml has the variable %s, which nobody sets", unknown)
	}
	return os.WriteFile(to, []byte(out), 0o644)
}

// Release makes a release in build/release: an archive for each processor, the packages of this one, bills of materials, SHA256SUMS, and with -key=FILE, a
// secret key of minisign whose password is in LLORCH_RELEASE_PASSWORD, the signature of the sums.
func Release(ctx context.Context, arches, key *string) error {
	s, err := look(ctx)
	if err != nil {
		return err
	}
	const dir = "build/release"
	if err := s.release(ctx, dir, processors(arches)); err != nil {
		return err
	}
	if key == nil {
		fmt.Println("not signed: -key=FILE names a secret key of minisign")
		return nil
	}
	return sign(filepath.Join(dir, sumsName), *key, os.Getenv(passwordEnv), s.at)
}

const sumsName = "SHA256SUMS"

// release makes all but the signature.
func (s source) release(ctx context.Context, dir string, arches []string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	work := dir + ".work"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	made, err := s.packages(ctx, work)
	if err != nil {
		return err
	}
	for _, from := range made {
		if err := os.Rename(from, filepath.Join(dir, filepath.Base(from))); err != nil {
			return err
		}
	}
	for _, arch := range arches {
		name := fmt.Sprintf("llama-orch_%s_linux_%s", s.version, arch)
		root := filepath.Join(work, name)
		if err := s.archive(ctx, arch, filepath.Join(work, "root"), root, filepath.Join(dir, name+".tar.gz")); err != nil {
			return fmt.Errorf("make the archive for %s: %w", arch, err)
		}
		for _, p := range programs {
			bill, err := os.ReadFile(billOf(root, p))
			if err == nil {
				err = put(filepath.Join(dir, fmt.Sprintf("%s_%s_linux_%s.cdx.json", p, s.version, arch)), bill)
			}
			if err != nil {
				return err
			}
		}
	}
	if err := sums(dir); err != nil {
		return err
	}
	return os.RemoveAll(work)
}

// archived are the files of the packages that are in an archive too, which is for no particular system: no libraries, and nothing of systemd's.
var archived = []string{"usr/share/man", "usr/share/bash-completion", "usr/share/zsh/site-functions", "usr/share/fish", "usr/share/licenses", "usr/share/llama-orch", "usr/share/doc"}

// archive makes one with the programs for a processor, and takes the rest from the files of the packages.
func (s source) archive(ctx context.Context, arch, packaged, root, to string) error {
	if err := os.RemoveAll(root); err != nil {
		return err
	}
	if err := s.compile(ctx, arch, filepath.Join(root, "bin")); err != nil {
		return err
	}
	for _, from := range archived {
		if err := os.CopyFS(filepath.Join(root, strings.TrimPrefix(from, "usr/")), os.DirFS(filepath.Join(packaged, from))); err != nil {
			return err
		}
	}
	for _, p := range programs { // those of the packages are of this machine's processor
		if err := s.bill(ctx, filepath.Join(root, "bin", p), billOf(root, p)); err != nil {
			return err
		}
	}
	if err := s.settle(root); err != nil {
		return err
	}
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	return errors.Join(s.pack(f, root), f.Close())
}

// billOf is where an archive has the bill of materials of a program.
func billOf(root, program string) string {
	return filepath.Join(root, "share/doc/llama-orch", program+".cdx.json")
}

// pack writes a folder as a tar.gz that depends on nothing but the files and the commit.
func (s source) pack(w io.Writer, root string) error {
	z, err := gzip.NewWriterLevel(w, gzip.BestCompression)
	if err != nil {
		return err
	}
	t := tar.NewWriter(z)
	err = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error { // in the order of the names
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		name, err := filepath.Rel(filepath.Dir(root), path)
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if err := t.WriteHeader(&tar.Header{Name: filepath.ToSlash(name), Mode: int64(info.Mode().Perm()), Size: info.Size(), ModTime: s.at, Format: tar.FormatPAX}); err != nil {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		_, err = io.Copy(t, f)
		return errors.Join(err, f.Close())
	})
	return errors.Join(err, t.Close(), z.Close())
}

// sums writes the SHA-256 of each file of a folder, as sha256sum reads them.
func sums(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var list strings.Builder
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		sum := sha256.Sum256(text)
		fmt.Fprintf(&list, "%s  %s\n", hex.EncodeToString(sum[:]), e.Name())
	}
	return os.WriteFile(filepath.Join(dir, sumsName), []byte(list.String()), 0o644)
}

// sign signs a file as `minisign -S` does, with the time of the commit.
func sign(file, key, password string, at time.Time) error {
	secret, err := secretKey(key, password)
	if err != nil {
		return fmt.Errorf("read the key %s: %w; its password is in %s", key, err, passwordEnv)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	reader := minisign.NewReader(strings.NewReader(string(text)))
	if _, err := io.Copy(io.Discard, reader); err != nil {
		return err
	}
	signature := reader.SignWithComments(secret, fmt.Sprintf("timestamp:%d\tfile:%s", at.Unix(), filepath.Base(file)), "signature from llama-orch's release key")
	return os.WriteFile(file+".minisig", signature, 0o644)
}

// secretKey reads a key, with its password or without one (`minisign -GW`).
func secretKey(file, password string) (key minisign.PrivateKey, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return key, err
	}
	if minisign.IsEncrypted(text) {
		return minisign.DecryptKey(password, text)
	}
	return key, key.UnmarshalText(text)
}
