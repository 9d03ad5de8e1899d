// SPDX-License-Identifier: GPL-3.0-or-later

package sqlite

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/record/bundle"
	"github.com/llama-orch/llama-orch/service/record/ledger"
	"github.com/llama-orch/llama-orch/service/task"
)

// behind changes the rows of a ledger that is open.
func behind(t *testing.T, l *Ledger, text string) {
	t.Helper()
	require.NoError(t, l.submit(t.Context(), &op{kind: opAccept, run: func(w *writer) error {
		done, err := w.conn.ExecContext(context.Background(), text)
		if err == nil {
			n, _ := done.RowsAffected()
			require.EqualValues(t, 1, n, text)
		}
		return err
	}}))
}

// What is changed in the file, and is then not shown as if it were the record.
// LO-834
func TestWhatWasChangedIsNotShown(t *testing.T) {
	for _, change := range []string{
		"UPDATE transcript SET text = 'one twO' WHERE seq = 1",
		"UPDATE transcript SET ends = x'0205' WHERE seq = 1",
		"UPDATE transcript SET text = 'one two!' WHERE seq = 1",
		"UPDATE transcript SET marks = x'000101' WHERE seq = 1",
		"UPDATE transcript SET marks = x'000103' WHERE seq = 1",
		"UPDATE transcript SET logprobs = char(10) WHERE seq = 1",
		"DELETE FROM transcript WHERE seq = 1",
		"UPDATE request SET task = json_set(task, '$.request.prompt', 'Say nothing.') WHERE seq = 1",
		"UPDATE request SET task = json_set(task, '$.seed', 8) WHERE seq = 1",
		"UPDATE request SET task = '' WHERE seq = 1",
		"DELETE FROM request WHERE seq = 1",
		"UPDATE task SET pool_id = 'other' WHERE seq = 1",
		"UPDATE task SET priority = 'batch' WHERE seq = 1",
		"UPDATE task SET accepted_ms = accepted_ms + 1 WHERE seq = 1",
		"UPDATE task SET started_ms = started_ms + 1 WHERE seq = 1",
		"UPDATE task SET finished_ms = finished_ms + 1 WHERE seq = 1",
		"UPDATE task SET state = 'failed' WHERE seq = 1",
		"UPDATE task SET replica_id = 'default-1' WHERE seq = 1",
		"UPDATE task SET fingerprint = 'f2' WHERE seq = 1",
		"UPDATE task SET last_event_id = '3-11111112' WHERE seq = 1",
		"UPDATE task SET outcome = json_set(outcome, '$.end.tokens_in', 4) WHERE seq = 1",
		"UPDATE task SET outcome = json_set(outcome, '$.end.receipt.transcript_sha256', 'ab') WHERE seq = 1",
		"UPDATE task SET outcome = '{' WHERE seq = 1",
		"UPDATE task SET proof_bytes = 7 WHERE seq = 1",
		"UPDATE task SET deleted_ms = 7 WHERE seq = 1",
	} {
		l := open(t, Options{Bundles: &bundle.Keep{}, offhand: true})
		r := ended(sample(1), task.Completed, "one", " two")
		end(t, l, r, ended(sample(2), task.Completed, "whole"))
		proven := get(t, l, id(1)).Proof.SHA256
		behind(t, l, change)
		_, _, err := l.Get(t.Context(), id(1))
		require.ErrorIs(t, err, ledger.ErrDamaged, change)
		require.True(t, task.HasCode(err, task.Internal), change)
		require.Contains(t, task.AsError(err).Message, "`llama-orch rm task-1`")
		_, _, err = l.Proven(t.Context(), proven)
		require.ErrorIs(t, err, ledger.ErrDamaged, change)
		report, err := l.Check(t.Context())
		require.NoError(t, err)
		require.Len(t, report.Problems, 1, change)
		listed, err := l.List(t.Context(), "", 10)
		require.NoError(t, err)
		require.Len(t, listed, 2, "one damaged task does not hide the others")
		require.Equal(t, "whole", get(t, l, id(2)).Transcript.Text)
		require.NoError(t, l.Delete(t.Context(), id(1), epoch))
		require.NotNil(t, get(t, l, id(1)).Deleted)
	}
}

// Also where the digest of the transcript does not tell, as for how its calls were cut into tokens.
// LO-834, LO-416
func TestMarksThatWereChangedAreNotShown(t *testing.T) {
	for _, change := range []string{
		"UPDATE transcript SET marks = NULL WHERE seq = 1",
		"UPDATE transcript SET marks = x'000201000163016e' WHERE seq = 1",
		"UPDATE transcript SET marks = x'000201000163016e000201010000' WHERE seq = 1",
		"UPDATE transcript SET ends = x'0302' WHERE seq = 1",
	} {
		l := open(t, Options{Bundles: &bundle.Keep{}, offhand: true})
		r := ended(sample(1), task.Completed, "{\"", "a\"}")
		r.Transcript.Marks = []task.Mark{
			{Piece: 0, Kind: task.EventToolCall, Call: task.CallPart{ID: "c", Name: "n"}}, {Piece: 1, Kind: task.EventToolCall},
		}
		r.End.Receipt.TranscriptSHA256 = r.Transcript.Digest()
		end(t, l, r)
		require.Equal(t, r.Transcript, get(t, l, id(1)).Transcript)
		behind(t, l, change)
		_, _, err := l.Get(t.Context(), id(1))
		require.ErrorIs(t, err, ledger.ErrDamaged, change)
	}
}

// Of the tasks that a run before left, a damaged one is told apart, and the others are taken up.
// LO-834
func TestADamagedTaskDoesNotKeepTheOthersFromBeingTakenUp(t *testing.T) {
	l := open(t, Options{})
	accept(t, l, 1, 2, 3)
	behind(t, l, "UPDATE request SET task = json_set(task, '$.request.prompt', 'Say nothing.') WHERE seq = 2")
	l = reopen(t, l)
	claim, err := l.Claim(t.Context(), task.Host{ID: "me"})
	require.NoError(t, err)
	require.Equal(t, []string{id(1), id(2), id(3)}, ids(claim.Tasks))
	require.Nil(t, claim.Tasks[0].Err)
	broken := claim.Tasks[1]
	require.True(t, task.HasCode(broken.Err, task.Internal))
	broken.State, broken.FinishedAt = task.Failed, epoch
	end(t, l, broken)
	require.Equal(t, []string{id(1), id(3)}, live(t, l))
	_, _, err = l.Get(t.Context(), id(2))
	require.ErrorIs(t, err, ledger.ErrDamaged)
	require.NoError(t, l.Delete(t.Context(), id(2), epoch))
}
