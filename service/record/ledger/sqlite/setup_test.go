// SPDX-License-Identifier: GPL-3.0-or-later

package sqlite

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/llama-orch/llama-orch/service/task"
)

// TestMain runs the tests, or is one of the processes that they start.
func TestMain(m *testing.M) {
	if role := os.Getenv("LEDGER_TEST_ROLE"); role != "" {
		os.Exit(child(role, os.Getenv("LEDGER_TEST_PATH")))
	}
	goleak.VerifyTestMain(m)
}

// clock is a time that stands still until it is moved.
type clock struct{ since atomic.Int64 }

func (c *clock) now() time.Time           { return epoch.Add(time.Duration(c.since.Load())) }
func (c *clock) advance(by time.Duration) { c.since.Add(int64(by)) }

var epoch = time.UnixMilli(1_700_000_000_123).UTC()

func file(t testing.TB) string { return filepath.Join(t.TempDir(), FileName) }

func open(t testing.TB, o Options) *SQLite {
	t.Helper()
	if o.Path == "" {
		o.Path = file(t)
	}
	if o.Now == nil {
		o.Now = func() time.Time { return epoch }
	}
	l, err := Open(o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	return l
}

// reopen closes the ledger and opens it again.
func reopen(t testing.TB, l *SQLite) *SQLite {
	t.Helper()
	require.NoError(t, l.Close())
	return open(t, l.o)
}

func id(seq uint64) string { return fmt.Sprintf("task-%d", seq) }

// sample is a task with the given number.
func sample(seq uint64) task.Task {
	return task.Task{
		ID: id(seq), Seq: seq, PoolID: "default", Engine: "llamacpp", Prompt: "Say something.", Seed: uint32(seq),
		Determinism: task.Strict, RequestDigest: strings.Repeat("ab", 32), AcceptedAt: epoch.Add(time.Duration(seq) * time.Second),
		Request: task.Request{
			ModelRef: "haiku", Workload: task.Completion, Priority: task.Interactive, Prompt: "Say something.",
			BodySHA256: sha256.Sum256([]byte(id(seq))), Placement: task.Placement{Mode: task.Auto},
		},
	}
}

func dispatched(t task.Task) task.Dispatch {
	return task.Dispatch{ID: t.ID, ReplicaID: "default-0", Fingerprint: "f1", At: t.AcceptedAt.Add(time.Second)}
}

// ended is the record of a task with these tokens.
func ended(t task.Task, state task.State, tokens ...string) task.Record {
	r := task.Record{
		Task: t, State: state, ReplicaID: "default-0", Fingerprint: "f1", StartedAt: t.AcceptedAt.Add(time.Second),
		FinishedAt: t.AcceptedAt.Add(2 * time.Second), SealedAt: fmt.Sprintf("%d-00000000", len(tokens)),
		LastEventID: fmt.Sprintf("%d-11111111", len(tokens)+1),
	}
	for _, token := range tokens {
		r.Transcript.Text += token
		r.Transcript.Ends = append(r.Transcript.Ends, len(r.Transcript.Text))
	}
	sum := sha256.Sum256([]byte(r.Transcript.Text))
	if state == task.Completed {
		r.End = &task.End{
			TokensIn: 3, TokensOut: len(tokens), DecodeTimeMS: 12, FinishReason: task.FinishStop,
			Receipt: task.Receipt{Seed: t.Seed, Determinism: t.Determinism, Fingerprint: "f1", TranscriptSHA256: hex.EncodeToString(sum[:])},
		}
	} else {
		r.Err = task.Errorf(task.Canceled, "the task was canceled by its client").Retry(1500 * time.Microsecond)
	}
	return r
}

func accept(t testing.TB, l *SQLite, seqs ...uint64) {
	t.Helper()
	for _, seq := range seqs {
		require.NoError(t, l.Accept(t.Context(), sample(seq)))
	}
}

func end(t testing.TB, l *SQLite, records ...task.Record) {
	t.Helper()
	for _, r := range records {
		require.NoError(t, l.Finish(t.Context(), r))
	}
}

func get(t testing.TB, l *SQLite, id string) task.Record {
	t.Helper()
	r, ok, err := l.Get(t.Context(), id)
	require.NoError(t, err)
	require.True(t, ok, id)
	return r
}

// next takes a sequence number.
func next(t testing.TB, l *SQLite) uint64 {
	t.Helper()
	seq, err := l.NextSeq()
	require.NoError(t, err)
	return seq
}

func live(t testing.TB, l *SQLite) []string {
	t.Helper()
	found, err := l.Live(t.Context())
	require.NoError(t, err)
	return ids(found)
}

func ids(found []task.Record) []string {
	out := []string{}
	for _, r := range found {
		out = append(out, r.Task.ID)
	}
	return out
}

// settle returns once the writer has done all that it was given.
func settle(t testing.TB, l *SQLite) {
	t.Helper()
	require.NoError(t, l.submit(t.Context(), &op{kind: opAccept, run: func(*writer) error { return nil }}))
}

// sweep returns once everything that is to be removed now is removed.
func sweep(t testing.TB, l *SQLite) {
	t.Helper()
	require.NoError(t, l.submit(t.Context(), &op{
		kind: opAccept, run: func(*writer) error { return nil },
		then: func() {
			for l.sweepStep() {
			}
		},
	}))
}

type pageCount struct{ tasks, texts, pages, free int }

func pages(t testing.TB, l *SQLite) (c pageCount) {
	t.Helper()
	require.NoError(t, l.db.QueryRow(`SELECT (SELECT count(*) FROM task), (SELECT count(*) FROM transcript),
		(SELECT page_count FROM pragma_page_count), (SELECT freelist_count FROM pragma_freelist_count)`).Scan(&c.tasks, &c.texts, &c.pages, &c.free))
	return c
}

func faultOf(t testing.TB, err error) *Error {
	t.Helper()
	var e *Error
	require.ErrorAs(t, err, &e)
	require.NotEmpty(t, e.What)
	require.NotEmpty(t, e.Remedy)
	return e
}
