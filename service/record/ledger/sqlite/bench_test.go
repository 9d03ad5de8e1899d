// SPDX-License-Identifier: GPL-3.0-or-later

package sqlite

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/llama-orch/llama-orch/service/record/ledger/entry"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

// fsyncCost is the median of what the disk below a folder takes to make 4 KiB durable, in milliseconds.
func fsyncCost(b *testing.B, dir string) float64 {
	b.Helper()
	f, err := os.Create(filepath.Join(dir, "fsync"))
	require.NoError(b, err)
	defer f.Close() // only measured
	var took []time.Duration
	page := make([]byte, 4096)
	for range 100 {
		_, err := f.Write(page)
		require.NoError(b, err)
		begun := time.Now()
		require.NoError(b, f.Sync())
		took = append(took, time.Since(begun))
	}
	return percentile(took, 50)
}

func percentile(took []time.Duration, p int) float64 {
	slices.Sort(took)
	return float64(took[(len(took)-1)*p/100]) / float64(time.Millisecond)
}

// BenchmarkAccept is durable admission: each client sends its next task when the one before is on the disk. The cost of an
// fsync on the same disk is measured beside it.
func BenchmarkAccept(b *testing.B) {
	for _, clients := range []int{1, 16, 256} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			l := open(b, Options{})
			fsync := fsyncCost(b, filepath.Dir(l.o.Path))
			took := make([][]time.Duration, clients)
			done := make(chan error, clients)
			var seq atomic.Uint64
			b.ReportAllocs()
			b.ResetTimer()
			for client := range clients {
				go func() {
					for {
						n := seq.Add(1)
						if n > uint64(b.N) {
							done <- nil
							return
						}
						begun := time.Now()
						if err := l.Accept(context.Background(), sample(n)); err != nil {
							done <- err
							return
						}
						took[client] = append(took[client], time.Since(begun))
					}
				}()
			}
			for range clients {
				require.NoError(b, <-done)
			}
			b.StopTimer()
			all := slices.Concat(took...)
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "accepts/s")
			b.ReportMetric(percentile(all, 50), "p50-ms")
			b.ReportMetric(percentile(all, 99), "p99-ms")
			b.ReportMetric(float64(b.N)/testutil.ToFloat64(l.metrics.Commits), "accepts/commit")
			b.ReportMetric(fsync, "fsync-ms")
		})
	}
}

// BenchmarkOpen is what a start has to read of a ledger with 100,000 finished and 10,000 queued tasks.
func BenchmarkOpen(b *testing.B) {
	const finished, queued = 100_000, 10_000
	l := open(b, Options{offhand: true})
	var batch []*op
	for seq := uint64(1); seq <= finished+queued; seq++ {
		t := sample(seq)
		run := func(w *writer) error { return w.accept(t, nil, func() ([]byte, error) { return entry.EncodeTask(t) }) }
		if seq%11 != 0 {
			r := ended(t, task.Completed, "Autumn ", "moonlight", "—", "\n", "a worm digs ", "silently", "\n", "into the chestnut.")
			outcome, err := entry.EncodeOutcome(r)
			require.NoError(b, err)
			run = func(w *writer) error { return w.finish(r, outcome, nil) }
		}
		batch = append(batch, &op{kind: opAccept, run: run, seq: seq})
		if len(batch) == 5000 {
			require.NoError(b, l.submit(b.Context(), &op{kind: opAccept, run: func(w *writer) error {
				for _, o := range batch {
					if err := o.run(w); err != nil {
						return err
					}
				}
				return nil
			}}))
			batch = batch[:0]
		}
	}
	require.NoError(b, l.Close())
	o := l.o
	o.offhand = false
	for b.Loop() {
		l, err := Open(o)
		require.NoError(b, err)
		found, err := l.Live(b.Context())
		require.NoError(b, err)
		require.Len(b, found, queued)
		b.StopTimer()
		b.ReportMetric(l.bytes()/(1<<20), "MB")
		require.NoError(b, l.Close())
		b.StartTimer()
	}
}

// BenchmarkGet reads one finished task of many.
func BenchmarkGet(b *testing.B) {
	l := open(b, Options{offhand: true})
	for seq := uint64(1); seq <= 2000; seq++ {
		require.NoError(b, l.Finish(b.Context(), ended(sample(seq), task.Completed, "a few ", "words")))
	}
	n := uint64(0)
	for b.Loop() {
		n = n%2000 + 1
		if _, ok, err := l.Get(b.Context(), id(n)); !ok || err != nil {
			b.Fatal(ok, err)
		}
	}
}
