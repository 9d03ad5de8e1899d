// SPDX-License-Identifier: GPL-3.0-or-later

package sqlite

import (
	"context"
	"encoding/json"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/llama-orch/llama-orch/service/record/bundle"
	"github.com/llama-orch/llama-orch/service/record/ledger/ledgertest"
	"github.com/llama-orch/llama-orch/service/task"
)

// The commit that ends a task records what its bundle is, and the record gives that bundle from then on, whatever is
// configured later.
// OC-CTRL-2067
func TestTheEndRecordsTheBundle(t *testing.T) {
	l := open(t, Options{Bundles: &bundle.Keep{Prompts: true, Transcripts: true}})
	var seq uint64
	for _, state := range []task.State{task.Completed, task.Failed, task.StateCanceled} {
		full := ledgertest.Full(state)
		for _, r := range []task.Record{full, ended(sample(1), state), ended(sample(1), state, "a", "<é>\u2028")} {
			seq++
			r.Task.Seq, r.Task.ID, r.Proof = seq, id(seq), task.Proof{}
			if r.End != nil {
				r.End.Result = json.RawMessage(`{"a": "<b> & \u2028"}`)
			}
			now := r
			now.Task.AcceptedAt, now.FinishedAt = r.Task.AcceptedAt.Add(321*time.Microsecond), r.FinishedAt.Add(654*time.Microsecond)
			if seq%2 == 0 {
				require.NoError(t, l.Accept(t.Context(), now.Task))
			}
			end(t, l, now)
			end(t, l, now)
			want, err := bundle.Prove(now, *l.o.Bundles)
			require.NoError(t, err)
			got := get(t, l, id(seq))
			require.Equal(t, want, got.Proof)
			_, err = bundle.Text(got)
			require.NoError(t, err, "as the ledger gives the record back")
		}
	}
	o := l.o
	o.Bundles = &bundle.Keep{}
	require.NoError(t, l.Close())
	l = open(t, o)
	require.True(t, get(t, l, id(1)).Proof.KeepsPrompt)
	end(t, l, ended(sample(100), task.Completed))
	require.False(t, get(t, l, id(100)).Proof.KeepsPrompt)
	report, err := l.Check(t.Context())
	require.NoError(t, err)
	require.Empty(t, report.Problems)

	_, err = l.w.conn.ExecContext(t.Context(), "UPDATE task SET last_event_id = '9-ffffffff' WHERE id = ?", id(100))
	require.NoError(t, err)
	report, err = l.Check(t.Context())
	require.NoError(t, err)
	require.Len(t, report.Problems, 1)
	require.Contains(t, report.Problems[0], "how it ended is not what was recorded")
}

// What is to be done before tasks are forgotten is done before, and they stay while it fails. Nobody else waits for it.
// OC-CTRL-2067, LO-202
func TestNothingIsForgottenBeforeItIsKept(t *testing.T) {
	var c clock
	var failing atomic.Bool
	failing.Store(true)
	kept, hold := make(chan []task.Record), make(chan struct{})
	l := open(t, Options{RetainAge: time.Hour, Now: c.now, BeforeForgetting: func(ctx context.Context, records []task.Record) error {
		if failing.Load() {
			return errors.New("the disk is full")
		}
		kept <- records
		select {
		case <-hold:
		case <-ctx.Done():
		}
		return ctx.Err()
	}})
	done := []task.Record{ended(sample(1), task.Completed, "a"), ended(sample(2), task.Failed)}
	end(t, l, done...)
	accept(t, l, 3)
	c.advance(2 * time.Hour)
	sweep(t, l)
	parted(t, l)
	require.Equal(t, done[0], get(t, l, id(1)), "it could not be kept")

	failing.Store(false)
	sweep(t, l)
	require.Equal(t, done, <-kept)
	accept(t, l, 4) // while that takes its time
	require.Equal(t, done[0], get(t, l, id(1)))
	close(hold)
	parted(t, l)
	settle(t, l)
	for _, r := range done {
		_, ok, err := l.Get(t.Context(), r.Task.ID)
		require.NoError(t, err)
		require.False(t, ok)
	}
	require.Equal(t, []string{id(3), id(4)}, live(t, l))

	// A stop does not wait for it, and the next start takes it up.
	late := ended(sample(5), task.Completed)
	end(t, l, late)
	hold = make(chan struct{})
	sweep(t, l)
	require.Equal(t, []task.Record{late}, <-kept)
	require.NoError(t, l.Close())
	o := l.o
	o.BeforeForgetting = nil
	require.Equal(t, late, get(t, open(t, withoutSweeps(o)), id(5)))
}

func withoutSweeps(o Options) Options {
	o.RetainAge = 0
	return o
}

// LO-803: where what keeps something of old tasks panics, they stay, nobody waits for ever, and the next sweep takes them.
func TestNothingIsForgottenWhereTheKeepingPanics(t *testing.T) {
	var c clock
	var wrong atomic.Bool
	wrong.Store(true)
	core, logs := observer.New(zap.ErrorLevel)
	l := open(t, Options{RetainAge: time.Hour, Now: c.now, Log: zap.New(core), BeforeForgetting: func(context.Context, []task.Record) error {
		if wrong.Load() {
			panic("index out of range")
		}
		return nil
	}})
	done := []task.Record{ended(sample(1), task.Completed, "a"), ended(sample(2), task.Failed)}
	end(t, l, done...)
	c.advance(2 * time.Hour)
	sweep(t, l)
	parted(t, l)
	require.NotZero(t, logs.FilterMessageSnippet("keeping something of old tasks panicked").Len()) // more on a slow machine, whose sweeps come by themselves
	require.Equal(t, done[0], get(t, l, id(1)))
	require.NoError(t, l.Delete(t.Context(), id(2), c.now()), "no lock is held")
	wrong.Store(false)
	sweep(t, l)
	parted(t, l)
	settle(t, l)
	_, ok, err := l.Get(t.Context(), id(1))
	require.NoError(t, err)
	require.False(t, ok)
}
