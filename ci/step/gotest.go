// SPDX-License-Identifier: GPL-3.0-or-later

package step

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/llama-orch/llama-orch/ci/command"
	"github.com/llama-orch/llama-orch/ci/tally"
)

// GoTest runs `go test -json` with the given arguments and adds its tests to the tally. Without what debuggers need, a program is linked in half the time.
func GoTest(ctx context.Context, t *tally.Tally, args ...string) error {
	cmd := command.New(ctx, "go", append([]string{"test", "-json", "-timeout", "20m", "-ldflags=-w"}, args...)...)
	cmd.Stdout = nil
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("starting go test: %w", err)
	}
	events, closeEvents, err := keepEvents(ctx, pipe)
	if err != nil {
		return err
	}
	defer closeEvents()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting go test: %w", err)
	}
	own := tally.New() // others may run beside it
	readErr := own.Read(events, os.Stdout)
	t.Add(own)
	if readErr != nil {
		_, _ = io.Copy(io.Discard, pipe)
	}
	waitErr := cmd.Wait()
	_, failed, _ := own.Counts()
	switch {
	case readErr != nil:
		return readErr
	case waitErr == nil:
		return nil
	case failed > 0:
		return errTests
	default: // it broke before any test could
		return fmt.Errorf("go test %s: %w", strings.Join(args, " "), waitErr)
	}
}

// GoTestReported runs a suite that writes a report, and prints the report. variable tells the suite where to write it.
func GoTestReported(ctx context.Context, t *tally.Tally, variable string, args ...string) error {
	dir, err := os.MkdirTemp("", "llama-orch-report-")
	if err != nil {
		return fmt.Errorf("making a folder for the suite's report: %w", err)
	}
	defer os.RemoveAll(dir)
	report := filepath.Join(dir, "report.txt")
	tested := GoTest(command.Setting(ctx, variable+"="+report), t, args...)
	if lines, err := os.ReadFile(report); err == nil { // there is none when the suite could not begin
		fmt.Print(string(lines))
	}
	return tested
}

// eventsKey is where a context names the folder that keeps the events of the tests.
type eventsKey struct{}

// KeepingEvents is a context whose steps leave the events of their tests in a folder, in one file a step.
func KeepingEvents(ctx context.Context, dir string) context.Context {
	return context.WithValue(ctx, eventsKey{}, dir)
}

func keepEvents(ctx context.Context, events io.Reader) (_ io.Reader, done func(), err error) {
	dir, kept := ctx.Value(eventsKey{}).(string)
	if !kept {
		return events, func() {}, nil
	}
	target, _ := ctx.Value(targetKey{}).(string)
	file, err := os.Create(filepath.Join(dir, strings.ReplaceAll(target, ":", "-")+".jsonl"))
	if err != nil {
		return nil, nil, fmt.Errorf("keeping the test events: %w", err)
	}
	return io.TeeReader(events, file), func() { _ = file.Close() }, nil
}
