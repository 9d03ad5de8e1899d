// SPDX-License-Identifier: GPL-3.0-or-later

package postgres

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	server "github.com/llama-orch/llama-orch/harness/postgres"
	"github.com/llama-orch/llama-orch/service/record/ledger"
	"github.com/llama-orch/llama-orch/service/record/ledger/ledgertest"
	"github.com/llama-orch/llama-orch/service/task"
)

// db is the PostgreSQL of all tests. Each has a schema of its own.
var db *server.Server

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if db, err = server.New(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer db.Close()
		code := m.Run()
		if err := goleak.Find(goleak.IgnoreAnyFunction("github.com/llama-orch/llama-orch/harness/postgres.(*Server).launch.func1")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return code
	}())
}

var epoch = ledgertest.Epoch

var schemas atomic.Int64

// options are those of a ledger in a schema of its own.
func options() Options {
	return Options{DSN: db.Local(), Schema: fmt.Sprintf("test %d", schemas.Add(1)), Owner: "me", Lease: time.Minute, Now: func() time.Time { return epoch }}
}

func open(t testing.TB, o Options) *Ledger {
	t.Helper()
	l, err := Open(o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	return l
}

// query runs a statement in a ledger's schema.
func (l *Ledger) exec(t testing.TB, text string, args ...any) {
	t.Helper()
	_, err := l.db.Exec(context.Background(), text, args...)
	require.NoError(t, err)
}

func (l *Ledger) count(t testing.TB, text string) (n int) {
	t.Helper()
	require.NoError(t, l.db.QueryRow(context.Background(), text).Scan(&n))
	return n
}

// settle returns once the writer has done all that it was given, also what only was noted.
func settle(t testing.TB, l *Ledger) {
	t.Helper()
	l.mu.Lock()
	l.notes.Ripen()
	l.mu.Unlock()
	require.NoError(t, l.submit(t.Context(), &op{kind: opProbe, free: true, run: func(context.Context, *transaction) error { return nil }}))
}

// lapse lets the lease end, as that of a daemon that hangs does.
func lapse(t testing.TB, l *Ledger) {
	t.Helper()
	l.mute.Store(true)
	l.exec(t, `UPDATE claim SET until = clock_timestamp() - interval '1 second' WHERE fence = $1`, l.fence.Load())
}

func opened(t testing.TB, l *Ledger) ledgertest.Opened {
	return ledgertest.Opened{
		Ledger: l, Settle: func() { settle(t, l) }, Lapse: func() { lapse(t, l) },
		Second: func() (ledger.Ledger, error) {
			o := l.o
			o.Owner, o.Registerer = "another", nil
			return open(t, o), nil
		},
		Crash: func() (ledgertest.Opened, error) {
			lapse(t, l)
			o := l.o
			o.Registerer = nil
			return opened(t, open(t, o)), nil
		},
		Reopen: func() (ledgertest.Opened, error) {
			if err := l.Close(); err != nil {
				return ledgertest.Opened{}, err
			}
			return opened(t, open(t, l.o)), nil
		},
		Sweep: func(oldest time.Time) {
			for more := true; more; {
				var err error
				more, err = l.sweepStep(t.Context(), oldest)
				require.NoError(t, err)
			}
		},
	}
}

func sample(seq uint64) task.Task { return ledgertest.Sample(seq) }

func id(seq uint64) string { return ledgertest.ID(seq) }

func dispatched(t task.Task) task.Dispatch { return ledgertest.Dispatched(t) }

func finished(t task.Task, tokens ...string) task.Record {
	return ledgertest.Ended(t, task.Completed, tokens...)
}

func ids(found []task.Record) []string {
	out := []string{}
	for _, r := range found {
		out = append(out, r.Task.ID)
	}
	return out
}

// The promises of package ledger.
// LO-701, LO-702, LO-883
func TestPostgreSQLKeepsThePromises(t *testing.T) {
	ledgertest.Run(t, func(t testing.TB) ledgertest.Opened { return opened(t, open(t, options())) })
}
