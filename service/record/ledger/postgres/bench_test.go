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
	"golang.org/x/sync/errgroup"

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

// BenchmarkSharedAccept is durable admission by several daemons on one database, each with 64 clients.
func BenchmarkSharedAccept(b *testing.B) {
	for _, daemons := range []int{1, 2, 4} {
		b.Run(fmt.Sprintf("daemons=%d", daemons), func(b *testing.B) {
			o := options()
			var all []*Ledger
			for n := range daemons {
				o.Owner, o.Registerer = fmt.Sprint("daemon ", n), prometheus.NewRegistry()
				all = append(all, open(b, o))
			}
			var turn atomic.Uint64
			drive(b, 64*daemons, func(uint64) error {
				l := all[turn.Add(1)%uint64(daemons)]
				seq, err := l.NextSeq()
				if err != nil {
					return err
				}
				return l.Accept(context.Background(), sample(seq))
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "accepts/s")
			commits := 0.0
			for _, l := range all {
				commits += testutil.ToFloat64(l.metrics.Commits)
			}
			b.ReportMetric(float64(b.N)/commits, "accepts/commit")
		})
	}
}

// BenchmarkTakeOver is the claim of a daemon that takes the queue of one that has gone, with 10,000 tasks in it.
func BenchmarkTakeOver(b *testing.B) {
	const tasks = 10_000
	for b.Loop() {
		b.StopTimer()
		o := options()
		o.Owner = "gone"
		gone := open(b, o)
		pool := task.Host{ID: "gone", Pools: []task.HostPool{{ID: sample(1).PoolID, Holds: true}}}
		_, err := gone.Claim(b.Context(), pool)
		require.NoError(b, err)
		fill(b, gone, tasks)
		lapse(b, gone)
		o.Owner, pool.ID = "next", "next"
		next := open(b, o)
		b.StartTimer()
		c, err := next.Claim(b.Context(), pool)
		require.NoError(b, err)
		require.Len(b, c.Tasks, tasks)
	}
}

// fill has a ledger accept so many tasks.
func fill(b *testing.B, l *Ledger, tasks int) {
	var all errgroup.Group
	all.SetLimit(256)
	for range tasks {
		all.Go(func() error {
			seq, err := l.NextSeq()
			if err != nil {
				return err
			}
			return l.Accept(b.Context(), sample(seq))
		})
	}
	require.NoError(b, all.Wait())
}

// BenchmarkRenewal is what a daemon asks of the database four times in each lease, and BenchmarkLook what it asks eight times, beside so many others.
func BenchmarkRenewal(b *testing.B) {
	l := open(b, options())
	for b.Loop() {
		require.NoError(b, l.submit(b.Context(), l.renewal()))
	}
}

// BenchmarkLook reads who is there. See BenchmarkRenewal.
func BenchmarkLook(b *testing.B) {
	for _, hosts := range []int{3, 30, 300, 1000} {
		b.Run(fmt.Sprintf("hosts=%d", hosts), func(b *testing.B) {
			l := open(b, options())
			l.exec(b, `INSERT INTO host (id, name, address, version, since, seen) SELECT 'h' || n, 'host ' || n, 'http://127.0.0.1:1', '1', clock_timestamp(), clock_timestamp() FROM generate_series(1, $1::int) n`, hosts)
			l.exec(b, `INSERT INTO claim (owner, schema, since, until) SELECT 'h' || n, $2, clock_timestamp(), clock_timestamp() + interval '1 hour' FROM generate_series(1, $1::int) n`, hosts, len(l.o.steps))
			l.exec(b, `INSERT INTO host_pool (host, pool, about) SELECT 'h' || n, convert_to('p' || n || '-' || m, 'UTF8'), '{}' FROM generate_series(1, $1::int) n, generate_series(1, 2) m`, hosts)
			for b.Loop() {
				found, err := l.Hosts(b.Context())
				require.NoError(b, err)
				require.GreaterOrEqual(b, len(found), hosts)
			}
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
