// SPDX-License-Identifier: GPL-3.0-or-later

// Package release has the targets that make what is given away: packages, archives, bills of materials, sums and a signature. What they make of a commit is the same each time.
package release

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/llama-orch/llama-orch/ci/command"
	"github.com/llama-orch/llama-orch/service/supply/provision"
)

// source is the commit that is given away.
type source struct {
	version string // of the packages: digits first, so that each is later than those before it
	commit  string
	at      time.Time // of the commit; it is the time of every file
}

// look reads what the checkout is.
func look(ctx context.Context) (source, error) {
	commit, err := command.Git(ctx, "rev-parse", "--short=12", "HEAD")
	if err != nil {
		return source{}, fmt.Errorf("a release is made of a commit: %w", err)
	}
	seconds, err := command.Git(ctx, "log", "-1", "--format=%ct")
	if err != nil {
		return source{}, err
	}
	n, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return source{}, fmt.Errorf("the time of the commit: %w", err)
	}
	at := time.Unix(n, 0).UTC()
	described, err := command.Git(ctx, "describe", "--tags", "--long", "--always", "--match", "v[0-9]*") // only a commit where there is no tag yet
	if err != nil {
		return source{}, err
	}
	dirty, err := command.Git(ctx, "status", "--porcelain")
	if err != nil {
		return source{}, err
	}
	return source{version: versionOf(described, commit, at, dirty != ""), commit: commit, at: at}, nil
}

// versionOf makes a version that dpkg, pacman and people order as the commits are: 1.2.0 for a tag, 1.2.0+3.abc for three commits behind it, and
// 0.0.0+20261201143000.abc without a tag. What was changed and not committed is marked.
func versionOf(described, commit string, at time.Time, dirty bool) string {
	version := "0.0.0+" + at.Format("20060102150405") + "." + commit
	if parts := strings.Split(described, "-"); len(parts) >= 3 {
		behind := parts[len(parts)-2]
		version = strings.ReplaceAll(strings.TrimPrefix(strings.Join(parts[:len(parts)-2], "-"), "v"), "-", "~")
		if behind != "0" {
			version += "+" + behind + "." + commit
		}
	}
	if dirty {
		version += ".dirty"
	}
	return version
}

// The programs that are given away.
var programs = []string{"orchestratord", "llama-orch"}

// compilers are the C compilers for other processors: orchestratord calls NVIDIA's library for the cards in C.
var compilers = map[string]string{"amd64": "x86_64-linux-gnu-gcc", "arm64": "aarch64-linux-gnu-gcc"}

// compile builds the programs for a processor.
func (s source) compile(ctx context.Context, goarch, into string) error {
	settings := []string{"GOOS=linux", "GOARCH=" + goarch}
	if goarch != runtime.GOARCH {
		cc, ok := compilers[goarch]
		if !ok {
			return fmt.Errorf("there is no release for %s, only for amd64 and arm64", goarch)
		}
		if _, err := exec.LookPath(cc); err != nil {
			return fmt.Errorf("orchestratord for %[1]s needs a C compiler for it (%[2]w): install gcc-%[3]s (Debian) or %[3]s-gcc (Arch), or make the release for %[1]s on such a machine, and leave it out here with -arches=%[4]s",
				goarch, err, strings.TrimSuffix(cc, "-gcc"), runtime.GOARCH)
		}
		settings = append(settings, "CC="+cc)
	}
	args := []string{"build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -X main.version=" + s.version + " -X main.commit=" + s.commit, "-o", into + "/"}
	for _, p := range programs {
		args = append(args, "./cmd/"+p)
	}
	return command.Run(command.Setting(ctx, settings...), "go", args...)
}

// file is a file of the tree that is not compiled: a copy of one of the repository's.
type file struct{ from, to string }

// files are those of the repository that are installed.
func files() ([]file, error) {
	list := []file{
		{"deploy/systemd/orchestratord.service", "usr/lib/systemd/system/orchestratord.service"},
		{"deploy/systemd/llama-orch-nvidia.service", "usr/lib/systemd/system/llama-orch-nvidia.service"},
		{"deploy/systemd/llama-orch-backup.service", "usr/lib/systemd/system/llama-orch-backup.service"},
		{"deploy/systemd/llama-orch-backup.timer", "usr/lib/systemd/system/llama-orch-backup.timer"},
		{"deploy/systemd/llama-orch.tmpfiles", "usr/lib/tmpfiles.d/llama-orch.conf"},
		{"deploy/systemd/llama-orch.sysusers", "usr/lib/sysusers.d/llama-orch.conf"},
		{"deploy/package/config.yaml", "etc/llama-orch/config.yaml"},
		{"deploy/package/environment", "etc/llama-orch/environment"},
		{"deploy/package/preupgrade.sh", "usr/share/llama-orch/preupgrade.sh"},
		{"deploy/package/copyright", "usr/share/doc/llama-orch/copyright"},
		{"LICENSE", "usr/share/licenses/llama-orch/LICENSE"},
		{"CHANGELOG.md", "usr/share/doc/llama-orch/CHANGELOG.md"},
		{".docs/operations.md", "usr/share/doc/llama-orch/operations.md"},
		{".docs/cli.md", "usr/share/doc/llama-orch/cli.md"},
		{"models/haiku/haiku.gguf", "usr/share/llama-orch/haiku.gguf"},
		{"examples/workstation.yaml", "usr/share/doc/llama-orch/examples/workstation.yaml"},
		{"examples/external.yaml", "usr/share/doc/llama-orch/examples/external.yaml"},
	}
	list = append(list, file{"deploy/package/orchestratord.1", "usr/share/man/man1/orchestratord.1.gz"})
	pages, err := filepath.Glob(".docs/cli/man/*.1")
	for _, page := range pages {
		list = append(list, file{page, "usr/share/man/man1/" + filepath.Base(page) + ".gz"})
	}
	return list, err
}

// completions are where shells look for what `llama-orch completion SHELL` prints.
var completions = map[string][]string{
	"bash": {"usr/share/bash-completion/completions/llama-orch"},
	"zsh":  {"usr/share/zsh/vendor-completions/_llama-orch", "usr/share/zsh/site-functions/_llama-orch"}, // Debian's place, and everyone else's
	"fish": {"usr/share/fish/vendor_completions.d/llama-orch.fish"},
}

// tree makes the files of the packages below root, as they are installed, for this machine's processor.
func (s source) tree(ctx context.Context, root string) error {
	if err := os.RemoveAll(root); err != nil {
		return err
	}
	bin := filepath.Join(root, "usr/bin")
	if err := s.compile(ctx, runtime.GOARCH, bin); err != nil {
		return err
	}
	list, err := files()
	if err != nil {
		return err
	}
	for _, f := range list {
		text, err := os.ReadFile(f.from)
		if err != nil {
			return err
		}
		if strings.HasSuffix(f.to, ".gz") {
			text = zipped(text)
		}
		if err := put(filepath.Join(root, f.to), text); err != nil {
			return err
		}
	}
	for shell, places := range completions {
		text, err := exec.CommandContext(ctx, filepath.Join(bin, "llama-orch"), "completion", shell).Output()
		if err != nil {
			return fmt.Errorf("the completion of %s: %w", shell, err)
		}
		for _, to := range places {
			if err := put(filepath.Join(root, to), text); err != nil {
				return err
			}
		}
	}
	if err := libraries(ctx, filepath.Join(root, "usr/lib/llama-orch")); err != nil {
		return err
	}
	for _, p := range programs {
		if err := s.bill(ctx, filepath.Join(bin, p), filepath.Join(root, "usr/share/doc/llama-orch", p+".cdx.json")); err != nil {
			return err
		}
	}
	return s.settle(root)
}

// libraries copies llama.cpp's libraries for the CPU, so that the packages serve without fetching anything.
func libraries(ctx context.Context, to string) error {
	from, err := provision.EngineLibs(ctx, provision.Options{Progress: func(string) {}})
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		at := filepath.Join(to, e.Name())
		switch {
		case !strings.HasSuffix(e.Name(), ".so"):
			continue
		case e.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(filepath.Join(from, e.Name()))
			if err == nil {
				err = os.Symlink(target, at)
			}
			if err != nil {
				return err
			}
			continue
		}
		text, err := os.ReadFile(filepath.Join(from, e.Name()))
		if err == nil {
			err = put(at, text)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// bill writes the bill of materials of a program, in the form of CycloneDX, from what the program says it was built of.
func (s source) bill(ctx context.Context, program, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return command.Run(ctx, "go", tool("cyclonedx-gomod", "bin", "-json", "-noserial", "-notimestamp", "-version", "v"+s.version, "-output", to, program)...)
}

// tool are the arguments of go that run a tool at the version of ci/package/go.mod.
func tool(name string, args ...string) []string {
	return append([]string{"tool", "-modfile=ci/package/go.mod", name}, args...)
}

func put(at string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return err
	}
	return os.WriteFile(at, text, 0o644)
}

// zipped is text as `gzip -9n` has it: without a name and a time.
func zipped(text []byte) []byte {
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err == nil {
		_, err = w.Write(text)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		panic(err) // a buffer takes everything
	}
	return b.Bytes()
}

// settle gives every file the time of the commit, and the mode that it is installed with.
func (s source) settle(root string) error {
	return filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.Type()&fs.ModeSymlink != 0 {
			return err
		}
		mode := fs.FileMode(0o644)
		if e.IsDir() || filepath.Base(filepath.Dir(path)) == "bin" {
			mode = 0o755
		}
		return errors.Join(os.Chmod(path, mode), os.Chtimes(path, s.at, s.at))
	})
}

// processors are what a release is for.
func processors(given *string) []string {
	if given == nil {
		return []string{"amd64", "arm64"}
	}
	return slices.Compact(slices.Sorted(strings.FieldsSeq(*given)))
}
