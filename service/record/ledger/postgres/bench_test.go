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

func accepts(b *testing.B, l ledger.Ledger, clients int) {
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
				if err := l.Accept(context.Background(), sample(n)); err != nil {
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
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "accepts/s")
}
