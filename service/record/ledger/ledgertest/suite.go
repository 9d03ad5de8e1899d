// SPDX-License-Identifier: GPL-3.0-or-later

package ledgertest

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/record/ledger"
	"github.com/llama-orch/llama-orch/service/task"
)

// Opened is a ledger under test, and what is done to it from outside.
type Opened struct {
	ledger.Ledger

	Settle func()                        // returns once what was noted is written
	Reopen func() (Opened, error)        // closes it and opens its store again
	Crash  func() (Opened, error)        // opens what a kill -9 would leave now
	Second func() (ledger.Ledger, error) // opens the store a second time
	Sweep  func(oldest time.Time)        // forgets the tasks and batches that ended before then
	Lapse  func()                        // lets the lease end, where several may have the store open; nil: only one may
}

// Open opens the ledger of a new store.
type Open func(t testing.TB) Opened

// Run holds an implementation to what package ledger promises.
func Run(t *testing.T, open Open) {
	for name, test := range map[string]func(*testing.T, Opened){
		"every field is kept":             everyField,
		"little is kept too":              little,
		"what is answered is durable":     durable,
		"live tasks come back in order":   order,
		"a start is noted":                started,
		"a run may make another prompt":   rendered,
		"an accept may be a start":        begun,
		"sequence numbers only grow":      sequence,
		"operations may be repeated":      repeated,
		"nonsense is refused":             nonsense,
		"checkpoints do not go back":      checkpoints,
		"the newest are listed first":     newest,
		"what is live is never forgotten": retention,
		"bundles lead to their tasks":     proven,
		"what is deleted is gone":         deleted,
		"texts whose time is over":        expired,
		"sessions are charged once":       sessions,
		"files are kept and dropped":      files,
		"every field of a batch is kept":  batchFields,
		"batches are paged":               batchPages,
		"files are paged":                 filePages,
		"what uses an artifact":           uses,
		"lines move with their tasks":     lineMoves,
		"lines end without a task":        lineEnds,
		"texts of lines are erased":       lineTexts,
		"old batches are forgotten":       oldBatches,
		"live tasks are claimed once":     claimed,
		"contexts end calls":              contexts,
		"nothing is taken once closed":    closed,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
	t.Run("full records of every outcome", func(t *testing.T) {
		for _, state := range []task.State{task.Completed, task.Failed, task.StateCanceled} {
			outcome(t, open(t), state)
		}
	})
	if one := open(t); one.Lapse != nil {
		t.Run("an owner whose lease ended is fenced off", func(t *testing.T) { fenced(t, one) })
	} else {
		t.Run("one process alone has it open", func(t *testing.T) { alone(t, one) })
	}
}

func accept(t testing.TB, l ledger.Ledger, seqs ...uint64) {
	t.Helper()
	for _, seq := range seqs {
		require.NoError(t, l.Accept(t.Context(), Sample(seq)))
	}
}

func finish(t testing.TB, l ledger.Ledger, records ...task.Record) {
	t.Helper()
	for _, r := range records {
		require.NoError(t, l.Finish(t.Context(), r))
	}
}

func get(t testing.TB, l ledger.Ledger, id string) task.Record {
	t.Helper()
	r, ok, err := l.Get(t.Context(), id)
	require.NoError(t, err)
	require.True(t, ok, id)
	return r
}

func live(t testing.TB, l ledger.Ledger) []string {
	t.Helper()
	found, err := l.Live(t.Context())
	require.NoError(t, err)
	return ids(found)
}

func next(t testing.TB, l ledger.Ledger) uint64 {
	t.Helper()
	seq, err := l.NextSeq()
	require.NoError(t, err)
	return seq
}

func claim(t testing.TB, l ledger.Ledger) ledger.Claim {
	t.Helper()
	return claimAs(t, l, "me")
}

func claimAs(t testing.TB, l ledger.Ledger, owner string) ledger.Claim {
	t.Helper()
	c, err := l.Claim(t.Context(), task.Host{ID: owner})
	require.NoError(t, err)
	require.Equal(t, owner, c.Owner)
	return c
}

func reopen(t testing.TB, l Opened) Opened {
	t.Helper()
	again, err := l.Reopen()
	require.NoError(t, err)
	return again
}

func ids(found []task.Record) []string {
	out := []string{}
	for _, r := range found {
		out = append(out, r.Task.ID)
	}
	return out
}

// everyField: a field that is added to task.Record, but not to an implementation, shows up here.
func everyField(t *testing.T, l Opened) {
	want := Full(task.Completed)
	require.NoError(t, l.Accept(t.Context(), want.Task))
	require.NoError(t, l.Dispatch(t.Context(), task.Dispatch{ID: want.Task.ID, ReplicaID: want.ReplicaID, Fingerprint: want.Fingerprint, At: want.StartedAt}))
	l.Checkpoint(want.Task.ID, want.Checkpoint)
	l.Settle()
	running := task.Record{
		Task: want.Task, State: task.Running, ReplicaID: want.ReplicaID, Fingerprint: want.Fingerprint,
		Checkpoint: want.Checkpoint, StartedAt: want.StartedAt,
	}
	require.Equal(t, running, get(t, l, want.Task.ID))
	l = reopen(t, l)
	left, err := l.Live(t.Context())
	require.NoError(t, err)
	require.Equal(t, []task.Record{running}, left)
}

func outcome(t *testing.T, l Opened, state task.State) {
	want := Full(state)
	require.NoError(t, l.Accept(t.Context(), want.Task))
	l.Checkpoint(want.Task.ID, want.Checkpoint)
	l.Settle()
	finish(t, l, want)
	require.Equal(t, want, get(t, l, want.Task.ID))
	l = reopen(t, l)
	require.Equal(t, want, get(t, l, want.Task.ID))
	listed, err := l.List(t.Context(), "", 10)
	require.NoError(t, err)
	want.Transcript.Text, want.Transcript.Marks, want.Transcript.Logprobs = "", nil, nil
	require.Equal(t, []task.Record{want}, listed)
}

func little(t *testing.T, l Opened) {
	r := task.Record{Task: task.Task{ID: "x", Seq: 1, AcceptedAt: Epoch}, State: task.Failed, FinishedAt: Epoch, Err: &task.Error{Code: task.Internal}}
	require.NoError(t, l.Accept(t.Context(), r.Task))
	require.Equal(t, task.Record{Task: r.Task, State: task.Queued}, get(t, l, "x"))
	finish(t, l, r)
	require.Equal(t, r, get(t, l, "x"))
	_, ok, err := l.Get(t.Context(), "y")
	require.NoError(t, err)
	require.False(t, ok)
}

// durable: what a call has returned from survives a crash right behind it.
func durable(t *testing.T, l Opened) {
	crash := func() {
		t.Helper()
		next, err := l.Crash()
		require.NoError(t, err)
		l = next
	}
	accept(t, l, 1, 2)
	crash()
	require.Equal(t, []string{ID(1), ID(2)}, ids(claim(t, l).Tasks))
	require.NoError(t, l.Dispatch(t.Context(), Dispatched(Sample(2))))
	crash()
	require.Equal(t, []string{ID(2), ID(1)}, ids(claim(t, l).Tasks))
	require.Equal(t, "default-0", get(t, l, ID(2)).ReplicaID)
	done := Ended(Sample(2), task.Completed, "a", "b")
	finish(t, l, done)
	crash()
	require.Equal(t, done, get(t, l, ID(2)))
	require.NoError(t, l.KeepSession(t.Context(), Session("s")))
	crash()
	kept, err := l.Sessions(t.Context())
	require.NoError(t, err)
	require.Equal(t, []task.Session{Session("s")}, kept)
	require.NoError(t, l.DropSessions(t.Context(), kept))
	crash()
	kept, err = l.Sessions(t.Context())
	require.NoError(t, err)
	require.Empty(t, kept)
	require.Greater(t, next(t, l), uint64(2))
}

func order(t *testing.T, l Opened) {
	accept(t, l, 7, 3, 5, 1, 9, 2)
	for _, seq := range []uint64{9, 2, 5} {
		require.NoError(t, l.Dispatch(t.Context(), Dispatched(Sample(seq))))
	}
	finish(t, l, Ended(Sample(2), task.Completed, "done"))
	require.Equal(t, []string{ID(9), ID(5), ID(1), ID(3), ID(7)}, live(t, l))
	l = reopen(t, l)
	require.Equal(t, []string{ID(9), ID(5), ID(1), ID(3), ID(7)}, ids(claim(t, l).Tasks))

	// The next process starts one more, and one of the old ones moves to another replica: it keeps its place.
	require.NoError(t, l.Dispatch(t.Context(), Dispatched(Sample(3))))
	moved := Dispatched(Sample(9))
	moved.ReplicaID, moved.At = "default-1", moved.At.Add(time.Minute)
	require.NoError(t, l.Dispatch(t.Context(), moved))
	require.Equal(t, []string{ID(9), ID(5), ID(3), ID(1), ID(7)}, live(t, l))
	require.Equal(t, "default-1", get(t, l, ID(9)).ReplicaID)
	require.Equal(t, Dispatched(Sample(9)).At, get(t, l, ID(9)).StartedAt)
}

// rendered: the prompt that a run makes is the task's from then on, and also where the task ends before that was written.
func rendered(t *testing.T, l Opened) {
	accept(t, l, 1, 2)
	of := func(seq uint64) task.Task {
		at := Sample(seq)
		at.Prompt, at.PromptTokens, at.RequestDigest, at.RenderedAt = "Say something today.", 0, strings.Repeat("cd", 32), Epoch.Add(time.Hour)
		return at
	}
	require.NoError(t, l.Render(t.Context(), of(1)))
	require.Equal(t, of(1), get(t, l, ID(1)).Task)
	finish(t, l, Ended(of(2), task.StateCanceled, "x"))
	require.Equal(t, of(2), get(t, l, ID(2)).Task)
	require.ErrorIs(t, l.Render(t.Context(), Sample(2)), ledger.ErrEnded)
	require.ErrorIs(t, l.Render(t.Context(), Sample(3)), ledger.ErrUnknown)
	l, err := l.Crash()
	require.NoError(t, err)
	require.Equal(t, of(1), get(t, l, ID(1)).Task)
	require.Equal(t, of(2), get(t, l, ID(2)).Task)
	require.Equal(t, []string{ID(1)}, live(t, l))
}

// started: a noted start takes its place in the order when it is noted. Once a dispatch or an outcome is written, it need not be.
func started(t *testing.T, l Opened) {
	accept(t, l, 1, 2, 3, 4)
	l.Started(Dispatched(Sample(3)))
	l.Started(Dispatched(Sample(4)))
	require.NoError(t, l.Dispatch(t.Context(), Dispatched(Sample(2))))
	again := Dispatched(Sample(3))
	again.ReplicaID, again.At = "default-1", again.At.Add(time.Minute)
	l.Started(again)
	done := Ended(Sample(4), task.Completed, "done")
	finish(t, l, done)
	l.Started(Dispatched(Sample(9))) // of nobody
	l.Settle()
	require.Equal(t, []string{ID(3), ID(2), ID(1)}, live(t, l))
	r := get(t, l, ID(3))
	require.Equal(t, task.Running, r.State)
	require.Equal(t, "default-1", r.ReplicaID)
	require.Equal(t, Dispatched(Sample(3)).At, r.StartedAt)
	require.Equal(t, done, get(t, l, ID(4)))

	accept(t, l, 5, 6)
	l.Started(Dispatched(Sample(5)))
	require.NoError(t, l.Dispatch(t.Context(), Dispatched(Sample(6))))
	moved := Dispatched(Sample(5))
	moved.ReplicaID, moved.Fingerprint, moved.At = "default-1", "f2", moved.At.Add(time.Minute)
	require.NoError(t, l.Dispatch(t.Context(), moved))
	l.Settle()
	require.Equal(t, []string{ID(3), ID(2), ID(5), ID(6), ID(1)}, live(t, l))
	require.Equal(t, "f2", get(t, l, ID(5)).Fingerprint)
	require.Equal(t, Dispatched(Sample(5)).At, get(t, l, ID(5)).StartedAt)

	l.Started(Dispatched(Sample(1)))
	require.Equal(t, []string{ID(3), ID(2), ID(5), ID(6), ID(1)}, live(t, reopen(t, l))) // closing writes what waits
}

// begun: an accept that is a dispatch as well is durable as a whole, has its place in the order of starts, and may be repeated.
func begun(t *testing.T, l Opened) {
	begin := func(seq uint64, replica string) error {
		d := Dispatched(Sample(seq))
		d.ReplicaID = replica
		return l.AcceptRunning(t.Context(), Sample(seq), d)
	}
	accept(t, l, 1, 2)
	require.NoError(t, l.Dispatch(t.Context(), Dispatched(Sample(2))))
	require.NoError(t, begin(4, "default-1"))
	require.NoError(t, begin(3, "default-0"))
	require.NoError(t, l.Dispatch(t.Context(), Dispatched(Sample(1))))
	again, err := l.Crash()
	require.NoError(t, err)
	l = again
	require.Equal(t, []string{ID(2), ID(4), ID(3), ID(1)}, ids(claim(t, l).Tasks))
	want := task.Record{
		Task: Sample(4), State: task.Running, ReplicaID: "default-1", Fingerprint: Dispatched(Sample(4)).Fingerprint, StartedAt: Dispatched(Sample(4)).At,
	}
	require.Equal(t, want, get(t, l, ID(4)))

	require.NoError(t, begin(4, "default-2"))
	require.Equal(t, want, get(t, l, ID(4)))
	taken := Sample(4)
	taken.ID = "other"
	require.ErrorIs(t, l.AcceptRunning(t.Context(), taken, Dispatched(taken)), ledger.ErrTaken)
	require.ErrorContains(t, l.AcceptRunning(t.Context(), task.Task{ID: "x"}, task.Dispatch{}), "sequence number")
	done := Ended(Sample(4), task.Completed, "done")
	finish(t, l, done)
	require.NoError(t, begin(4, "default-1"))
	require.Equal(t, done, get(t, l, ID(4)))
	require.Equal(t, []string{ID(2), ID(3), ID(1)}, live(t, l))
}

func sequence(t *testing.T, l Opened) {
	require.Equal(t, uint64(1), next(t, l))
	require.Equal(t, uint64(2), next(t, l))
	accept(t, l, 4)
	require.Equal(t, uint64(5), next(t, l))
	finish(t, l, Ended(Sample(4), task.Completed))
	l = reopen(t, l)
	l.Sweep(Epoch.Add(time.Hour))
	_, ok, err := l.Get(t.Context(), ID(4))
	require.NoError(t, err)
	require.False(t, ok)
	l = reopen(t, l)
	require.GreaterOrEqual(t, next(t, l), uint64(5), "it is not used again, although its task is gone")

	var numbers sync.Map
	var calls sync.WaitGroup
	for range 16 {
		calls.Go(func() {
			for range 50 {
				seq, err := l.NextSeq()
				_, again := numbers.LoadOrStore(seq, true)
				if err != nil || again {
					t.Errorf("number %d was handed out twice, or not at all: %v", seq, err)
				}
			}
		})
	}
	calls.Wait()
}

// repeated: whoever is not sure whether a call was recorded may repeat it; nothing gets a second outcome.
func repeated(t *testing.T, l Opened) {
	accept(t, l, 1, 1)
	require.Equal(t, []string{ID(1)}, live(t, l))
	other := Sample(1)
	other.ID = "other"
	require.ErrorIs(t, l.Accept(t.Context(), other), ledger.ErrTaken)
	other = Sample(1)
	other.Seq = 2
	require.ErrorIs(t, l.Accept(t.Context(), other), ledger.ErrTaken)
	require.ErrorIs(t, l.Finish(t.Context(), Ended(other, task.Completed)), ledger.ErrTaken)

	done := Ended(Sample(1), task.Completed, "a", "b")
	finish(t, l, done, done)
	accept(t, l, 1)
	require.Equal(t, done, get(t, l, ID(1)))
	require.ErrorIs(t, l.Finish(t.Context(), Ended(Sample(1), task.StateCanceled, "a")), ledger.ErrEnded)
	require.ErrorIs(t, l.Dispatch(t.Context(), Dispatched(Sample(1))), ledger.ErrEnded)
	require.ErrorIs(t, l.Dispatch(t.Context(), Dispatched(Sample(8))), ledger.ErrUnknown)
	require.Equal(t, done, get(t, l, ID(1)))

	// A task may be dropped from a full queue before its accept is through.
	dropped := Ended(Sample(9), task.Failed)
	dropped.ReplicaID, dropped.Fingerprint, dropped.StartedAt = "", "", time.Time{}
	finish(t, l, dropped)
	accept(t, l, 9)
	require.Equal(t, dropped, get(t, l, ID(9)))
	require.Empty(t, live(t, l))
	require.Equal(t, uint64(10), next(t, l))
}

func nonsense(t *testing.T, l Opened) {
	require.ErrorContains(t, l.Accept(t.Context(), task.Task{ID: "x"}), "sequence number")
	require.ErrorContains(t, l.Accept(t.Context(), task.Task{Seq: 1}), "id")
	require.ErrorContains(t, l.Accept(t.Context(), task.Task{Seq: 1, ID: "x"}), "time")
	require.ErrorContains(t, l.Finish(t.Context(), task.Record{Task: Sample(1)}), "outcome")
	require.ErrorContains(t, l.Finish(t.Context(), task.Record{Task: Sample(1), State: task.Running, FinishedAt: Epoch}), "outcome")
	require.ErrorContains(t, l.Finish(t.Context(), task.Record{Task: Sample(1), State: task.Failed}), "outcome")
	require.Empty(t, live(t, l))
}

func mark(event int) task.Checkpoint {
	return task.Checkpoint{Event: event, Sum: [32]byte{byte(event)}}
}

func checkpoints(t *testing.T, l Opened) {
	accept(t, l, 1, 2)
	l.Checkpoint(ID(1), mark(5))
	l.Checkpoint(ID(1), mark(9))
	l.Checkpoint(ID(1), mark(7))
	l.Checkpoint(ID(3), mark(1)) // of nobody
	l.Settle()
	require.Equal(t, mark(9), get(t, l, ID(1)).Checkpoint)
	l.Checkpoint(ID(1), mark(8)) // a recovered task is decoded from the start, so its checkpoints begin anew
	l.Settle()
	require.Equal(t, mark(9), get(t, l, ID(1)).Checkpoint)
	l.Checkpoint(ID(1), mark(10))
	require.Equal(t, mark(10), get(t, reopen(t, l), ID(1)).Checkpoint) // closing writes what waits
}

func newest(t *testing.T, l Opened) {
	accept(t, l, 1, 2, 3, 4, 5)
	late := Ended(Sample(1), task.Failed, "x") // or the clock was set back since
	late.FinishedAt = Epoch.Add(time.Hour)
	finish(t, l, Ended(Sample(4), task.Completed, "a", "b"), Ended(Sample(2), task.StateCanceled), late)
	list := func(state task.State, limit int) []string {
		found, err := l.List(t.Context(), state, limit)
		require.NoError(t, err)
		return ids(found)
	}
	require.Equal(t, []string{ID(4), ID(2), ID(1)}, list("", 10))
	require.Equal(t, []string{ID(4), ID(2)}, list("", 2))
	require.Equal(t, []string{ID(4)}, list(task.Completed, 10))
	require.Empty(t, list(task.Queued, 10))
	require.Empty(t, list("", 0))
	found, err := l.List(t.Context(), "", 10)
	require.NoError(t, err)
	require.Equal(t, 2, found[0].Status().TokensOut)
	require.Equal(t, 1, found[2].Status().TokensOut)
}

func retention(t *testing.T, l Opened) {
	accept(t, l, 1, 2, 3)
	require.NoError(t, l.Dispatch(t.Context(), Dispatched(Sample(2))))
	finish(t, l, Ended(Sample(3), task.Completed, "x"), Ended(Sample(1000), task.Completed, "y"))
	l.Sweep(Epoch.Add(500 * time.Second))
	require.Equal(t, []string{ID(2), ID(1)}, live(t, l))
	found, err := l.List(t.Context(), "", 10)
	require.NoError(t, err)
	require.Equal(t, []string{ID(1000)}, ids(found))
	accept(t, l, 3) // nobody remembers it
}

func proven(t *testing.T, l Opened) {
	r := Ended(Sample(1), task.Completed, "a", "b")
	r.Proof = task.Proof{SHA256: [32]byte{1, 2, 31: 3}, Size: 77, KeepsTranscript: true}
	near := Ended(Sample(2), task.Completed, "c")
	near.Proof = task.Proof{SHA256: [32]byte{1, 2, 31: 4}, Size: 78, KeepsPrompt: true}
	finish(t, l, r, near)
	l = reopen(t, l)
	for _, want := range []task.Record{r, near} {
		found, ok, err := l.Proven(t.Context(), want.Proof.SHA256)
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, want, found)
	}
	_, ok, err := l.Proven(t.Context(), [32]byte{1, 2})
	require.NoError(t, err)
	require.False(t, ok)
}

// expired: the text of an ended task goes once the time is over that its request gave it, and no other.
func expired(t *testing.T, l Opened) {
	keep := func(seq uint64, keep time.Duration, ends bool) (id string, end time.Time) {
		of := Sample(seq)
		of.Request.KeepText = keep
		require.NoError(t, l.Accept(t.Context(), of))
		r := Ended(of, task.Completed, "said")
		if ends {
			finish(t, l, r)
		}
		return of.ID, r.FinishedAt
	}
	soon, end := keep(1, time.Minute, true)
	later, laterEnd := keep(2, time.Hour, true)
	always, _ := keep(3, 0, true)
	runs, _ := keep(4, time.Millisecond, false)
	expire := func(at time.Time, ids []string, due time.Time) {
		t.Helper()
		got, next, err := l.Expire(t.Context(), at)
		require.NoError(t, err)
		require.Equal(t, ids, got)
		require.True(t, next.Equal(due), "%s", next)
	}
	expire(end.Add(time.Minute-time.Millisecond), nil, end.Add(time.Minute))
	expire(end.Add(time.Minute), []string{soon}, laterEnd.Add(time.Hour))
	l = reopen(t, l)
	require.NotNil(t, get(t, l, soon).Deleted)
	for _, id := range []string{later, always, runs} {
		require.Nil(t, get(t, l, id).Deleted, id)
	}
	require.NoError(t, l.Delete(t.Context(), later, end.Add(time.Minute)))
	expire(end.Add(2*time.Hour), nil, time.Time{})
}

// deleted: of a deleted task its outcome stays, its id and its number stay taken, and its charge was charged.
func deleted(t *testing.T, l Opened) {
	at := Epoch.Add(time.Hour)
	accept(t, l, 1, 2)
	require.ErrorIs(t, l.Delete(t.Context(), ID(1), at), ledger.ErrLive)
	require.ErrorIs(t, l.Delete(t.Context(), ID(9), at), ledger.ErrUnknown)
	window := Epoch.Truncate(24 * time.Hour)
	r := Full(task.Completed)
	r.Charge = &task.Charge{Account: "localhost", Window: window, Amount: task.Amount{Tokens: 7}}
	failed := Ended(Sample(2), task.StateCanceled, "half")
	finish(t, l, r, failed)
	require.NoError(t, l.Delete(t.Context(), r.Task.ID, at))
	require.NoError(t, l.Delete(t.Context(), ID(2), at))
	require.NoError(t, l.Delete(t.Context(), ID(2), at.Add(time.Hour)), "again")
	require.NoError(t, l.Accept(t.Context(), r.Task), "it is still a task that was accepted")
	require.ErrorIs(t, l.Finish(t.Context(), failed), ledger.ErrEnded)
	l = reopen(t, l)
	r.Charge = nil
	for _, want := range []task.Record{r.Erased(at), failed.Erased(at)} {
		require.Equal(t, want, get(t, l, want.Task.ID))
	}
	require.Equal(t, task.Deletion{At: at, TokensIn: r.End.TokensIn, TokensOut: r.End.TokensOut}, *get(t, l, r.Task.ID).Deleted)
	require.Equal(t, task.Canceled, get(t, l, ID(2)).Err.Code)
	_, ok, err := l.Proven(t.Context(), r.Proof.SHA256)
	require.NoError(t, err)
	require.False(t, ok)
	listed, err := l.List(t.Context(), task.StateCanceled, 10)
	require.NoError(t, err)
	require.Equal(t, []task.Record{failed.Erased(at)}, listed)
	accept(t, l, 3)
	gone, err := l.Deleted(t.Context(), []string{ID(9), ID(2), ID(3), r.Task.ID})
	require.NoError(t, err)
	require.Equal(t, []string{ID(2), r.Task.ID}, gone)
	gone, err = l.Deleted(t.Context(), nil)
	require.NoError(t, err)
	require.Empty(t, gone)
	spent, err := l.Spent(t.Context(), window)
	require.NoError(t, err)
	require.Equal(t, map[string]task.Amount{"localhost": {Tokens: 7}}, spent)
	l.Sweep(at)
	_, ok, err = l.Get(t.Context(), ID(2))
	require.NoError(t, err)
	require.False(t, ok, "it is forgotten when it is old, like all others")
}

// sessions: one is recorded with its turns, charged once for each, and comes back after a restart.
func sessions(t *testing.T, l Opened) {
	all := func() []task.Session {
		found, err := l.Sessions(t.Context())
		require.NoError(t, err)
		return found
	}
	spent := func(window time.Time) map[string]task.Amount {
		found, err := l.Spent(t.Context(), window)
		require.NoError(t, err)
		return found
	}
	s := Session("s")
	require.NoError(t, l.KeepSession(t.Context(), s))
	require.Equal(t, []task.Session{s}, all())

	turn := Sample(1)
	s.Turns = 1
	turn.Session = &s
	require.NoError(t, l.Accept(t.Context(), turn))
	require.NoError(t, l.Accept(t.Context(), turn)) // repeated, as after a retry
	require.Equal(t, []task.Session{s}, all())

	window := Epoch.Truncate(24 * time.Hour)
	r := Ended(turn, task.Completed, "a", "b")
	r.ReplicaID = "default-1"
	r.Charge = &task.Charge{SessionID: "s", Account: "localhost", Window: window, Amount: task.Amount{Tokens: 7, Time: 30 * time.Millisecond, Cost: 3, Energy: 12_345}}
	finish(t, l, r, r, r) // an outcome may be recorded again, and is not charged again
	l = reopen(t, l)
	s.Spent, s.PoolID, s.ReplicaID = r.Charge.Amount, turn.PoolID, "default-1"
	require.Equal(t, []task.Session{s}, all())
	require.Equal(t, map[string]task.Amount{"localhost": r.Charge.Amount}, spent(window))

	later := Ended(Sample(2), task.Completed, "c")
	later.Charge = &task.Charge{Account: "localhost", Window: window.Add(24 * time.Hour), Amount: task.Amount{Tokens: 1}}
	finish(t, l, later)
	require.Empty(t, spent(window), "what was charged to a budget that was renewed since is forgotten")

	renewed := Session("s")
	renewed.CreatedAt = Epoch.Add(time.Hour)
	require.NoError(t, l.KeepSession(t.Context(), renewed), "the id is another session's since")
	require.NoError(t, l.DropSessions(t.Context(), []task.Session{s, Session("unknown")}))
	require.Equal(t, []task.Session{renewed}, all())
	require.NoError(t, l.DropSessions(t.Context(), []task.Session{renewed}))
	require.Empty(t, all())
}
