// SPDX-License-Identifier: GPL-3.0-or-later

package postgres

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/llama-orch/llama-orch/harness/cert"
	server "github.com/llama-orch/llama-orch/harness/postgres"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/llama-orch/llama-orch/service/task"
)

func emptyBatch() *pgx.Batch { return &pgx.Batch{} }

func faultOf(t *testing.T, err error) Fault {
	t.Helper()
	e, ok := errors.AsType[*Error](err)
	require.True(t, ok, "%v", err)
	require.NotEmpty(t, e.What)
	require.NotEmpty(t, e.Remedy)
	return e.Fault
}

// LO-708: a version that changes the schema does not do so under others, and an earlier one leaves it alone.
func TestSchemasOfOtherVersions(t *testing.T) {
	o := options()
	l := open(t, o)
	require.NoError(t, l.Accept(t.Context(), sample(1)))
	later := o
	later.Owner, later.steps = "later", append(append([]string{}, steps...), `ALTER TABLE task ADD COLUMN later int`)
	_, err := Open(later)
	require.Equal(t, Beside, faultOf(t, err))
	require.ErrorContains(t, err, "others use it now: me")
	require.NoError(t, l.Close())
	next := open(t, later)
	_, err = Open(o)
	require.Equal(t, TooNew, faultOf(t, err))
	_, err = OpenReader(t.Context(), o)
	require.Equal(t, TooNew, faultOf(t, err))
	c, err := next.Claim(t.Context(), task.Host{ID: "later"})
	require.NoError(t, err)
	require.Equal(t, []string{id(1)}, ids(c.Tasks))

	strange := options()
	require.NoError(t, db.Exec(t.Context(), `CREATE SCHEMA `+quoted(strange.Schema)))
	require.NoError(t, db.Exec(t.Context(), `CREATE TABLE `+quoted(strange.Schema)+`.recipe (id int)`))
	_, err = Open(strange)
	require.Equal(t, Foreign, faultOf(t, err))
	missing := options()
	_, err = OpenReader(t.Context(), missing)
	require.Equal(t, NotThere, faultOf(t, err))
}

// LO-703: a user that may not make a schema is told what to run.
func TestAUserWithoutRights(t *testing.T) {
	require.NoError(t, db.Exec(t.Context(), `CREATE ROLE weak LOGIN`))
	o := options()
	o.DSN += " user=weak"
	_, err := Open(o)
	require.Equal(t, Denied, faultOf(t, err))
	require.ErrorContains(t, err, "GRANT CREATE")
}

// LO-703: off this machine there is TLS or nothing.
func TestTLSOffThisMachine(t *testing.T) {
	for dsn, want := range map[string]Fault{
		"host=db.example sslmode=disable":             Plain,
		"host=127.0.0.1,db.example sslmode=disable":   Plain,
		"host=db.example sslmode=prefer":              "",
		"host=db.example sslmode=allow":               "",
		"host=db.example sslmode=verify-full":         "",
		"host=/run/postgresql sslmode=disable":        "",
		"host=::1 sslmode=disable":                    "",
		"postgres://localhost:5432/x?sslmode=disable": "",
		"": Unread,
	} {
		o := Options{DSN: dsn}.filled()
		c, err := o.config()
		if want != "" {
			require.Equal(t, want, faultOf(t, err), dsn)
			continue
		}
		require.NoError(t, err, dsn)
		if c.ConnConfig.Host == "db.example" {
			require.NotNil(t, c.ConnConfig.TLSConfig, dsn)
			for _, f := range c.ConnConfig.Fallbacks {
				require.NotNil(t, f.TLSConfig, dsn)
			}
		}
	}
}

// LO-703: with TLS the server's certificate is checked, and the tasks go through it.
func TestTLS(t *testing.T) {
	t.Parallel()
	s, err := server.New()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	root, err := s.TLS()
	require.NoError(t, err)
	o := options()
	plain := s.TCP(s.Port)
	o.DSN = strings.Replace(plain, "sslmode=disable", "sslmode=verify-full&sslrootcert="+root, 1)
	l := open(t, o)
	require.NoError(t, l.Accept(t.Context(), sample(1)))
	require.Equal(t, 1, l.count(t, `SELECT count(*) FROM pg_stat_ssl WHERE pid = pg_backend_pid() AND ssl`))
	require.NoError(t, l.Close())
	other := t.TempDir()
	wrong, _, err := cert.Write(other, "another")
	require.NoError(t, err)
	o.DSN, o.Lease = strings.Replace(plain, "sslmode=disable", "sslmode=verify-full&sslrootcert="+wrong, 1), time.Millisecond
	_, err = Open(o)
	require.Equal(t, Away, faultOf(t, err))
	require.ErrorContains(t, err, "certificate")
}

// LO-703: as many connections as were said, and no more.
func TestThePoolIsBounded(t *testing.T) {
	o := options()
	o.Connections = 3
	o.DSN += " application_name=ignored"
	l := open(t, o)
	require.NoError(t, l.Accept(t.Context(), sample(1)))
	many(t, 40, func(uint64) error {
		_, _, err := l.Get(t.Context(), id(1))
		return err
	})
	require.LessOrEqual(t, l.db.Stat().TotalConns(), int32(2))
	require.Equal(t, int32(2), l.db.Config().MaxConns)
}

// LO-706: what can lose what it has acknowledged is refused.
func TestAnUnsafeDatabaseIsRefused(t *testing.T) {
	set := func(text string) { require.NoError(t, db.Exec(context.Background(), text)) }
	reload := func() {
		set(`SELECT pg_reload_conf()`)
	}
	t.Cleanup(func() {
		set(`ALTER SYSTEM RESET ALL`)
		set(`ALTER ROLE postgres RESET ALL`)
		reload()
		require.Eventually(t, func() bool {
			l, err := Open(options())
			return err == nil && l.Close() == nil
		}, time.Minute, 10*time.Millisecond)
	})
	set(`ALTER ROLE postgres SET synchronous_commit = off`)
	_, err := Open(options())
	require.Equal(t, Unsafe, faultOf(t, err))
	require.ErrorContains(t, err, "synchronous_commit")
	set(`ALTER ROLE postgres RESET synchronous_commit`)
	set(`ALTER SYSTEM SET fsync = off`)
	reload()
	require.Eventually(t, func() bool {
		l, failed := Open(options())
		if err = failed; err == nil {
			require.NoError(t, l.Close())
		}
		return err != nil
	}, time.Minute, 10*time.Millisecond)
	require.Equal(t, Unsafe, faultOf(t, err))
	require.ErrorContains(t, err, "fsync")
}

// LO-709, LO-701: what is deleted is in no table, and old tasks go by their age and by what they take.
func TestOldTasksGo(t *testing.T) {
	logs, seen := observer.New(zapcore.WarnLevel)
	o := options()
	o.Log, o.RetainBytes = zap.New(logs), 20_000
	l := open(t, o)
	for seq := uint64(1); seq <= 40; seq++ {
		s := sample(seq)
		s.Prompt = string(make([]byte, 400))
		require.NoError(t, l.Accept(t.Context(), s))
		if seq%4 != 0 {
			r := finished(s, "secret text")
			require.NoError(t, l.Finish(t.Context(), r))
		}
	}
	require.NoError(t, l.Delete(t.Context(), id(39), epoch))
	require.Zero(t, l.count(t, `SELECT count(*) FROM transcript WHERE seq = 39`))
	for more := true; more; {
		var err error
		more, err = l.sweepStep(t.Context(), time.Time{})
		require.NoError(t, err)
	}
	kept := l.count(t, `SELECT count(*) FROM task WHERE finished_ms IS NOT NULL`)
	require.Less(t, kept, 30)
	require.LessOrEqual(t, l.count(t, `SELECT sum(bytes)::int FROM task`), 60_000)
	require.Equal(t, 10, l.count(t, `SELECT count(*) FROM task WHERE finished_ms IS NULL`), "live tasks stay")
	require.Empty(t, seen.All())
	l.look(t.Context())
	require.Positive(t, l.size.Load())
}
