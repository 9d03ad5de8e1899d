// SPDX-License-Identifier: GPL-3.0-or-later

package sqlite

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

// populate gives every field below v a value of its own.
func populate(v reflect.Value, n *int) {
	*n++
	switch v.Kind() {
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(epoch.Add(time.Duration(*n) * time.Millisecond)))
			return
		}
		for _, field := range v.Fields() {
			populate(field, n)
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		populate(v.Elem(), n)
	case reflect.Slice:
		if v.Type() == reflect.TypeFor[json.RawMessage]() {
			v.SetBytes(fmt.Appendf(nil, `{"n":%d}`, *n))
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fallthrough
	case reflect.Array:
		for i := range v.Len() {
			populate(v.Index(i), n)
		}
	case reflect.String:
		v.SetString(fmt.Sprintf("<%d> \u2028\x00&", *n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(*n))
	case reflect.Uint8, reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(*n % 251))
	case reflect.Float64:
		v.SetFloat(float64(*n) + 0.1)
	case reflect.Interface: // a low-level cause, which is for the log
	default:
		panic("populate: " + v.Type().String())
	}
}

// full is a record with every field set, but those that exclude each other.
func full(state task.State) task.Record {
	var r task.Record
	n := 0
	populate(reflect.ValueOf(&r).Elem(), &n)
	r.State, r.Transcript = state, task.Transcript{Text: "a\x00ü" + strings.Repeat("x", 300), Ends: []int{2, 2, 4, 304}}
	if state == task.Completed {
		r.Err = nil
	} else {
		r.End = nil
	}
	r.Task.Session, r.Charge = nil, nil // they are kept in tables of their own
	return r
}

// What is recorded comes back, field for field: one that is added to task.Record and forgotten here shows up.
// LO-202
func TestEveryFieldIsKept(t *testing.T) {
	for _, state := range []task.State{task.Completed, task.Failed, task.StateCanceled} {
		l := open(t, Options{})
		want := full(state)
		require.NoError(t, l.Accept(t.Context(), want.Task))
		require.NoError(t, l.Dispatch(t.Context(), task.Dispatch{ID: want.Task.ID, ReplicaID: want.ReplicaID, Fingerprint: want.Fingerprint, At: want.StartedAt}))
		l.Checkpoint(want.Task.ID, want.Checkpoint)
		settle(t, l)

		running := task.Record{
			Task: want.Task, State: task.Running, ReplicaID: want.ReplicaID, Fingerprint: want.Fingerprint,
			Checkpoint: want.Checkpoint, StartedAt: want.StartedAt,
		}
		require.Equal(t, running, get(t, l, want.Task.ID))
		l = reopen(t, l)
		left, err := l.Live(t.Context())
		require.NoError(t, err)
		require.Equal(t, []task.Record{running}, left)

		end(t, l, want)
		require.Equal(t, want, get(t, l, want.Task.ID))
		l = reopen(t, l)
		require.Equal(t, want, get(t, l, want.Task.ID))
		listed, err := l.List(t.Context(), "", 10)
		require.NoError(t, err)
		want.Transcript.Text = ""
		require.Equal(t, []task.Record{want}, listed)
	}
}

// LO-202
func TestLittleIsKeptToo(t *testing.T) {
	l := open(t, Options{})
	r := task.Record{Task: task.Task{ID: "x", Seq: 1, AcceptedAt: epoch}, State: task.Failed, FinishedAt: epoch, Err: &task.Error{Code: task.Internal}}
	require.NoError(t, l.Accept(t.Context(), r.Task))
	require.Equal(t, task.Record{Task: r.Task, State: task.Queued}, get(t, l, "x"))
	end(t, l, r)
	require.Equal(t, r, get(t, l, "x"))
	_, ok, err := l.Get(t.Context(), "y")
	require.NoError(t, err)
	require.False(t, ok)
}

// LO-202
func TestLiveTasksComeBackInOrder(t *testing.T) {
	l := open(t, Options{})
	accept(t, l, 7, 3, 5, 1, 9, 2)
	for _, seq := range []uint64{9, 2, 5} {
		require.NoError(t, l.Dispatch(t.Context(), dispatched(sample(seq))))
	}
	end(t, l, ended(sample(2), task.Completed, "done"))
	require.Equal(t, []string{id(9), id(5), id(1), id(3), id(7)}, live(t, l))
	l = reopen(t, l)
	require.Equal(t, []string{id(9), id(5), id(1), id(3), id(7)}, live(t, l))

	// The next process starts one more, and one of the old ones moves to another replica: it keeps its place.
	require.NoError(t, l.Dispatch(t.Context(), dispatched(sample(3))))
	moved := dispatched(sample(9))
	moved.ReplicaID = "default-1"
	require.NoError(t, l.Dispatch(t.Context(), moved))
	require.Equal(t, []string{id(9), id(5), id(3), id(1), id(7)}, live(t, l))
	require.Equal(t, "default-1", get(t, l, id(9)).ReplicaID)
}

// LO-202
func TestSequenceNumbersAreNotUsedAgain(t *testing.T) {
	var c clock
	l := open(t, Options{RetainAge: time.Hour, Now: c.now})
	require.Equal(t, uint64(1), next(t, l))
	require.Equal(t, uint64(2), next(t, l))
	accept(t, l, 4)
	require.Equal(t, uint64(5), next(t, l))
	end(t, l, ended(sample(4), task.Completed))
	require.NoError(t, l.Close())
	c.advance(3 * time.Hour)
	l = open(t, l.o)
	sweep(t, l)
	_, ok, err := l.Get(t.Context(), id(4))
	require.NoError(t, err)
	require.False(t, ok)
	require.Equal(t, uint64(5), next(t, reopen(t, l)))
}

// Whoever is not sure whether an operation was recorded may repeat it; nothing gets a second outcome.
// LO-202, LO-101
func TestOperationsMayBeRepeated(t *testing.T) {
	l := open(t, Options{})
	accept(t, l, 1, 1)
	require.Equal(t, []string{id(1)}, live(t, l))
	other := sample(1)
	other.ID = "other"
	require.ErrorIs(t, l.Accept(t.Context(), other), ErrTaken)
	other = sample(1)
	other.Seq = 2
	require.ErrorIs(t, l.Accept(t.Context(), other), ErrTaken)

	done := ended(sample(1), task.Completed, "a", "b")
	end(t, l, done, done)
	accept(t, l, 1)
	require.Equal(t, done, get(t, l, id(1)))
	require.ErrorIs(t, l.Finish(t.Context(), ended(sample(1), task.StateCanceled, "a")), ErrEnded)
	require.ErrorIs(t, l.Dispatch(t.Context(), dispatched(sample(1))), ErrEnded)
	require.ErrorIs(t, l.Dispatch(t.Context(), dispatched(sample(8))), ErrUnknown)
	require.Equal(t, done, get(t, l, id(1)))

	// A task may be dropped from a full queue before its accept is through.
	dropped := ended(sample(9), task.Failed)
	dropped.ReplicaID, dropped.Fingerprint, dropped.StartedAt = "", "", time.Time{}
	end(t, l, dropped)
	accept(t, l, 9)
	require.Equal(t, dropped, get(t, l, id(9)))
	require.Empty(t, live(t, l))
	require.Equal(t, uint64(10), next(t, l))
}

// LO-202
func TestNonsenseIsRefused(t *testing.T) {
	l := open(t, Options{})
	require.ErrorContains(t, l.Accept(t.Context(), task.Task{ID: "x"}), "sequence number")
	require.ErrorContains(t, l.Accept(t.Context(), task.Task{Seq: 1}), "id")
	require.ErrorContains(t, l.Accept(t.Context(), task.Task{Seq: 1, ID: "x"}), "time")
	require.ErrorContains(t, l.Finish(t.Context(), task.Record{Task: sample(1), State: task.Running, FinishedAt: epoch}), "outcome")
	require.ErrorContains(t, l.Finish(t.Context(), task.Record{Task: sample(1), State: task.Failed}), "outcome")
	require.Empty(t, live(t, l))
	require.NoError(t, l.Close())
	require.NoError(t, l.Close())
	require.ErrorIs(t, l.Accept(t.Context(), sample(1)), ErrClosed)
	l.Checkpoint(id(1), task.Checkpoint{Event: 1})
}

// LO-202
func TestCheckpointsDoNotGoBack(t *testing.T) {
	l := open(t, Options{})
	accept(t, l, 1, 2)
	mark := func(event int) task.Checkpoint { return task.Checkpoint{Event: event, Sum: [32]byte{byte(event)}} }
	l.Checkpoint(id(1), mark(5))
	l.Checkpoint(id(1), mark(9))
	l.Checkpoint(id(1), mark(7))
	l.Checkpoint(id(3), mark(1)) // of nobody
	settle(t, l)
	require.Equal(t, mark(9), get(t, l, id(1)).Checkpoint)
	l.Checkpoint(id(1), mark(8)) // as a recovered task does, which is decoded from the start
	settle(t, l)
	require.Equal(t, mark(9), get(t, l, id(1)).Checkpoint)
	l.Checkpoint(id(1), mark(10))
	require.Equal(t, mark(10), get(t, reopen(t, l), id(1)).Checkpoint) // closing writes what waits
}

// A checkpoint that nobody else's commit takes along is written all the same, and an idle ledger sets no timer.
// LO-202
func TestLoneCheckpointIsWrittenSoon(t *testing.T) {
	path := file(t)
	synctest.Test(t, func(t *testing.T) {
		l, err := Open(Options{Path: path})
		require.NoError(t, err)
		accept(t, l, 1)
		for event := range 20 {
			l.Checkpoint(id(1), task.Checkpoint{Event: event + 1})
		}
		commits := testutil.ToFloat64(l.metrics.commits)
		time.Sleep(2 * checkpointEvery)
		synctest.Wait()
		require.Equal(t, 20, get(t, l, id(1)).Checkpoint.Event)
		require.InDelta(t, 1, testutil.ToFloat64(l.metrics.commits)-commits, 0)
		require.NoError(t, l.Close())
	})
}

// LO-202
func TestListIsNewestFirst(t *testing.T) {
	l := open(t, Options{})
	accept(t, l, 1, 2, 3, 4, 5)
	late := ended(sample(1), task.Failed, "x")
	late.FinishedAt = epoch.Add(time.Hour)
	end(t, l, ended(sample(4), task.Completed, "a", "b"), ended(sample(2), task.StateCanceled), late)
	list := func(state task.State, limit int) []string {
		found, err := l.List(t.Context(), state, limit)
		require.NoError(t, err)
		return ids(found)
	}
	require.Equal(t, []string{id(1), id(4), id(2)}, list("", 10))
	require.Equal(t, []string{id(1), id(4)}, list("", 2))
	require.Equal(t, []string{id(4)}, list(task.Completed, 10))
	require.Empty(t, list(task.Queued, 10))
	require.Empty(t, list("", 0))
	found, err := l.List(t.Context(), "", 10)
	require.NoError(t, err)
	require.Equal(t, 1, found[0].Status().TokensOut)
	require.Equal(t, 2, found[1].Status().TokensOut)
}

// many calls do for 1…n at the same time, and waits for all.
func many(t *testing.T, n uint64, do func(seq uint64) error) {
	t.Helper()
	failed := make(chan error, n)
	for seq := range n {
		go func() { failed <- do(seq + 1) }()
	}
	for range n {
		require.NoError(t, <-failed)
	}
}

// until returns once something is so. The lock is held while it is looked at.
func until(l *SQLite, so func() bool) {
	for {
		l.mu.Lock()
		is := so()
		l.mu.Unlock()
		if is {
			return
		}
		runtime.Gosched()
	}
}

// Many accepts share a commit, and so the wait for the disk.
// LO-202
func TestConcurrentAcceptsShareCommits(t *testing.T) {
	l := open(t, Options{})
	const n = 256
	many(t, n, func(seq uint64) error { return l.Accept(t.Context(), sample(seq)) })
	commits := testutil.ToFloat64(l.metrics.commits)
	t.Logf("%d accepts in %g commits", n, commits)
	require.Less(t, commits, float64(n))
	require.InDelta(t, n, testutil.ToFloat64(l.metrics.ops.WithLabelValues("accept")), 0)
	require.Len(t, live(t, l), n)

	// What waits while the writer is busy goes into one commit.
	hold, held := make(chan struct{}), make(chan struct{})
	busy := make(chan error, 1)
	go func() {
		busy <- l.submit(context.Background(), &op{kind: opAccept, run: func(*writer) error { close(held); <-hold; return nil }})
	}()
	<-held
	before := testutil.ToFloat64(l.metrics.commits)
	var waiting []chan error
	for seq := uint64(n + 1); seq <= n+64; seq++ {
		answer := make(chan error, 1)
		waiting = append(waiting, answer)
		go func() { answer <- l.Accept(t.Context(), sample(seq)) }()
	}
	until(l, func() bool { return len(l.queue) == 64 })
	close(hold)
	require.NoError(t, <-busy)
	for _, answer := range waiting {
		require.NoError(t, <-answer)
	}
	require.InDelta(t, 2, testutil.ToFloat64(l.metrics.commits)-before, 0)
}

// A caller that gives up before the writer has begun leaves nothing behind; later it gets the truth.
// LO-202
func TestGivingUpIsClean(t *testing.T) {
	l := open(t, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	gone, leave := context.WithCancel(t.Context())
	busy := make(chan error, 1)
	held, hold := make(chan struct{}), make(chan struct{})
	go func() {
		busy <- l.submit(ctx, &op{kind: opAccept, run: func(*writer) error { close(held); <-hold; return nil }})
	}()
	<-held
	cancel()
	leave()
	require.ErrorIs(t, l.Accept(gone, sample(1)), context.Canceled)
	close(hold)
	require.NoError(t, <-busy)
	settle(t, l)
	_, ok, err := l.Get(t.Context(), id(1))
	require.NoError(t, err)
	require.False(t, ok)
}

// LO-202
func TestCloseWritesWhatWaits(t *testing.T) {
	l := open(t, Options{})
	held, hold := make(chan struct{}), make(chan struct{})
	answers := make(chan error, 11)
	go func() {
		answers <- l.submit(context.Background(), &op{kind: opAccept, run: func(*writer) error { close(held); <-hold; return nil }})
	}()
	<-held
	for seq := range uint64(10) {
		go func() { answers <- l.Accept(context.Background(), sample(seq+1)) }()
	}
	until(l, func() bool { return len(l.queue) == 10 })
	closed := make(chan error, 1)
	go func() { closed <- l.Close() }()
	until(l, func() bool { return l.closed })
	close(hold)
	for range 11 {
		require.NoError(t, <-answers)
	}
	require.NoError(t, <-closed)
	require.Len(t, live(t, open(t, l.o)), 10)
}

// ORCH-3028
func TestMetricsAreThoseOfTheContract(t *testing.T) {
	registry := prometheus.NewRegistry()
	l := open(t, Options{Registerer: registry})
	accept(t, l, 1)
	require.NoError(t, l.Dispatch(t.Context(), dispatched(sample(1))))
	l.Checkpoint(id(1), task.Checkpoint{Event: 3})
	end(t, l, ended(sample(1), task.Completed, "x"))
	families, err := registry.Gather()
	require.NoError(t, err)
	var names []string
	for _, f := range families {
		names = append(names, f.GetName())
		require.NotEmpty(t, f.GetHelp())
	}
	require.Equal(t, []string{
		"llorch_ledger_batch_size", "llorch_ledger_bytes", "llorch_ledger_commit_ms", "llorch_ledger_commits_total",
		"llorch_ledger_errors_total", "llorch_ledger_ops_total",
	}, names)
	require.Greater(t, l.bytes(), 4096.0)
	require.NoError(t, l.Close())
	families, err = registry.Gather()
	require.NoError(t, err)
	require.Empty(t, families)
}
