// SPDX-License-Identifier: GPL-3.0-or-later

package ledgertest

import (
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/record/ledger"
	"github.com/llama-orch/llama-orch/service/task"
)

// Batch is a batch of nobody's file, without lines.
func Batch(id string) task.BatchRecord {
	return task.BatchRecord{ID: id, Dialect: "openai", Endpoint: "/v1/completions", Window: "24h", CreatedAt: Epoch, ExpiresAt: Epoch.Add(24 * time.Hour)}
}

// Waiting are the first lines of a batch, as they are before anything is done about them.
func Waiting(batch string, n int) (lines []task.Line) {
	for i := range n {
		lines = append(lines, task.Line{Batch: batch, N: i + 1, CustomID: fmt.Sprintf("c%d", i+1), At: int64(10 * i), Bytes: 9, State: task.LineWaits})
	}
	return lines
}

// TaskOf is a task of a line, with the given number.
func TaskOf(l task.Line, seq uint64) task.Task {
	t := Sample(seq)
	t.ID, t.Request.BatchID, t.Request.BatchLine = l.TaskID(), l.Batch, l.N
	return t
}

func linesOf(t testing.TB, l ledger.Ledger, batch string, f task.LineFilter) []task.Line {
	t.Helper()
	found, err := l.Lines(t.Context(), batch, f)
	require.NoError(t, err)
	return found
}

func batchOf(t testing.TB, l ledger.Ledger, id string) task.BatchRecord {
	t.Helper()
	b, ok, err := l.Batch(t.Context(), id)
	require.NoError(t, err)
	require.True(t, ok, id)
	return b
}

func files(t *testing.T, l Opened) {
	f := task.File{ID: "file-1", Artifact: "sha256-a", Name: "ü\x00.jsonl", Bytes: 7, CreatedAt: Epoch}
	other := f
	other.ID = "file-2"
	require.NoError(t, l.KeepFile(t.Context(), f))
	require.NoError(t, l.KeepFile(t.Context(), other))
	l = reopen(t, l)
	found, err := l.Files(t.Context(), task.FileFilter{Sent: true})
	require.NoError(t, err)
	require.Equal(t, []task.Listed{{File: other}, {File: f}}, found, "the newest first")
	one, ok, err := l.File(t.Context(), "file-1")
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, f, one)

	b := Batch("b")
	b.FileID = "file-9"
	require.ErrorIs(t, l.KeepBatch(t.Context(), b, nil), ledger.ErrUnknown)
	b.FileID = "file-1"
	require.NoError(t, l.KeepBatch(t.Context(), b, nil))
	require.ErrorIs(t, l.DropFile(t.Context(), "file-1"), ledger.ErrLive)
	require.ErrorIs(t, l.DropFile(t.Context(), "file-9"), ledger.ErrUnknown)
	b.EndedAt = Epoch.Add(time.Hour)
	require.NoError(t, l.KeepBatch(t.Context(), b, nil))
	require.NoError(t, l.DropFile(t.Context(), "file-1"))
	require.ErrorIs(t, l.DropFile(t.Context(), "file-1"), ledger.ErrUnknown)
	_, ok, err = l.File(t.Context(), "file-1")
	require.NoError(t, err)
	require.False(t, ok)
	b.Window = "1h"
	require.NoError(t, l.KeepBatch(t.Context(), b, nil), "a batch goes on without its file")
}

// batchFields: a field that is added to a batch or a line, but not to an implementation, shows up here.
func batchFields(t *testing.T, l Opened) {
	var b task.BatchRecord
	n := 0
	populate(reflect.ValueOf(&b).Elem(), &n)
	b.FileID = ""
	var line task.Line
	populate(reflect.ValueOf(&line).Elem(), &n)
	line.Batch, line.State = b.ID, task.LineFailed
	require.NoError(t, l.KeepBatch(t.Context(), b, []task.Line{line}))
	l = reopen(t, l)
	require.Equal(t, b, batchOf(t, l, b.ID))
	require.Equal(t, []task.Line{line}, linesOf(t, l, b.ID, task.LineFilter{}))
	other := line
	other.State, other.CustomID = task.LineWaits, "other"
	require.NoError(t, l.KeepBatch(t.Context(), b, []task.Line{other}))
	require.Equal(t, []task.Line{line}, linesOf(t, l, b.ID, task.LineFilter{}), "a line that is there stays as it is")
	_, ok, err := l.Batch(t.Context(), "unknown")
	require.NoError(t, err)
	require.False(t, ok)
}

func batchPages(t *testing.T, l Opened) {
	for i := range 6 {
		b := Batch(fmt.Sprint("b", i))
		if i == 2 {
			b.Dialect = "anthropic"
		}
		if i%2 == 1 {
			b.EndedAt = Epoch
		}
		require.NoError(t, l.KeepBatch(t.Context(), b, nil))
	}
	page := func(f task.BatchFilter) (ids []string) {
		t.Helper()
		found, err := l.Batches(t.Context(), f)
		require.NoError(t, err)
		for _, b := range found {
			ids = append(ids, b.ID)
		}
		return ids
	}
	require.Equal(t, []string{"b5", "b4", "b3", "b2", "b1", "b0"}, page(task.BatchFilter{}))
	require.Equal(t, []string{"b5", "b4"}, page(task.BatchFilter{Limit: 2}))
	require.Equal(t, []string{"b3", "b1"}, page(task.BatchFilter{Limit: 2, After: "b4", Dialect: "openai"}))
	require.Equal(t, []string{"b4", "b3"}, page(task.BatchFilter{Limit: 2, Before: "b2"}))
	require.Equal(t, []string{"b4", "b2", "b0"}, page(task.BatchFilter{Live: true}))
	require.Equal(t, []string{"b2"}, page(task.BatchFilter{Live: true, Dialect: "anthropic"}))
	_, err := l.Batches(t.Context(), task.BatchFilter{After: "b9"})
	require.ErrorIs(t, err, ledger.ErrUnknown)
	_, err = l.Batches(t.Context(), task.BatchFilter{Before: "b9"})
	require.ErrorIs(t, err, ledger.ErrUnknown)
	require.Empty(t, page(task.BatchFilter{EndedBefore: Epoch}))
	require.Equal(t, []string{"b5", "b3"}, page(task.BatchFilter{EndedBefore: Epoch.Add(time.Millisecond), Limit: 2}))
}

// filePages: files and the batches that have ended are one list, in the order of their times, and come page by page.
func filePages(t *testing.T, l Opened) {
	at := func(n int) time.Time { return Epoch.Add(time.Duration(n) * time.Minute) }
	for n, id := range []string{"f0", "b1", "f2", "other", "b4", "f5", "live"} {
		if id[0] == 'f' {
			require.NoError(t, l.KeepFile(t.Context(), task.File{ID: id, Artifact: "sha256-" + id, CreatedAt: at(n)}))
			continue
		}
		b := Batch(id)
		if id != "live" {
			b.EndedAt = at(n)
		}
		if id == "other" {
			b.Dialect = "anthropic"
		}
		require.NoError(t, l.KeepBatch(t.Context(), b, nil))
	}
	page := func(f task.FileFilter) (ids []string) {
		t.Helper()
		found, err := l.Files(t.Context(), f)
		require.NoError(t, err)
		for _, one := range found {
			ids = append(ids, one.ID())
		}
		return ids
	}
	both := task.FileFilter{Sent: true, Results: "openai"}
	require.Equal(t, []string{"f5", "b4", "f2", "b1", "f0"}, page(both))
	require.Equal(t, []string{"f5", "f2", "f0"}, page(task.FileFilter{Sent: true}))
	require.Equal(t, []string{"b4", "b1"}, page(task.FileFilter{Results: "openai"}))
	require.Equal(t, []string{"b1"}, page(task.FileFilter{Results: "openai", After: "f2"}), "what is not wanted has its place too")
	require.Empty(t, page(task.FileFilter{}))
	for _, oldest := range []bool{false, true} {
		var all []string
		f := both
		for f.Oldest, f.Limit = oldest, 2; ; f.After = all[len(all)-1] {
			some := page(f)
			if all = append(all, some...); len(some) < f.Limit {
				break
			}
		}
		if oldest {
			slices.Reverse(all)
		}
		require.Equal(t, page(both), all)
	}
	_, err := l.Files(t.Context(), task.FileFilter{After: "live"})
	require.ErrorIs(t, err, ledger.ErrUnknown, "it has not ended")
}

// uses: an artifact is in use as long as a file has it, or a batch that would read it, or whose requests it is.
func uses(t *testing.T, l Opened) {
	used := func() bool {
		t.Helper()
		u, err := l.Uses(t.Context(), "sha256-a")
		require.NoError(t, err)
		return u
	}
	require.False(t, used())
	require.NoError(t, l.KeepFile(t.Context(), task.File{ID: "file-1", Artifact: "sha256-a", CreatedAt: Epoch}))
	require.True(t, used())
	b := Batch("b")
	b.FileID, b.Artifact = "file-1", "sha256-a"
	require.NoError(t, l.KeepBatch(t.Context(), b, nil))
	require.True(t, used())
	b.EndedAt = Epoch
	require.NoError(t, l.KeepBatch(t.Context(), b, nil))
	require.NoError(t, l.DropFile(t.Context(), "file-1"))
	require.False(t, used(), "its results need no input")
	b.ID, b.FileID = "own", ""
	require.NoError(t, l.KeepBatch(t.Context(), b, nil))
	require.True(t, used())
	require.NoError(t, l.DropBatch(t.Context(), "own", Epoch))
	require.False(t, used())
	b.ID, b.FileID, b.EndedAt = "live", "file-2", time.Time{}
	require.NoError(t, l.KeepFile(t.Context(), task.File{ID: "file-2", Artifact: "sha256-b", CreatedAt: Epoch}))
	require.NoError(t, l.KeepBatch(t.Context(), b, nil))
	require.True(t, used())
}

// lineMoves: the accept and the end of a task move its line in the same commit, and no line gets two results.
func lineMoves(t *testing.T, l Opened) {
	lines := Waiting("b", 300)
	require.NoError(t, l.KeepBatch(t.Context(), Batch("b"), lines))
	crash := func() {
		t.Helper()
		again, err := l.Crash()
		require.NoError(t, err)
		l = again
		claim(t, l)
	}
	state := func(n int) task.Line { return linesOf(t, l, "b", task.LineFilter{After: n - 1, Limit: 1})[0] }
	claim(t, l)
	require.Equal(t, task.LineCounts{Waiting: 300}, batchOf(t, l, "b").Counts)
	first := TaskOf(lines[0], 1)
	require.NoError(t, l.Accept(t.Context(), first))
	crash()
	require.Equal(t, task.LineFed, state(1).State)
	require.NoError(t, l.Accept(t.Context(), first), "the same again changes nothing")
	require.Equal(t, task.LineCounts{Fed: 1, Waiting: 299}, batchOf(t, l, "b").Counts)
	require.NoError(t, l.Finish(t.Context(), Ended(first, task.Completed, "a")))
	crash()
	require.Equal(t, task.LineCompleted, state(1).State)
	again := first
	again.ID, again.Seq = "b-1-2", 9
	require.ErrorIs(t, l.Accept(t.Context(), again), ledger.ErrEnded, "a line that has ended gets no other task")

	lost := Ended(TaskOf(lines[1], 2), task.Failed)
	lost.Err = task.Errorf(task.WorkerReset, "lost")
	require.NoError(t, l.Accept(t.Context(), lost.Task))
	require.NoError(t, l.Finish(t.Context(), lost))
	require.NoError(t, l.Finish(t.Context(), lost), "the same again")
	crash()
	second := state(2)
	require.Equal(t, task.LineWaits, second.State)
	require.Equal(t, 1, second.Tries)
	require.NoError(t, l.AcceptRunning(t.Context(), TaskOf(second, 3), Dispatched(TaskOf(second, 3))))
	require.Equal(t, task.LineFed, state(2).State)
	require.NoError(t, l.Finish(t.Context(), Ended(TaskOf(second, 3), task.Completed, "b")))
	require.Equal(t, task.LineCompleted, state(2).State)

	require.NoError(t, l.Finish(t.Context(), Ended(TaskOf(lines[2], 4), task.StateCanceled)), "one that was never accepted")
	require.Equal(t, task.LineCanceled, state(3).State)
	require.Equal(t, task.LineCounts{Completed: 2, Canceled: 1, Waiting: 297}, batchOf(t, l, "b").Counts)
	open := linesOf(t, l, "b", task.LineFilter{Open: true, Limit: 2})
	require.Equal(t, lines[3:5], open)

	stranger := Sample(20)
	stranger.Request.BatchID, stranger.Request.BatchLine = "unknown", 1
	require.NoError(t, l.Accept(t.Context(), stranger))
	require.NoError(t, l.Finish(t.Context(), Ended(stranger, task.Completed)))
}

func lineEnds(t *testing.T, l Opened) {
	lines := Waiting("b", 5)
	b := Batch("b")
	require.NoError(t, l.KeepBatch(t.Context(), b, lines))
	fed := TaskOf(lines[0], 1)
	require.NoError(t, l.Accept(t.Context(), fed))
	refused := lines[1]
	refused.State, refused.Status, refused.Refusal = task.LineFailed, 400, []byte(`{"error":"<ü>"}`)
	require.NoError(t, l.EndLine(t.Context(), refused))
	require.ErrorIs(t, l.EndLine(t.Context(), task.Line{Batch: "b", N: 9, State: task.LineFailed}), ledger.ErrUnknown)
	later := refused
	later.State = task.LineExpired
	require.NoError(t, l.EndLine(t.Context(), later), "but what failed stays so")
	b.CancelAt = Epoch.Add(time.Minute)
	require.NoError(t, l.EndLines(t.Context(), b, task.LineCanceled))
	l = reopen(t, l)
	want := Waiting("b", 5)
	want[0].State, want[1] = task.LineFed, refused
	for i := 2; i < 5; i++ {
		want[i].State = task.LineCanceled
	}
	require.Equal(t, want, linesOf(t, l, "b", task.LineFilter{}))
	require.ErrorIs(t, l.Accept(t.Context(), TaskOf(lines[3], 7)), ledger.ErrEnded, "what was canceled is not run")
	require.Equal(t, b.CancelAt, batchOf(t, l, "b").CancelAt)
	canceled := want[2]
	canceled.State = task.LineExpired
	require.NoError(t, l.EndLine(t.Context(), canceled))
	require.Equal(t, task.LineCounts{Fed: 1, Failed: 1, Canceled: 2, Expired: 1}, batchOf(t, l, "b").Counts)
	require.ErrorIs(t, l.DropBatch(t.Context(), "b", Epoch), ledger.ErrLive)
	require.ErrorIs(t, l.DropBatch(t.Context(), "unknown", Epoch), ledger.ErrUnknown)
	b.EndedAt, b.Counts = Epoch, task.LineCounts{Expired: 5}
	require.NoError(t, l.KeepBatch(t.Context(), b, nil))
	require.Equal(t, b, batchOf(t, l, "b"), "one that has ended has the counts that it ended with")
}

// lineTexts: what the tasks of lines were asked and answered goes with their batch, the tasks of tries that failed too.
func lineTexts(t *testing.T, l Opened) {
	lines := Waiting("b", 200)
	b := Batch("b")
	require.NoError(t, l.KeepBatch(t.Context(), b, lines))
	seq := uint64(0)
	run := func(n int, state task.State, e *task.Error) string {
		seq++
		of := TaskOf(linesOf(t, l, "b", task.LineFilter{After: n - 1, Limit: 1})[0], seq)
		require.NoError(t, l.Accept(t.Context(), of))
		r := Ended(of, state, "said")
		if e != nil {
			r.Err = e
		}
		require.NoError(t, l.Finish(t.Context(), r))
		return of.ID
	}
	completed := run(1, task.Completed, nil)
	lost := run(150, task.Failed, task.Errorf(task.WorkerReset, "lost"))
	failed := run(150, task.Failed, task.Errorf(task.DecodeTimeout, "late"))
	other := Ended(Sample(50), task.Completed, "mine")
	finish(t, l, other)
	erased := func(id string) bool { return get(t, l, id).Deleted != nil }
	require.NoError(t, l.EraseLines(t.Context(), "b", []task.LineState{task.LineFailed}, Epoch.Add(time.Hour)))
	require.True(t, erased(failed))
	require.True(t, erased(lost))
	require.False(t, erased(completed))
	b.EndedAt = Epoch
	require.NoError(t, l.KeepBatch(t.Context(), b, nil))
	require.NoError(t, l.DropBatch(t.Context(), "b", Epoch.Add(time.Hour)))
	l = reopen(t, l)
	require.True(t, erased(completed))
	require.Equal(t, other, get(t, l, other.Task.ID))
	_, ok, err := l.Batch(t.Context(), "b")
	require.NoError(t, err)
	require.False(t, ok)
	require.Empty(t, linesOf(t, l, "b", task.LineFilter{}))
	require.NoError(t, l.KeepBatch(t.Context(), Batch("b"), nil), "its id is free")
	require.Empty(t, linesOf(t, l, "b", task.LineFilter{}))
}

// oldBatches: a batch goes with its lines once it ended so long ago, and no other does.
func oldBatches(t *testing.T, l Opened) {
	hour := func(n int) time.Time { return Epoch.Add(time.Duration(n) * time.Hour) }
	for id, lines := range map[string]int{"old": 200, "older": 0, "new": 3, "live": 3} {
		require.NoError(t, l.KeepBatch(t.Context(), Batch(id), Waiting(id, lines)))
	}
	for id, at := range map[string]time.Time{"old": hour(1), "older": hour(0), "new": hour(2)} {
		b := Batch(id)
		b.EndedAt = at
		require.NoError(t, l.KeepBatch(t.Context(), b, nil))
	}
	l.Sweep(hour(2))
	for range 2 {
		for id, lines := range map[string]int{"old": -1, "older": -1, "new": 3, "live": 3} {
			_, ok, err := l.Batch(t.Context(), id)
			require.NoError(t, err)
			require.Equal(t, lines >= 0, ok, id)
			if ok {
				require.Len(t, linesOf(t, l, id, task.LineFilter{}), lines)
			}
		}
		listed, err := l.Batches(t.Context(), task.BatchFilter{Limit: 10})
		require.NoError(t, err)
		require.Len(t, listed, 2)
		l = reopen(t, l)
	}
	// The id is free, and a batch that gets it has no lines of the old one.
	require.NoError(t, l.KeepBatch(t.Context(), Batch("old"), Waiting("old", 1)))
	require.Len(t, linesOf(t, l, "old", task.LineFilter{}), 1)
}
