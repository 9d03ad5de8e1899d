// SPDX-License-Identifier: GPL-3.0-or-later

package sqlite

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/llama-orch/llama-orch/service/record/bundle"
	"github.com/llama-orch/llama-orch/service/record/ledger"
	"github.com/llama-orch/llama-orch/service/task"
)

// secret is a task whose prompt and answer have words of their own, of many lengths.
func secret(seq uint64, r *rand.Rand) task.Record {
	pad := func() string { return strings.Repeat("x", r.IntN(400)<<(2*r.IntN(8)/6)) }
	t := sample(seq)
	t.Request.Prompt = fmt.Sprintf("asked-%d-%s-asked-%d-", seq, pad(), seq)
	t.Request.Messages = []task.Message{
		{Role: "user", Content: fmt.Sprintf("said-%d-", seq), Parts: []task.Part{{Image: &task.Image{MIME: "image/png", Data: picture(seq)}}}},
		{Role: "assistant", Reasoning: fmt.Sprintf("thought-%d-", seq), ToolCalls: []task.ToolCall{{ID: "c", Name: fmt.Sprintf("called-%d-", seq)}}},
	}
	t.Request.Front.Reply = fmt.Appendf(nil, `"repeated-%d-"`, seq)
	t.Request.Chat = &task.Chat{Tools: []task.Tool{{Name: fmt.Sprintf("tool-%d-", seq)}}}
	t.Prompt = t.Request.Prompt
	t.RequestDigest = t.Digest()
	out := ended(t, task.Completed, fmt.Sprintf("answered-%d-", seq), pad(), fmt.Sprintf("-answered-%d-", seq), fmt.Sprintf("{args-%d-}", seq))
	out.Transcript.Marks = []task.Mark{
		{Piece: 1, Kind: task.EventReasoning},
		{Piece: 3, Kind: task.EventToolCall, Call: task.CallPart{ID: fmt.Sprintf("id-%d-", seq), Name: fmt.Sprintf("calls-%d-", seq)}},
	}
	out.End.ToolCalls = out.Transcript.Parts().Calls
	out.End.Receipt.TranscriptSHA256, out.End.Receipt.TranscriptForm = out.Transcript.Digest(), out.Transcript.Form()
	return out
}

// picture is the bytes of an image, which are in the file as base64.
func picture(seq uint64) []byte { return fmt.Appendf(nil, "picture-%09d-", seq) }

// secrets are what must be gone with a task: its words, and what is made of them.
func secrets(r task.Record) (all [][]byte) {
	seq := r.Task.Seq
	for _, text := range []string{
		fmt.Sprintf("asked-%d-", seq), fmt.Sprintf("said-%d-", seq), fmt.Sprintf("answered-%d-", seq),
		base64.StdEncoding.EncodeToString(picture(seq)), fmt.Sprintf("thought-%d-", seq), fmt.Sprintf("called-%d-", seq), fmt.Sprintf("tool-%d-", seq),
		fmt.Sprintf("args-%d-", seq), fmt.Sprintf("id-%d-", seq), fmt.Sprintf("calls-%d-", seq),
		fmt.Sprintf("repeated-%d-", seq),
		r.Task.RequestDigest, r.End.Receipt.TranscriptSHA256, hex.EncodeToString(r.Task.Request.BodySHA256[:]),
	} {
		all = append(all, []byte(text))
	}
	return append(all, r.Proof.SHA256[:])
}

// requireGone looks for them in the ledger's files.
func requireGone(t *testing.T, path string, records ...task.Record) {
	t.Helper()
	for _, part := range parts(path) {
		data, err := os.ReadFile(part)
		if os.IsNotExist(err) {
			continue
		}
		require.NoError(t, err)
		for _, r := range records {
			for _, word := range secrets(r) {
				require.False(t, bytes.Contains(data, word), "task %d: %q is in %s", r.Task.Seq, word, part)
			}
		}
	}
}

// Nothing of deleted tasks is in the files, whatever pages their rows were moved through: they are accepted, finished and deleted
// in different orders, beside tasks that stay and tasks that are swept.
// LO-833
func TestDeletedWordsAreGoneFromTheFiles(t *testing.T) {
	const tasks = 400
	l := open(t, Options{offhand: true, Bundles: &bundle.Keep{}, RetainAge: time.Hour})
	r := rand.New(rand.NewPCG(8, 33))
	records := make([]task.Record, tasks)
	for i := range records {
		records[i] = secret(uint64(i+1), r)
	}
	shuffled := func(do func(i int)) {
		for at := 0; at < tasks; at += 200 { // nearly in order, as tasks run
			for _, i := range r.Perm(200) {
				do(at + i)
			}
		}
	}
	shuffled(func(i int) { require.NoError(t, l.Accept(t.Context(), records[i].Task)) })
	shuffled(func(i int) { end(t, l, records[i]) })
	for i := range records {
		records[i].Proof = get(t, l, records[i].Task.ID).Proof
	}
	var gone, kept []task.Record
	for i, n := range r.Perm(tasks) {
		if i%3 == 0 {
			kept = append(kept, records[n])
			continue
		}
		gone = append(gone, records[n])
		if i%200 == 1 { // all the others' deletions share the last passes
			require.NoError(t, l.Delete(t.Context(), records[n].Task.ID, epoch))
			requireGone(t, l.o.Path, records[n])
			continue
		}
		require.NoError(t, l.submit(t.Context(), &op{kind: opDelete, run: func(w *writer) error { return w.delete(records[n].Task.ID, epoch) }}))
	}
	require.NoError(t, l.Delete(t.Context(), gone[0].Task.ID, epoch))
	requireGone(t, l.o.Path, gone...)
	data, err := os.ReadFile(l.o.Path)
	require.NoError(t, err)
	for _, r := range kept {
		require.Equal(t, r, get(t, l, r.Task.ID))
		require.True(t, bytes.Contains(data, secrets(r)[2]), "a test that would not find it proves nothing")
	}
	report, err := l.Check(t.Context())
	require.NoError(t, err)
	require.Empty(t, report.Problems)
	require.Equal(t, len(kept), report.Verified)
}

// A crash between a deletion and the pass over the file: the next start makes the pass.
// LO-833
func TestACrashDoesNotKeepWhatWasDeleted(t *testing.T) {
	l := open(t, Options{Bundles: &bundle.Keep{}})
	r := secret(1, rand.New(rand.NewPCG(1, 1)))
	end(t, l, r)
	r = get(t, l, r.Task.ID)
	var killed string
	require.NoError(t, l.submit(t.Context(), &op{
		kind: opDelete, run: func(w *writer) error { return w.delete(r.Task.ID, epoch) },
		then: func() { killed = file(t); leave(t, l, killed) },
	}))
	data, err := os.ReadFile(killed + "-wal")
	require.NoError(t, err)
	require.True(t, bytes.Contains(data, secrets(r)[0]))
	next := open(t, Options{Path: killed})
	require.Eventually(t, func() bool {
		var due bool
		return next.db.QueryRow("SELECT count(*) > 0 FROM erasing").Scan(&due) == nil && !due
	}, 10*time.Second, 5*time.Millisecond)
	requireGone(t, killed, r)
}

// Somebody who reads the ledger for a long time, such as a backup, keeps the log of writes from being emptied. The deletion waits, and then
// says so; the next one empties it.
// LO-833
func TestADeletionWaitsForReaders(t *testing.T) {
	core, _ := observer.New(zap.WarnLevel)
	l := open(t, Options{Log: zap.New(core), Bundles: &bundle.Keep{}})
	r := secret(1, rand.New(rand.NewPCG(1, 1)))
	end(t, l, r, secret(2, rand.New(rand.NewPCG(2, 2))))
	r = get(t, l, r.Task.ID)
	other, err := sql.Open("sqlite", dsn(l.o.Path, "mode=ro"))
	require.NoError(t, err)
	defer other.Close()
	rows, err := other.Query("SELECT seq FROM task")
	require.NoError(t, err)
	require.True(t, rows.Next())

	gone, leave := context.WithTimeout(t.Context(), 3*emptyEvery)
	defer leave()
	require.ErrorIs(t, l.Delete(gone, r.Task.ID, epoch), context.DeadlineExceeded)
	require.NotNil(t, get(t, l, r.Task.ID).Deleted, "it is deleted, but its words may still be in a file")
	accept(t, l, 3) // others do not wait for it
	require.NoError(t, rows.Close())
	require.NoError(t, rows.Err())
	require.NoError(t, l.Delete(t.Context(), r.Task.ID, epoch))
	requireGone(t, l.o.Path, r)
}

// A damaged entry can be deleted: that is what its reader is told to do.
// LO-832
func TestADamagedTaskCanBeDeleted(t *testing.T) {
	l := open(t, Options{})
	r := secret(1, rand.New(rand.NewPCG(1, 1)))
	end(t, l, r)
	require.NoError(t, l.submit(t.Context(), &op{kind: opAccept, run: func(w *writer) error {
		_, err := w.conn.ExecContext(context.Background(), "UPDATE request SET task = '{'")
		return err
	}}))
	_, _, err := l.Get(t.Context(), r.Task.ID)
	require.Error(t, err)
	require.NoError(t, l.Delete(t.Context(), r.Task.ID, epoch))
	left := get(t, l, r.Task.ID)
	require.Equal(t, task.Completed, left.State)
	require.Equal(t, epoch, left.Deleted.At)
	require.Equal(t, "unknown", left.Task.Request.ModelRef)
	require.ErrorIs(t, l.Delete(t.Context(), "nobody's", epoch), ledger.ErrUnknown)
}
