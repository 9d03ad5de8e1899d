// SPDX-License-Identifier: GPL-3.0-or-later

// Package gpu makes what is carried to a machine with a card, to see there what the daemon would see.
package gpu

import (
	"archive/tar"
	"compress/gzip"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/magefile/mage/mg"

	"github.com/llama-orch/llama-orch/ci/command"
	"github.com/llama-orch/llama-orch/harness/nvmlstub"
)

// GPU has the targets for machines with cards.
type GPU mg.Namespace

// The files of the package. The tests run on the stand-in, wherever they are; the probe runs on the machine's driver.
const (
	probe   = "gpuprobe"
	standIn = "libnvidia-ml-standin.so"
	script  = "run.sh"
)

// tested are the packages that read cards, by the name of their tests' program.
var tested = map[string]string{"gpu.test": "./service/fleet/gpu", "vram.test": "./service/fleet/vram", "nvmlstub.test": "./harness/nvmlstub", "gpuprobe.test": "./harness/gpuprobe"}

//go:embed run.sh
var runs []byte

// Probe builds build/gpu-probe: a program that reads all that the daemon reads of GPUs and says as JSON whether the figures can be, and a package of it and of the tests of
// NVML that needs no source tree (LO-884, LO-885). Then it runs the program here, if this machine has a driver. -run=false only builds.
func (GPU) Probe(ctx context.Context, run *bool) error {
	dir := filepath.Join("build", "gpu-probe")
	packed, err := build(ctx, dir)
	if err != nil {
		return err
	}
	fmt.Printf("%s: unpack it on a machine with a card, and run ./%s there\n", packed, script)
	if run != nil && !*run {
		return nil
	}
	err = command.Run(ctx, filepath.Join(dir, probe))
	var ended *exec.ExitError
	if errors.As(err, &ended) && ended.ExitCode() == 2 {
		fmt.Println("this machine has no card that can be used")
		return nil
	}
	return err
}

// build makes the programs in dir, and the package of them.
func build(ctx context.Context, dir string) (packed string, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("making the probe's folder: %w", err)
	}
	if err := command.Run(ctx, "go", "build", "-trimpath", "-ldflags=-w", "-o", filepath.Join(dir, probe), "./harness/gpuprobe/cmd/gpuprobe"); err != nil {
		return "", err
	}
	files := []string{probe, standIn, script}
	for name, path := range tested {
		if err := command.Run(ctx, "go", "test", "-c", "-trimpath", "-ldflags=-w", "-o", filepath.Join(dir, name), path); err != nil {
			return "", err
		}
		files = append(files, name)
	}
	work, err := os.MkdirTemp(dir, "stub-")
	if err != nil {
		return "", fmt.Errorf("making the probe's folder: %w", err)
	}
	defer func() { _ = os.RemoveAll(work) }()
	lib, err := nvmlstub.Build(work)
	if err == nil {
		err = os.Rename(lib, filepath.Join(dir, standIn))
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, script), runs, 0o755)
	}
	if err != nil {
		return "", fmt.Errorf("making the package of the probe: %w", err)
	}
	slices.Sort(files)
	packed = filepath.Join(dir, fmt.Sprintf("llama-orch-gpu-probe-linux-%s.tar.gz", runtime.GOARCH))
	return packed, pack(packed, dir, files)
}

// pack writes files of a folder into an archive, all of them executable.
func pack(to, dir string, files []string) (err error) {
	out, err := os.Create(to)
	if err != nil {
		return fmt.Errorf("packing the probe: %w", err)
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	zipped := gzip.NewWriter(out)
	all := tar.NewWriter(zipped)
	for _, name := range files {
		if err := add(all, filepath.Join(dir, name), "llama-orch-gpu-probe/"+name); err != nil {
			return fmt.Errorf("packing the probe: %w", err)
		}
	}
	if err := errors.Join(all.Close(), zipped.Close()); err != nil {
		return fmt.Errorf("packing the probe: %w", err)
	}
	return nil
}

func add(to *tar.Writer, path, name string) error {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	about, err := in.Stat()
	if err != nil {
		return err
	}
	if err := to.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: about.Size(), ModTime: about.ModTime()}); err != nil {
		return err
	}
	_, err = io.Copy(to, in)
	return err
}
