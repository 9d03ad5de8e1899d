// SPDX-License-Identifier: GPL-3.0-or-later

package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/llama-orch/llama-orch/service/record/ledger/entry"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/record/ledger"
	"github.com/llama-orch/llama-orch/service/task"
)

func large(seq uint64, kib int) task.Task {
	s := sample(seq)
	s.Prompt = strings.Repeat("x", kib<<10)
	return s
}

// A full disk refuses what doesn't fit and nothing else; what was accepted stays, and once there is room the same calls
// succeed, without a restart.
// LO-202
func TestFullDiskRefusesAndRecovers(t *testing.T) {
	var c clock
	l := open(t, Options{MaxPages: 256, RetainAge: time.Hour, Now: c.now})
	accepted := []string{}
	var refused task.Task
	for seq := uint64(1); refused.ID == ""; seq++ {
		s := large(seq, 64)
		if err := l.Accept(t.Context(), s); err == nil {
			accepted = append(accepted, s.ID)
		} else {
			require.ErrorIs(t, err, ledger.ErrUnavailable)
			require.ErrorContains(t, err, "full")
			refused = s
		}
		require.Less(t, seq, uint64(100))
	}
	require.NotEmpty(t, accepted)
	require.Equal(t, accepted, live(t, l))
	require.InDelta(t, 1, testutil.ToFloat64(l.metrics.Errors), 0)

	// An outcome may not fit either. Its caller can try again.
	first := ended(large(1, 64), task.Completed, strings.Repeat("y", 200<<10))
	err := l.Finish(t.Context(), first)
	require.ErrorIs(t, err, ledger.ErrUnavailable)
	require.Equal(t, accepted, live(t, l))
	small := ended(large(2, 64), task.Completed, "y")
	end(t, l, small)

	c.advance(2 * time.Hour) // the small one goes, and its task's prompt with it
	sweep(t, l)
	require.Equal(t, append([]string{accepted[0]}, accepted[2:]...), live(t, l))
	require.NoError(t, l.Accept(t.Context(), refused))
	require.Contains(t, live(t, l), refused.ID)
	require.ErrorIs(t, l.Finish(t.Context(), first), ledger.ErrUnavailable)
	second := ended(large(3, 64), task.Completed, "y")
	second.FinishedAt = epoch
	end(t, l, second)
	for _, seq := range []uint64{4, 5, 6} {
		r := ended(large(seq, 64), task.Failed)
		r.FinishedAt = epoch
		end(t, l, r)
	}
	sweep(t, l)
	first.FinishedAt = c.now()
	end(t, l, first)
	l = reopen(t, l)
	require.Equal(t, first.Transcript, get(t, l, id(1)).Transcript)
}

// Of those that share a commit, only the one that doesn't fit fails.
// LO-202
func TestOneThatDoesNotFitFailsAlone(t *testing.T) {
	l := open(t, Options{MaxPages: 300})
	held, hold := make(chan struct{}), make(chan struct{})
	busy := make(chan error, 1)
	go func() {
		busy <- l.submit(context.Background(), &op{kind: opAccept, run: func(*writer) error { close(held); <-hold; return nil }})
	}()
	<-held
	const n = 21
	answers := make([]chan error, n)
	for i := range answers {
		s := sample(uint64(i + 1))
		if i == 13 {
			s = large(uint64(i+1), 4<<10)
		}
		answers[i] = make(chan error, 1)
		go func() { answers[i] <- l.Accept(context.Background(), s) }()
	}
	until(l, func() bool { return len(l.queue) == n })
	close(hold)
	require.NoError(t, <-busy)
	for i, answer := range answers {
		if err := <-answer; i == 13 {
			require.ErrorIs(t, err, ledger.ErrUnavailable)
		} else {
			require.NoError(t, err)
		}
	}
	require.Len(t, live(t, l), n-1)
	require.InDelta(t, 1, testutil.ToFloat64(l.metrics.Errors), 0)
}

// An operation that fails on its way leaves nothing behind, and the next one finds a clean table.
// LO-202
func TestHalfAnOperationIsUndone(t *testing.T) {
	l := open(t, Options{})
	broken := errors.New("broken")
	err := l.submit(t.Context(), &op{kind: opAccept, run: func(w *writer) error {
		return errors.Join(w.accept(sample(1), nil, func() ([]byte, error) { return entry.EncodeTask(sample(1)) }), broken)
	}})
	require.ErrorIs(t, err, ledger.ErrUnavailable)
	require.ErrorIs(t, err, broken)
	accept(t, l, 2)
	require.Equal(t, []string{id(2)}, live(t, l))
	require.Equal(t, uint64(3), next(t, l))
}

// The file belongs to somebody else for a while: operations fail together, after one wait, and succeed again later.
// LO-202
func TestLockedFileRecovers(t *testing.T) {
	l := open(t, Options{})
	db, err := sql.Open("sqlite", dsn(l.o.Path))
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	other, err := db.Conn(t.Context())
	require.NoError(t, err)
	defer func() { require.NoError(t, other.Close()) }()
	_, err = l.w.conn.ExecContext(t.Context(), "PRAGMA busy_timeout = 1")
	require.NoError(t, err)
	_, err = other.ExecContext(t.Context(), "BEGIN IMMEDIATE")
	require.NoError(t, err)
	require.ErrorIs(t, l.Accept(t.Context(), sample(1)), ledger.ErrUnavailable)
	_, err = other.ExecContext(t.Context(), "ROLLBACK")
	require.NoError(t, err)
	accept(t, l, 1)

	// A start that was noted is kept, although the task's outcome, which would make it needless, cannot be recorded.
	accept(t, l, 2)
	_, err = other.ExecContext(t.Context(), "BEGIN IMMEDIATE")
	require.NoError(t, err)
	l.Started(dispatched(sample(2)))
	require.ErrorIs(t, l.Finish(t.Context(), ended(sample(2), task.Completed, "a")), ledger.ErrUnavailable)
	_, err = other.ExecContext(t.Context(), "ROLLBACK")
	require.NoError(t, err)
	settle(t, l)
	require.Equal(t, []string{id(2), id(1)}, live(t, l))
	require.Equal(t, dispatched(sample(2)).Fingerprint, get(t, l, id(2)).Fingerprint)
	end(t, l, ended(sample(2), task.Completed, "a"))
}

// LO-202
func TestRetentionByAge(t *testing.T) {
	var c clock
	l := open(t, Options{RetainAge: time.Hour, Now: c.now, offhand: true})
	for seq := uint64(1); seq <= 300; seq++ {
		accept(t, l, seq)
		r := ended(sample(seq), task.Completed, "text")
		r.FinishedAt = epoch.Add(time.Duration(seq) * time.Second)
		if seq%3 != 0 {
			end(t, l, r)
		}
	}
	require.NoError(t, l.Dispatch(t.Context(), dispatched(sample(3))))
	c.advance(time.Hour + 200*time.Second)
	sweep(t, l)
	found, err := l.List(t.Context(), "", 1000)
	require.NoError(t, err)
	require.Len(t, found, 67)
	require.Equal(t, id(200), found[len(found)-1].Task.ID, "as old as the limit, not older")
	require.Len(t, live(t, l), 100, "live tasks stay, however old")
	require.Equal(t, 67, pages(t, l).texts)

	c.advance(24 * time.Hour) // a daemon that was down for long sweeps when it starts
	require.NoError(t, l.Close())
	l = open(t, l.o)
	sweep(t, l)
	require.Equal(t, 100, pages(t, l).tasks)
	require.Zero(t, pages(t, l).texts)
}

// LO-202
func TestRetentionByBytes(t *testing.T) {
	const most = 4 << 20
	l := open(t, Options{RetainBytes: most, offhand: true})
	for seq := uint64(1); seq <= 10; seq++ {
		require.NoError(t, l.Accept(t.Context(), large(seq, 32)))
	}
	for seq := uint64(11); seq <= 400; seq++ {
		s := large(seq, 32)
		require.NoError(t, l.Accept(t.Context(), s))
		end(t, l, ended(s, task.Completed, strings.Repeat("y", 32<<10)))
	}
	sweep(t, l)
	c := pages(t, l)
	require.LessOrEqual(t, (c.pages-c.free)*4096, most)
	require.Greater(t, (c.pages-c.free)*4096, most/2, "no more than has to go goes")
	require.LessOrEqual(t, c.free, sweepSpare, "the file shrinks")
	require.Len(t, live(t, l), 10)
	found, err := l.List(t.Context(), "", 1000)
	require.NoError(t, err)
	require.Equal(t, id(400), found[0].Task.ID)
	require.Equal(t, fmt.Sprintf("task-%d", 400-len(found)+1), found[len(found)-1].Task.ID)
	l = reopen(t, l)
	require.Less(t, l.bytes(), float64(most+(2<<20)))

	// What is live may take more: it stays, and so does nothing else.
	for seq := uint64(401); seq <= 600; seq++ {
		require.NoError(t, l.Accept(t.Context(), large(seq, 32)))
	}
	sweep(t, l)
	require.Len(t, live(t, l), 210)
	require.Equal(t, 210, pages(t, l).tasks)
}

// A ledger that is used sweeps by itself, between the commits.
// LO-202
func TestSweepsComeByThemselves(t *testing.T) {
	l := open(t, Options{RetainBytes: 2 << 20, offhand: true})
	for seq := uint64(1); seq <= 400; seq++ {
		s := large(seq, 16)
		require.NoError(t, l.Accept(t.Context(), s))
		end(t, l, ended(s, task.Completed, "x"))
	}
	c := pages(t, l)
	require.Less(t, c.tasks, 300)
	require.Less(t, (c.pages-c.free)*4096, 5<<20)
}

// LO-841: whether an accept could be recorded is known without one. While nobody asks for a task, a small commit tells.
func TestAProbeTellsWhetherTheLedgerCanWrite(t *testing.T) {
	l := open(t, Options{})
	require.NoError(t, l.Writable(t.Context()), "nothing was written yet")
	db, err := sql.Open("sqlite", dsn(l.o.Path))
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	other, err := db.Conn(t.Context())
	require.NoError(t, err)
	defer func() { require.NoError(t, other.Close()) }()
	_, err = l.w.conn.ExecContext(t.Context(), "PRAGMA busy_timeout = 1")
	require.NoError(t, err)
	_, err = other.ExecContext(t.Context(), "BEGIN IMMEDIATE")
	require.NoError(t, err)
	require.NoError(t, l.Writable(t.Context()), "the last commit is not old")
	require.ErrorIs(t, l.Accept(t.Context(), sample(1)), ledger.ErrUnavailable)
	require.ErrorIs(t, l.Writable(t.Context()), ledger.ErrUnavailable, "it failed, so the next one is tried")
	_, err = other.ExecContext(t.Context(), "ROLLBACK")
	require.NoError(t, err)
	require.NoError(t, l.Writable(t.Context()), "it writes again, and nobody had to send a task")
	require.InDelta(t, 2, testutil.ToFloat64(l.metrics.Ops.WithLabelValues("probe")), 0)
}
