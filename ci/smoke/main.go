// SPDX-License-Identifier: GPL-3.0-or-later

// Command smoke is the reference box's smoke test (HME-040). It needs two NVIDIA GPUs of unequal memory, and it fails, with
// what to do, where it cannot run: a skipped smoke test would look like a passed one.
//
// It starts the daemon with the configuration that LLORCH_SMOKE_CONFIG names, or with the bundled model on each of the two
// cards, and looks that every pool gets ready, that a task completes on each card, that a placement is explained, and that a
// drained pool gives its memory back.
//
// With -stub it does the same on a machine without a GPU: on stand-ins for NVML, which shows the reference box's cards, and for
// llama-server.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/llama-orch/llama-orch/harness/process"
	"github.com/llama-orch/llama-orch/service/fleet/gpu"
)

// configEnv names the variable that names the configuration.
const configEnv = "LLORCH_SMOKE_CONFIG"

// within bounds the whole: models of some 20 GB are read from a disk.
const within = 20 * time.Minute

func main() {
	stub := flag.Bool("stub", false, "run on stand-ins for the reference box's cards and for llama-server")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	if err := smoke(ctx, *stub, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "smoke: FAILED:", err)
		os.Exit(1) //nolint:gocritic // there is nothing left to clean up
	}
	fmt.Println("smoke: passed")
}

func smoke(ctx context.Context, stub bool, out io.Writer) error {
	dir, err := os.MkdirTemp("", "llorch-smoke-")
	if err != nil {
		return fmt.Errorf("make a folder for the test: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	m := machine{config: os.Getenv(configEnv)}
	if stub {
		if m, err = standIn(ctx, dir, reviewed); err != nil {
			return err
		}
		fmt.Fprintln(out, "on stand-ins for NVML and llama-server: this says nothing about real cards")
	}
	return run(ctx, m, dir, out)
}

// machine is what the test runs on.
type machine struct {
	library string   // NVML; empty: where the loader finds it
	config  string   // of the daemon; empty: the bundled model on each card
	env     []string // of the daemon, beside this process's
}

func run(ctx context.Context, m machine, dir string, out io.Writer) (err error) {
	cards, err := unequal(ctx, m.library, out)
	if err != nil {
		return err
	}
	if m.config == "" {
		m.config = filepath.Join(dir, "config.yaml")
		if err := writeConfig(m.config, cards); err != nil {
			return err
		}
		fmt.Fprintf(out, "%s names no configuration: the bundled model goes on each card\n", configEnv)
	}
	l := process.NewLauncher()
	defer l.Close()
	b, err := start(ctx, l, dir, m.config, m.env)
	if err != nil {
		return err
	}
	err = b.check(ctx, cards, out)
	if stopped := b.stop(); err == nil {
		err = stopped
	}
	if err != nil {
		return fmt.Errorf("%w\nthe daemon's log ends with:\n%s", err, b.Tail(tailLines))
	}
	return nil
}

// unequal finds the two cards, the one with more memory first.
func unequal(ctx context.Context, library string, out io.Writer) ([]gpu.Card, error) {
	monitor := gpu.NewMonitor(gpu.Options{LibraryPath: library})
	if err := monitor.Start(ctx); err != nil {
		return nil, err
	}
	defer func() { _ = monitor.Stop(ctx) }()
	found := monitor.Snapshot()
	if found.Err != "" {
		return nil, fmt.Errorf("NVML finds no GPU: %s. Run this on the reference box of .docs/HOME_PROFILE_TARGET.md, with the driver loaded: "+
			"`nvidia-smi` must list its GPUs. `go run ./ci/smoke -stub` does the same on stand-ins", found.Err)
	}
	for _, c := range found.Cards {
		fmt.Fprintf(out, "GPU %d: %s, %d MiB, %d MiB free, driver %s, CUDA %s\n", c.Index, c.Name, c.Total>>20, c.Free>>20, found.Driver, found.CUDA)
	}
	cards := slices.Clone(found.Cards)
	slices.SortStableFunc(cards, func(a, b gpu.Card) int { return int((b.Total - a.Total) >> 20) })
	if len(cards) < 2 || cards[0].Total == cards[len(cards)-1].Total {
		return nil, errors.New("the reference box has two GPUs of unequal memory (24 GB and 12 GB); this machine has not")
	}
	cards = []gpu.Card{cards[0], cards[len(cards)-1]}
	for _, c := range cards {
		if !c.Healthy {
			return nil, fmt.Errorf("GPU %d is not healthy: %s", c.Index, c.Problem)
		}
	}
	return cards, nil
}

func writeConfig(path string, cards []gpu.Card) error {
	model, err := filepath.Abs(filepath.Join("models", "haiku", "haiku.gguf"))
	if err != nil {
		return fmt.Errorf("find the bundled model: %w", err)
	}
	var text strings.Builder
	text.WriteString("pools:\n")
	for i, name := range []string{"large", "small"} {
		fmt.Fprintf(&text, "  - {id: %s, model: {id: %[1]s, ref: \"file:%s\"}, device: [%d], ctx: 256}\n", name, model, cards[i].Index)
	}
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		return fmt.Errorf("write the configuration: %w", err)
	}
	return nil
}
