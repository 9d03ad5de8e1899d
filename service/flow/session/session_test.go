// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/llama-orch/llama-orch/service/lifecycle"
	"github.com/llama-orch/llama-orch/service/task"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var _ lifecycle.Service = (*Manager)(nil)

// account is what a session said when it opened one.
type account struct {
	budget, spent task.Amount
	ends          time.Time
}

// world is the ledger, the accounts and the engines around a manager, and its clock.
type world struct {
	t       testing.TB
	m       *Manager
	o       Options
	now     time.Time
	kept    map[string]task.Session
	open    map[string]account // that sessions have opened
	full    bool
	slots   map[cell]Slot
	erased  []cell
	created int
}

func open(t testing.TB, change ...func(*Options)) *world {
	w := &world{
		t: t, now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), kept: map[string]task.Session{}, slots: map[cell]Slot{},
	}
	w.o = Options{
		TTL: 10 * time.Minute, MaxTurns: 3, Max: 4, Budget: task.Amount{Tokens: 1000},
		Accounts: w, Ledger: w, Engines: w, Log: zap.NewNop(), Now: func() time.Time { return w.now },
		NewID: func() string { w.created++; return fmt.Sprint("made-", w.created) },
	}
	for _, c := range change {
		c(&w.o)
	}
	w.restart()
	return w
}

// restart makes a manager of what is recorded.
func (w *world) restart() {
	w.open = map[string]account{}
	w.o.Metrics = NewMetrics(prometheus.NewRegistry())
	m, err := New(context.Background(), w.o)
	require.NoError(w.t, err)
	w.m = m
}

var errFull = errors.New("no space left on device")

func (w *world) KeepSession(_ context.Context, s task.Session) error {
	if w.full {
		return errFull
	}
	w.kept[s.ID] = s
	return nil
}

func (w *world) DropSessions(_ context.Context, sessions []task.Session) error {
	if w.full {
		return errFull
	}
	for _, s := range sessions {
		if w.kept[s.ID].CreatedAt.Equal(s.CreatedAt) {
			delete(w.kept, s.ID)
		}
	}
	return nil
}

func (w *world) Sessions(context.Context) (found []task.Session, _ error) {
	for _, s := range w.kept {
		found = append(found, s)
	}
	return found, nil
}

func (w *world) Open(id string, budget, spent task.Amount, ends time.Time) {
	require.NotContains(w.t, w.open, id)
	w.open[id] = account{budget, spent, ends}
}

func (w *world) Close(id string) {
	require.Contains(w.t, w.open, id)
	delete(w.open, id)
}

func (w *world) Rests(id, _ string) task.Budgets {
	return task.Budgets{Tokens: task.Rest[int64]{Left: w.open[id].budget.Tokens, Bounded: true}}
}

func (w *world) Slot(_ context.Context, replica string, slot int) (Slot, bool) {
	s, ok := w.slots[cell{replica, slot}]
	return s, ok
}

func (w *world) Erase(_ context.Context, replica string, slot, job int) error {
	if w.slots[cell{replica, slot}].Job == job {
		w.erased = append(w.erased, cell{replica, slot})
	}
	return nil
}

// turn is a best-effort task of a session.
func turn(id, session string) task.Task {
	return task.Task{ID: id, PoolID: "default", Determinism: task.BestEffort, Request: task.Request{SessionID: session, Actor: "me"}}
}

// admit takes a task, and has the ledger record its turn.
func (w *world) admit(t task.Task) (task.Task, error) {
	err := w.m.Admit(&t)
	if err == nil && t.Session != nil {
		w.kept[t.Session.ID] = *t.Session
	}
	return t, err
}

// end ends a task that ran.
func (w *world) end(t task.Task) {
	w.m.Settle(&task.Record{Task: t, State: task.Completed, ReplicaID: "default-0", StartedAt: w.now, FinishedAt: w.now})
}

func (w *world) get(id string) task.SessionStatus {
	s, err := w.m.Get(w.t.Context(), id, "me")
	require.NoError(w.t, err)
	return s
}

func (w *world) create(id string) {
	w.t.Helper()
	_, err := w.m.Create(w.t.Context(), task.SessionRequest{ID: id})
	require.NoError(w.t, err)
}

func code(err error) task.Code {
	if err == nil {
		return ""
	}
	return task.AsError(err).Code
}

// ORCH-3021
func TestSessionLivesForItsTimeAndTurns(t *testing.T) {
	w := open(t)
	_, err := w.m.Get(t.Context(), "s", "me")
	require.Equal(t, task.NotFound, code(err))

	first, err := w.admit(turn("t1", "s"))
	require.NoError(t, err)
	_, err = w.admit(turn("t2", "s"))
	require.Equal(t, task.Conflict, code(err), "turns run one after the other")
	require.ErrorContains(t, err, "t1")
	require.True(t, task.AsError(err).Retriable)
	require.Equal(t, task.Conflict, code(w.m.Delete(t.Context(), "s")))
	w.end(first)
	require.Equal(t, "default", w.m.Home("s"))

	for _, id := range []string{"t2", "t3"} {
		next, err := w.admit(turn(id, "s"))
		require.NoError(t, err)
		w.end(next)
	}
	_, err = w.admit(turn("t4", "s"))
	require.ErrorContains(t, err, "has had its 3 turns: begin another one under a new id")
	s := w.get("s")
	require.Equal(t, []any{3, 3, 10 * time.Minute, "default-0"}, []any{s.Turns, s.MaxTurns, s.TTLLeft, s.ReplicaID})

	require.NoError(t, w.m.Delete(t.Context(), "s"))
	require.Empty(t, w.kept)
	_, err = w.admit(turn("t5", "s"))
	require.NoError(t, err, "the id is free")
}

// ORCH-3021
func TestSessionEndsAndIsForgotten(t *testing.T) {
	w := open(t)
	long, err := w.admit(turn("t1", "long"))
	require.NoError(t, err)
	short, err := w.m.Create(t.Context(), task.SessionRequest{TTL: time.Minute, MaxTurns: 9})
	require.NoError(t, err)
	require.Equal(t, []any{"made-1", 9, time.Minute}, []any{short.ID, short.MaxTurns, short.TTLLeft})
	_, err = w.m.Create(t.Context(), task.SessionRequest{ID: "made-1"})
	require.Equal(t, task.Conflict, code(err))

	w.now = w.now.Add(time.Minute)
	_, err = w.admit(turn("t2", "made-1"))
	require.ErrorContains(t, err, "ended 0s ago, after its time of 1m0s")
	require.Zero(t, w.get("made-1").TTLLeft)
	w.m.Sweep(t.Context())
	require.Zero(t, w.get("made-1").TTLLeft, "it is shown for as long again")
	w.now = w.now.Add(time.Minute)
	w.full = true
	w.m.Sweep(t.Context())
	require.Contains(t, w.kept, "made-1")
	w.full = false
	w.m.Sweep(t.Context())
	require.NotContains(t, w.kept, "made-1", "what a full disk kept is dropped later")
	_, err = w.m.Get(t.Context(), "made-1", "me")
	require.Equal(t, task.NotFound, code(err))

	w.now = w.now.Add(time.Hour)
	w.m.Sweep(t.Context())
	require.Equal(t, 1, w.get("long").Turns, "a turn that is on keeps its session")
	w.end(long)
	w.m.Sweep(t.Context())
	require.Empty(t, w.kept)
}

// ORCH-3021
func TestSessionsAreBounded(t *testing.T) {
	w := open(t)
	var last task.Task
	for i := range 4 {
		var err error
		last, err = w.admit(turn(fmt.Sprint("t", i), fmt.Sprint("s", i)))
		require.NoError(t, err)
		w.now = w.now.Add(time.Second)
	}
	for name, begin := range map[string]func() error{
		"task":   func() error { _, err := w.admit(turn("more", "more")); return err },
		"create": func() error { _, err := w.m.Create(t.Context(), task.SessionRequest{ID: "more"}); return err },
	} {
		e := task.AsError(begin())
		require.Equal(t, task.AdmissionReject, e.Code, name)
		require.Equal(t, 10*time.Minute-4*time.Second, e.RetryAfter, "when the first one ends")
	}
	w.now = w.now.Add(10 * time.Minute)
	_, err := w.admit(turn("more", "more"))
	require.Equal(t, task.AdmissionReject, code(err), "all that have ended have a turn on")
	w.end(last)
	_, err = w.admit(turn("more", "more"))
	require.NoError(t, err)
	_, err = w.m.Get(t.Context(), "s3", "me")
	require.Equal(t, task.NotFound, code(err), "it was over, and made room")
	w.m.Sweep(t.Context())
	require.NotContains(t, w.kept, "s3")
	require.Equal(t, 4.0, w.m.count())
}

// A session that a task began, and that is idle, makes room for another: the one that has been idle for the longest, also after a restart. One
// that was created does not.
// ORCH-3021
func TestIdleSessionsMakeRoom(t *testing.T) {
	w := open(t, func(o *Options) { o.MaxTurns = 1000 })
	w.create("created")
	used := func(task, session string) {
		t.Helper()
		one, err := w.admit(turn(task, session))
		require.NoError(t, err)
		w.now = w.now.Add(time.Second)
		w.end(one)
	}
	gone := func(id string) {
		t.Helper()
		_, err := w.m.Get(t.Context(), id, "me")
		require.Equal(t, task.NotFound, code(err), id)
		require.NotContains(t, w.open, id, "its account is closed")
	}
	used("t1", "a")
	used("t2", "b")
	busy, err := w.admit(turn("t3", "busy"))
	require.NoError(t, err)
	used("t4", "a") // so b has been idle for longer
	used("t5", "c")
	gone("b")
	used("t6", "b")
	gone("a")
	w.m.Sweep(t.Context())
	require.NotContains(t, w.kept, "a")
	for i := range 100 { // a client that begins a session for each task
		used(fmt.Sprint("many-", i), fmt.Sprint("s", i))
	}
	w.get("created")
	w.get("busy")
	w.m.Sweep(t.Context())
	require.Len(t, w.kept, 4)

	w.end(busy)
	w.restart()
	used("t7", "after")
	gone("busy") // the oldest that a task began
	w.get("created")
	w.create("created-2")
	w.create("created-3")
	w.create("created-4")
	_, err = w.admit(turn("t8", "more"))
	require.Equal(t, task.AdmissionReject, code(err), "all that are there were created")
}

// A clock that was set back since a session was recorded, and a damaged row, do not let it live for longer than its TTL.
// LO-835
func TestASessionOfALaterClockIsBounded(t *testing.T) {
	w := open(t)
	one, err := w.admit(turn("t1", "s"))
	require.NoError(t, err)
	w.end(one)
	w.now = w.now.Add(-24 * time.Hour)
	w.restart()
	require.Equal(t, 10*time.Minute, w.get("s").TTLLeft)
	w.now = w.now.Add(10 * time.Minute)
	_, err = w.admit(turn("t2", "s"))
	require.Equal(t, task.Conflict, code(err))

	odd := w.kept["s"]
	odd.TTL, odd.Turns, odd.Spent = 1<<62, -5, task.Amount{Tokens: -1, Time: -1, Cost: -1}
	w.kept["s"] = odd
	w.restart()
	s := w.get("s")
	require.LessOrEqual(t, s.TTLLeft, 24*time.Hour)
	require.Zero(t, s.Turns)
	require.Equal(t, task.Amount{}, w.open["s"].spent)
}

// A task that is not accepted leaves no trace.
// ORCH-3021
func TestWithdrawnTaskLeavesNoTrace(t *testing.T) {
	w := open(t)
	one := turn("t1", "s")
	require.NoError(t, w.m.Admit(&one))
	w.m.Withdraw(&one)
	_, err := w.m.Get(t.Context(), "s", "me")
	require.Equal(t, task.NotFound, code(err))
	require.Empty(t, w.open)

	two, err := w.admit(turn("t2", "s"))
	require.NoError(t, err)
	w.end(two)
	three := turn("t3", "s")
	require.NoError(t, w.m.Admit(&three))
	w.m.Withdraw(&three)
	w.m.Withdraw(&three)
	require.Equal(t, 1, w.get("s").Turns)

	w.full = true
	_, err = w.m.Create(t.Context(), task.SessionRequest{ID: "unrecorded"})
	require.Equal(t, task.LedgerUnavailable, code(err))
	_, err = w.m.Get(t.Context(), "unrecorded", "me")
	require.Equal(t, task.NotFound, code(err))
}

// Only the task whose turn it is can end it.
// ORCH-3021
func TestATurnIsEndedByItsTask(t *testing.T) {
	w := open(t)
	one, err := w.admit(turn("t1", "s"))
	require.NoError(t, err)
	w.end(turn("t0", "s"))
	other := turn("t0", "s")
	w.m.Withdraw(&other)
	_, err = w.admit(turn("t2", "s"))
	require.ErrorContains(t, err, "t1")
	w.end(one)
	require.Equal(t, 1, w.get("s").Turns)
	require.NoError(t, w.m.Delete(t.Context(), "s"))
}

// A session has an account from its first turn, or its making, until it is forgotten.
// ORCH-3099
func TestSessionsHaveAccounts(t *testing.T) {
	w := open(t)
	one, err := w.admit(turn("t1", "s"))
	require.NoError(t, err)
	require.Equal(t, account{budget: task.Amount{Tokens: 1000}, ends: w.now.Add(10 * time.Minute)}, w.open["s"])
	require.Equal(t, int64(1000), w.get("s").Rests.Tokens.Left)
	made, err := w.m.Create(t.Context(), task.SessionRequest{Budget: task.Amount{Cost: 7}})
	require.NoError(t, err)
	require.Equal(t, task.Amount{Tokens: 1000, Cost: 7}, w.open[made.ID].budget)
	w.end(one)
	spent := w.kept["s"]
	spent.Spent.Tokens = 300
	w.kept["s"] = spent
	w.restart()
	require.Equal(t, int64(300), w.open["s"].spent.Tokens)
	require.NoError(t, w.m.Delete(t.Context(), "s"))
	w.now = w.now.Add(time.Hour)
	w.m.Sweep(t.Context())
	require.Empty(t, w.open)
}

// The session comes back after a restart with its turns and its time, and is cold.
// ORCH-3021, ORCH-3009
func TestSessionSurvivesARestart(t *testing.T) {
	w := open(t)
	one, err := w.admit(turn("t1", "s"))
	require.NoError(t, err)
	w.keep(one, 7, 0)
	w.end(one)
	require.True(t, w.get("s").Warm)
	two, err := w.admit(turn("t2", "s"))
	require.NoError(t, err)

	w.now = w.now.Add(time.Minute)
	w.restart()
	s := w.get("s")
	require.Equal(t, []any{2, "default-0", 9 * time.Minute, false}, []any{s.Turns, s.ReplicaID, s.TTLLeft, s.Warm})
	w.m.Recover(&two)
	_, err = w.admit(turn("t3", "s"))
	require.Equal(t, task.Conflict, code(err), "its turn is on")
	w.end(two)
	_, err = w.admit(turn("t3", "s"))
	require.NoError(t, err)
}

// ORCH-3021
func TestSweepsComeByThemselves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := open(t)
		_, err := w.m.Create(t.Context(), task.SessionRequest{ID: "s"})
		require.NoError(t, err)
		w.now = w.now.Add(time.Hour)
		require.NoError(t, w.m.Start(t.Context()))
		require.NoError(t, w.m.Start(t.Context()))
		time.Sleep(sweepEvery)
		synctest.Wait()
		require.Empty(t, w.kept)
		require.NoError(t, w.m.Stop(t.Context()))
		require.NoError(t, w.m.Stop(t.Context()))
		require.NoError(t, open(t).m.Stop(t.Context()), "it was not started")
	})
}

// keep says that a task has run on default-0 and left its KV there.
func (w *world) keep(t task.Task, job, cached int) {
	w.slots[cell{"default-0", 0}] = Slot{Job: job, Bytes: 4096}
	w.m.Began(t, "default-0", 1)
	w.m.Kept(t, "default-0", nil, task.KV{Job: job, Told: true, Cells: 50, Cached: cached})
}

// Warm is a session whose engine still holds what its last turn left there; nothing else is.
// ORCH-3009, ORCH-3022
func TestWarmthIsTheEngines(t *testing.T) {
	w := open(t, func(o *Options) { o.MaxTurns = 100 })
	run := func(id string, change func(*task.Task), after func(task.Task)) {
		one := turn(id, "s")
		if change != nil {
			change(&one)
		}
		one, err := w.admit(one)
		require.NoError(t, err)
		after(one)
		w.end(one)
	}
	lost := make(chan struct{})
	warm := func() { run("warm", nil, func(one task.Task) { w.keep(one, 7, 0) }) }
	for name, cools := range map[string]func(){
		"another's task in the slot":  func() { w.m.Began(turn("other", ""), "default-0", 1) },
		"a probe that nobody told of": func() { w.slots[cell{"default-0", 0}] = Slot{Job: 8} },
		"an engine that is gone":      func() { delete(w.slots, cell{"default-0", 0}) },
		"an engine that does not tell": func() {
			run("untold", nil, func(one task.Task) {
				w.m.Began(one, "default-0", 1)
				w.m.Kept(one, "default-0", nil, task.KV{Cells: 1})
			})
		},
		"a turn that broke off": func() { run("broken", nil, func(one task.Task) { w.m.Began(one, "default-0", 1) }) },
		"a worker that is lost": func() {
			run("lost", nil, func(one task.Task) {
				w.m.Kept(one, "default-0", lost, task.KV{Job: 7, Told: true})
				close(lost)
			})
		},
	} {
		warm()
		require.True(t, w.get("s").Warm, name)
		require.Equal(t, int64(4096), w.get("s").KVBytes)
		require.Equal(t, "default-0", w.m.Warm("s"))
		cools()
		require.False(t, w.get("s").Warm, name)
		require.Zero(t, w.get("s").KVBytes, name)
	}
	warm()
	require.Equal(t, map[string]int{"default-0": 50}, w.m.Cells())
	require.Empty(t, w.m.Warm(""))
	require.Empty(t, w.m.Warm("unknown"))
	run("again", nil, func(one task.Task) { w.keep(one, 9, 30) })
	require.Equal(t, 1.0, testutil.ToFloat64(w.o.Metrics.turns.WithLabelValues("warm")))
	run("strict", func(t *task.Task) { t.Determinism = task.Strict }, func(one task.Task) { w.keep(one, 10, 32) })
	require.True(t, w.get("s").Warm, "a strict turn leaves KV as well")
	require.Equal(t, 2.0, testutil.ToFloat64(w.o.Metrics.turns.WithLabelValues("warm")))
	require.NoError(t, w.m.Delete(t.Context(), "s"))
	require.Equal(t, []cell{{"default-0", 0}}, w.erased)
	require.Equal(t, task.NotFound, code(w.m.Delete(t.Context(), "s")))
}

// Of an engine with several slots, only the one that a session is in counts.
// ORCH-3009
func TestWarmthOfSeveralSlots(t *testing.T) {
	w := open(t)
	for i, id := range []string{"a", "b"} {
		one, err := w.admit(turn(id, id))
		require.NoError(t, err)
		w.m.Began(one, "default-0", 4)
		w.slots[cell{"default-0", i}] = Slot{Job: i}
		w.m.Kept(one, "default-0", nil, task.KV{Slot: i, Job: i, Told: true})
		w.end(one)
	}
	require.True(t, w.get("a").Warm)
	require.True(t, w.get("b").Warm)
	other := turn("other", "")
	w.m.Began(other, "default-0", 4)
	require.True(t, w.get("a").Warm, "nobody knows yet which slot that has")
	w.m.Kept(other, "default-0", nil, task.KV{Slot: 0})
	require.False(t, w.get("a").Warm)
	require.True(t, w.get("b").Warm)
}

// LO-803: a sweep that panics is made again.
func TestASweepThatPanickedIsMadeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var wrong atomic.Bool
		core, logs := observer.New(zap.ErrorLevel)
		w := open(t, func(o *Options) {
			o.Log, o.Now = zap.New(core), time.Now
			o.Ledger = wrongLedger{o.Ledger.(*world), &wrong}
		})
		_, err := w.m.Create(t.Context(), task.SessionRequest{ID: "s"})
		require.NoError(t, err)
		wrong.Store(true)
		require.NoError(t, w.m.Start(t.Context()))
		time.Sleep(2*w.o.TTL + sweepEvery)
		synctest.Wait()
		require.Equal(t, 1, logs.FilterMessageSnippet("the sweep of sessions panicked").Len())
		_, err = w.m.Create(t.Context(), task.SessionRequest{ID: "other"})
		require.NoError(t, err, "no lock is held")
		require.Panics(t, func() { _ = w.m.Delete(t.Context(), "other") })
		wrong.Store(false)
		require.NoError(t, w.m.Delete(t.Context(), "other"), "its turn was given back")
		time.Sleep(2 * sweepEvery)
		synctest.Wait()
		require.Empty(t, w.kept, "the next sweep had those that the panic left")
		require.NoError(t, w.m.Stop(t.Context()))
	})
}

// wrongLedger panics while it is wrong.
type wrongLedger struct {
	*world
	wrong *atomic.Bool
}

func (l wrongLedger) DropSessions(ctx context.Context, sessions []task.Session) error {
	if l.wrong.Load() {
		panic("index out of range")
	}
	return l.world.DropSessions(ctx, sessions)
}

// LO-607: those that still take tasks, the last used first, without a call of an engine.
func TestSessionsAreListed(t *testing.T) {
	w := open(t)
	for _, id := range []string{"first", "second", "third"} {
		_, err := w.m.Create(t.Context(), task.SessionRequest{ID: id})
		require.NoError(t, err)
		w.now = w.now.Add(time.Second)
	}
	one := turn("t", "first")
	require.NoError(t, w.m.Admit(&one))
	ids := func(most int) (out []string) {
		for _, s := range w.m.List(most) {
			out = append(out, s.ID)
		}
		return out
	}
	require.Equal(t, []string{"first", "third", "second"}, ids(9), "one is in use")
	require.Equal(t, []string{"first"}, ids(1))
	s := w.m.List(1)[0]
	require.Equal(t, 1, s.Turns)
	require.Equal(t, int64(1000), s.Rests.Tokens.Left)
	require.Positive(t, s.TTLLeft)
	w.now = w.now.Add(time.Hour)
	require.Empty(t, ids(9))
}
