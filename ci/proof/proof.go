// SPDX-License-Identifier: GPL-3.0-or-later

// Package proof has the target that keeps what a run of the whole check saw.
package proof

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/llama-orch/llama-orch/ci/command"
	"github.com/llama-orch/llama-orch/ci/gate"
	"github.com/llama-orch/llama-orch/ci/mutate"
	"github.com/llama-orch/llama-orch/ci/soak"
	"github.com/llama-orch/llama-orch/ci/step"
	"github.com/llama-orch/llama-orch/ci/tally"
)

// soakFor is how many minutes it soaks.
const soakFor = 10

// Proof runs what `test` runs, then a sample of the mutants (LO-854) and a short soak (LO-880), and leaves a folder under build/proof with what it saw: the output, every test's events, the
// daemons' logs, the streams, metrics, pacts, and the table of requirements.
func Proof(ctx context.Context) error {
	dir, err := filepath.Abs(filepath.Join("build", "proof", time.Now().UTC().Format("20060102T150405Z")))
	if err != nil {
		return fmt.Errorf("naming the proof's folder: %w", err)
	}
	for _, part := range []string{"tests", "pacts"} {
		if err := os.MkdirAll(filepath.Join(dir, part), 0o755); err != nil {
			return fmt.Errorf("making the proof's folder: %w", err)
		}
	}
	untee, err := teeOutput(filepath.Join(dir, "output.log"))
	if err != nil {
		return err
	}
	t, err := gate.Run(step.KeepingEvents(command.Setting(ctx, "LLORCH_PROOF_DIR="+dir), filepath.Join(dir, "tests")))
	if err == nil {
		if bad := (mutate.Mutants{}).Sample(ctx); bad != nil {
			fmt.Println("\nmutants:", bad)
			t.Fail("step mutants")
		}
		if bad := soak.Into(soakFor, filepath.Join(dir, "soak"))(ctx); bad != nil {
			fmt.Println("\nsoak:", bad)
			t.Fail("step soak")
		}
		err = describe(ctx, dir, t)
	}
	fmt.Println("\nproof:", dir)
	untee()
	return step.Finish(t, err)
}

// describe adds to the proof what was tested, how it ended, and the committed pacts and tables that it was held against.
func describe(ctx context.Context, dir string, t *tally.Tally) error {
	commit, err := command.Git(ctx, "rev-parse", "HEAD")
	if err != nil {
		return err
	}
	changed, err := command.Git(ctx, "status", "--short")
	if err != nil {
		return err
	}
	version, err := command.Output(ctx, "go", "version")
	if err != nil {
		return err
	}
	requirements, err := gate.Requirements()
	if err != nil {
		return err
	}
	summary := fmt.Sprintf("commit  %s\ngo      %s\n", commit, version)
	if changed != "" {
		summary += "changed since the commit:\n" + changed + "\n"
	}
	if failed := t.Failed(); len(failed) > 0 {
		summary += "failed:\n" + strings.Join(failed, "\n") + "\n"
	}
	files := map[string]string{"summary.txt": summary + t.Line() + "\n", "stages.md": requirements.StageTable()}
	committed, err := filepath.Glob("contracts/pacts/*.json")
	if err != nil {
		return fmt.Errorf("listing the pacts: %w", err)
	}
	for _, from := range append(committed, ".docs/testing/spec-derived-test-catalog.md") {
		content, err := os.ReadFile(from)
		if err != nil {
			return fmt.Errorf("copying into the proof: %w", err)
		}
		to := filepath.Base(from)
		if strings.HasSuffix(from, ".json") {
			to = filepath.Join("pacts", to)
		}
		files[to] = string(content)
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			return fmt.Errorf("writing the proof: %w", err)
		}
	}
	return nil
}

// teeOutput copies what this process and its children print from now on to a file, until untee.
func teeOutput(path string) (untee func(), err error) {
	file, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("making the proof's log: %w", err)
	}
	read, write, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("making the proof's log: %w", err)
	}
	stdout, stderr := os.Stdout, os.Stderr
	done := make(chan struct{})
	go func() { // joined by untee
		defer close(done)
		_, _ = io.Copy(io.MultiWriter(stdout, file), read)
	}()
	os.Stdout, os.Stderr = write, write
	return func() {
		os.Stdout, os.Stderr = stdout, stderr
		_ = write.Close()
		select {
		case <-done:
		case <-time.After(5 * time.Second): // something that outlived its step holds the pipe
		}
		_ = file.Close()
	}, nil
}
