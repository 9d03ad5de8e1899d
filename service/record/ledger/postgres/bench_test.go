// SPDX-License-Identifier: GPL-3.0-or-later

package postgres

import (
	"context"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/record/ledger"
	"github.com/llama-orch/llama-orch/service/record/ledger/sqlite"
	"github.com/llama-orch/llama-orch/service/task"
)

// BenchmarkAccept is durable admission on both ledgers, in one run: each client sends its next task when the one before is on the disk.
func BenchmarkAccept(b *testing.B) {
	for _, clients := range []int{1, 16, 256} {
		b.Run(fmt.Sprintf("sqlite/clients=%d", clients), func(b *testing.B) {
			r := prometheus.NewRegistry()
			l, err := sqlite.Open(sqlite.Options{Path: filepath.Join(b.TempDir(), sqlite.FileName), Registerer: r})
			require.NoError(b, err)
			defer func() { require.NoError(b, l.Close()) }()
			accepts(b, l, clients)
		})
		b.Run(fmt.Sprintf("postgres/clients=%d", clients), func(b *testing.B) {
			l := open(b, options())
			accepts(b, l, clients)
			b.ReportMetric(float64(b.N)/testutil.ToFloat64(l.metrics.Commits), "accepts/commit")
		})
	}
}

// BenchmarkLife is a short task's whole record on both ledgers: an accept with its start, and an end with its charge.
func BenchmarkLife(b *testing.B) {
	const clients = 256
	b.Run("sqlite", func(b *testing.B) {
		l, err := sqlite.Open(sqlite.Options{Path: filepath.Join(b.TempDir(), sqlite.FileName)})
		require.NoError(b, err)
		defer func() { require.NoError(b, l.Close()) }()
		lives(b, l, clients)
	})
	b.Run("postgres", func(b *testing.B) {
		l := open(b, options())
		lives(b, l, clients)
		b.ReportMetric(2*float64(b.N)/testutil.ToFloat64(l.metrics.Commits), "ops/commit")
	})
}

func lives(b *testing.B, l ledger.Ledger, clients int) {
	drive(b, clients, func(uint64) error {
		seq, err := l.NextSeq()
		if err != nil {
			return err
		}
		r := finished(sample(seq), "a few ", "words")
		r.Charge = &task.Charge{Account: "me", Window: epoch, Amount: task.Amount{Tokens: 5}}
		if err := l.AcceptRunning(context.Background(), r.Task, dispatched(r.Task)); err != nil {
			return err
		}
		return l.Finish(context.Background(), r)
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tasks/s")
}

func accepts(b *testing.B, l ledger.Ledger, clients int) {
	drive(b, clients, func(uint64) error {
		seq, err := l.NextSeq()
		if err != nil {
			return err
		}
		return l.Accept(context.Background(), sample(seq))
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "accepts/s")
}

// drive has so many clients do something for each number, one after the other.
func drive(b *testing.B, clients int, do func(seq uint64) error) {
	done := make(chan error, clients)
	var seq atomic.Uint64
	b.ReportAllocs()
	b.ResetTimer()
	for range clients {
		go func() {
			for {
				n := seq.Add(1)
				if n > uint64(b.N) {
					done <- nil
					return
				}
				if err := do(n); err != nil {
					done <- err
					return
				}
			}
		}()
	}
	for range clients {
		require.NoError(b, <-done)
	}
	b.StopTimer()
}
