// SPDX-License-Identifier: GPL-3.0-or-later

// Package page runs the tests of the status page in a real browser, and has it make the screenshots of the documents. Browser and axe-core come
// from npm (ADR 041).
package page

import (
	"archive/tar"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/andybalholm/brotli"

	"github.com/llama-orch/llama-orch/ci/command"
	"github.com/llama-orch/llama-orch/ci/npm"
	"github.com/llama-orch/llama-orch/ci/step"
	"github.com/llama-orch/llama-orch/ci/tally"
)

var (
	//go:embed package.json
	packages []byte
	//go:embed package-lock.json
	lock []byte
)

// What tells the tests where browser and axe-core are, and where screenshots go.
const (
	toolsEnv = "LLORCH_PAGE_TOOLS"
	shotsEnv = "LLORCH_PAGE_SHOTS"
)

// Test fetches what is missing, and runs the tests.
func Test(ctx context.Context, t *tally.Tally) error {
	ctx, err := Ready(ctx)
	if err != nil {
		return err
	}
	return step.GoTest(ctx, t, "-count=1", "./harness/page/...")
}

// Ready is a context whose programs know where browser and axe-core are.
func Ready(ctx context.Context) (context.Context, error) {
	dir, err := install(ctx)
	if err != nil {
		return nil, err
	}
	return command.Setting(ctx, toolsEnv+"="+dir), nil
}

// Bench measures what the page costs (LO-608).
func Bench(ctx context.Context) error {
	ctx, err := Ready(ctx)
	if err != nil {
		return err
	}
	return command.Run(ctx, "go", "test", "-run", "^$", "-bench", "BenchmarkPage", "-benchtime", "1x", "-timeout", "20m", "./harness/page")
}

// Shots makes the screenshots of the documents.
func Shots(ctx context.Context, into string) error {
	ctx, err := Ready(ctx)
	if err != nil {
		return err
	}
	into, err = filepath.Abs(into)
	if err != nil {
		return fmt.Errorf("find the folder of the images: %w", err)
	}
	return command.Run(command.Setting(ctx, shotsEnv+"="+into), "go", "test", "-count=1", "./harness/page")
}

// install brings browser and axe-core, and unpacks the browser beside them.
func install(ctx context.Context) (string, error) {
	dir, err := npm.Set{Name: "page", Needs: "the tests of the status page", Packages: packages, Lock: lock}.Install(ctx)
	if err != nil {
		return "", err
	}
	browser := filepath.Join(dir, "browser")
	if _, err := os.Stat(browser); err == nil {
		return dir, nil
	}
	step.Say("unpacking the browser")
	fresh, err := os.MkdirTemp(dir, ".new-")
	if err != nil {
		return "", fmt.Errorf("make the browser's folder: %w", err)
	}
	defer os.RemoveAll(fresh) // it is gone once it has its name
	for _, name := range []string{"chromium", "al2023.tar", "fonts.tar", "swiftshader.tar"} {
		if err := unpack(filepath.Join(dir, "node_modules/@sparticuz/chromium/bin", name+".br"), filepath.Join(fresh, name)); err != nil {
			return "", fmt.Errorf("unpack the browser: %w", err)
		}
	}
	// Another run may have been faster, with the same browser.
	if err := os.Rename(fresh, browser); err != nil && !errors.Is(err, os.ErrExist) {
		if _, there := os.Stat(browser); there != nil {
			return "", fmt.Errorf("put the browser in its place: %w", err)
		}
	}
	return dir, nil
}

// unpack decompresses a file; of an archive, it puts the content beside the name.
func unpack(packed, name string) error {
	in, err := os.Open(packed)
	if err != nil {
		return err
	}
	defer in.Close()
	plain := brotli.NewReader(in)
	dir, archive := filepath.Dir(name), strings.HasSuffix(name, ".tar")
	if !archive {
		return write(name, plain, 0o755)
	}
	for files := tar.NewReader(plain); ; {
		h, err := files.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case h.Typeflag != tar.TypeReg:
			continue
		case !filepath.IsLocal(h.Name):
			return fmt.Errorf("the archive has the file %q outside its folder", h.Name)
		}
		if err := write(filepath.Join(dir, h.Name), files, os.FileMode(h.Mode)&0o755); err != nil {
			return err
		}
	}
}

func write(name string, in io.Reader, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	out, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
