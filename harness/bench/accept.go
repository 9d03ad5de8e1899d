// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/llama-orch/llama-orch/harness/watch"
)

// admission is the result of one round of submits.
type admission struct {
	rate, perCommit float64
	p50, p99        time.Duration
	cpu             time.Duration // of the daemon, for each task
	fsync           time.Duration // of 4 KiB on the same disk, median
}

// accepts measures durable admission through the API. Each client submits its next task when it has the 202 of the one before. One task holds the
// pool's only slot, so that the others are only accepted, recorded and queued.
func (l *lab) accepts() (err error) {
	data := filepath.Join(l.disk, "accept")
	d, err := l.serve("acceptor", l.exe, data, narrow(l.stub))
	if err != nil {
		return err
	}
	defer d.Kill() // nobody waits for a long queue
	if _, err := l.answers(d, "/readyz"); err != nil {
		return err
	}
	w := newWay("daemon", d.url(), d, asTask)
	if _, err := w.submit(l.ctx, prompted("hold")); err != nil {
		return err
	}
	rounds, window := 3, 1500*time.Millisecond
	if l.quick {
		rounds, window = 1, 700*time.Millisecond
	}
	levels := []int{1, 16, 256}
	results := make([][]admission, len(levels))
	for range rounds {
		for i, clients := range levels {
			a, err := l.admit(w, clients, window, data)
			if err != nil {
				return fmt.Errorf("%d clients: %w", clients, err)
			}
			results[i] = append(results[i], a)
		}
	}
	fmt.Fprintf(l.out, "\n### Durable admission through the API\n\n%d rounds; load average %s\n\n", rounds, loadAverage())
	fmt.Fprintln(l.out, "| clients | accepts/s | p50, ms | p99, ms | accepts a commit | CPU an accept, µs | fsync of the disk, ms |")
	fmt.Fprintln(l.out, "|---:|---:|---:|---:|---:|---:|---:|")
	for i, clients := range levels {
		column := func(f func(admission) float64) float64 {
			var values []float64
			for _, a := range results[i] {
				values = append(values, f(a))
			}
			return median(values)
		}
		fmt.Fprintf(l.out, "| %d | %.0f | %.2f | %.2f | %.1f | %.0f | %.2f |\n", clients,
			column(func(a admission) float64 { return a.rate }), column(func(a admission) float64 { return a.p50.Seconds() * 1e3 }),
			column(func(a admission) float64 { return a.p99.Seconds() * 1e3 }), column(func(a admission) float64 { return a.perCommit }),
			column(func(a admission) float64 { return a.cpu.Seconds() * 1e6 }), column(func(a admission) float64 { return a.fsync.Seconds() * 1e3 }))
	}
	return nil
}

func (l *lab) admit(w *way, clients int, window time.Duration, data string) (a admission, err error) {
	if a.fsync, err = fsyncCost(data); err != nil {
		return a, err
	}
	before, err := counters(w.proc)
	if err != nil {
		return a, err
	}
	ctx, cancel := context.WithTimeoutCause(l.ctx, watch.Patience, fmt.Errorf("a round took longer than %s", watch.Patience))
	defer cancel()
	var (
		mu      sync.Mutex
		took    []time.Duration
		failure error
		running sync.WaitGroup
		cpu     = w.proc.cpu()
		began   = time.Now()
	)
	for range clients {
		running.Go(func() {
			var own []time.Duration
			var err error
			for err == nil && time.Since(began) < window {
				asked := time.Now()
				_, err = w.submit(ctx, prompted("rate=0 tokens=1"))
				own = append(own, time.Since(asked))
			}
			mu.Lock()
			defer mu.Unlock()
			took, failure = append(took, own...), errors.Join(failure, err)
		})
	}
	running.Wait()
	elapsed := time.Since(began)
	if failure != nil {
		return a, failure
	}
	after, err := counters(w.proc)
	if err != nil {
		return a, err
	}
	if n := after.accepts - before.accepts; int(n) != len(took) {
		return a, fmt.Errorf("%d tasks were accepted, and %.0f recorded", len(took), n)
	}
	a.rate = float64(len(took)) / elapsed.Seconds()
	a.perCommit = float64(len(took)) / (after.commits - before.commits)
	a.cpu = (w.proc.cpu() - cpu) / time.Duration(len(took))
	a.p50, a.p99 = percentile(took, 50), percentile(took, 99)
	return a, nil
}

type counts struct{ accepts, commits float64 }

func counters(d *child) (c counts, err error) {
	if c.accepts, err = series(d, "llorch_ledger_ops_total", "accept"); err != nil {
		return c, err
	}
	c.commits, err = series(d, "llorch_ledger_commits_total", "")
	return c, err
}

// fsyncCost returns how long the disk below a folder takes to make 4 KiB durable.
func fsyncCost(dir string) (time.Duration, error) {
	f, err := os.CreateTemp(dir, "fsync-")
	if err != nil {
		return 0, fmt.Errorf("measure the disk: %w", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	var took []time.Duration
	page := make([]byte, 4096)
	for range 50 {
		if _, err := f.Write(page); err != nil {
			return 0, fmt.Errorf("measure the disk: %w", err)
		}
		begun := time.Now()
		if err := f.Sync(); err != nil {
			return 0, fmt.Errorf("measure the disk: %w", err)
		}
		took = append(took, time.Since(begun))
	}
	return percentile(took, 50), nil
}
