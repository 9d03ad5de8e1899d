// SPDX-License-Identifier: GPL-3.0-or-later

package sqlite

import (
	"bytes"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/llama-orch/llama-orch/service/record/ledger/entry"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

func reader(t *testing.T, path string) *Reader {
	t.Helper()
	r, err := OpenReader(path)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r
}

// spoil changes a ledger behind its back.
func spoil(t *testing.T, path, text string) {
	t.Helper()
	db, err := sql.Open("sqlite", dsn(path))
	require.NoError(t, err)
	done, err := db.Exec(text)
	require.NoError(t, err)
	n, err := done.RowsAffected()
	require.NoError(t, err)
	require.Positive(t, n)
	require.NoError(t, db.Close())
}

// LO-202, LO-204
func TestCheckFindsWhatIsNotAsReceiptsSay(t *testing.T) {
	path := filled(t, false)
	requireWhole(t, path)
	for what, text := range map[string]string{
		"SHA-256":              "UPDATE transcript SET text = 'one twO' WHERE seq = 2",
		"longer or shorter":    "UPDATE transcript SET text = 'one two!' WHERE seq = 4",
		"no varints":           "UPDATE transcript SET ends = x'ff' WHERE seq = 6",
		"task-8":               "UPDATE request SET task = '{' WHERE seq = 8",
		"task-10":              "DELETE FROM request WHERE seq = 10",
		"no outcome, or two":   "UPDATE task SET outcome = '{}' WHERE seq = 12",
		"of task task-14 has":  "DELETE FROM transcript WHERE seq = 14",
		"body_sha256":          "UPDATE request SET sum = NULL, task = json_set(task, '$.request.body_sha256', 'abc') WHERE seq = 16",
		"what was asked":       "UPDATE request SET task = json_set(task, '$.request.prompt', 'abc') WHERE seq = 20",
		"how it ended":         "UPDATE task SET sealed_at = '0-00000000' WHERE seq = 22",
		"unexpected end of JS": "UPDATE task SET outcome = '' WHERE seq = 18",
	} {
		damaged := filepath.Join(t.TempDir(), FileName)
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(damaged, data, 0o600))
		spoil(t, damaged, text)
		report, err := reader(t, damaged).Check(t.Context())
		require.NoError(t, err)
		require.Len(t, report.Problems, 1, text)
		require.Contains(t, report.Problems[0], what)
		require.Equal(t, 99, report.Verified)
	}
}

// LO-202
func TestCheckReadsWhatItCanOfADamagedFile(t *testing.T) {
	path := filled(t, false)
	overwrite(t, path, 6*4096, 4096)
	report, err := reader(t, path).Check(t.Context())
	require.NoError(t, err)
	require.NotEmpty(t, report.Problems)
	require.Equal(t, Damaged, faultOf(t, reader(t, path).Backup(t.Context(), filepath.Join(t.TempDir(), "copy.db"))).Fault)
}

// LO-202
func TestBackupIsWholeWhileTheLedgerIsWritten(t *testing.T) {
	l := open(t, Options{})
	for seq := uint64(1); seq <= 50; seq++ {
		accept(t, l, seq)
	}
	stop, stopped := make(chan struct{}), make(chan error, 1)
	go func() {
		for seq := uint64(51); ; seq++ {
			select {
			case <-stop:
				stopped <- nil
				return
			default:
			}
			if err := l.Accept(t.Context(), sample(seq)); err != nil {
				stopped <- err
				return
			}
		}
	}()
	r := reader(t, l.o.Path)
	copied := filepath.Join(t.TempDir(), "copy.db")
	require.NoError(t, r.Backup(t.Context(), copied))
	close(stop)
	require.NoError(t, <-stopped)
	require.ErrorContains(t, r.Backup(t.Context(), copied), "there already")
	require.ErrorContains(t, r.Backup(t.Context(), filepath.Join(t.TempDir(), "gone", "x")), "no such file")

	entries, err := os.ReadDir(filepath.Dir(copied))
	require.NoError(t, err)
	require.Len(t, entries, 1, "nothing half done is left")
	info, err := os.Stat(copied)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode())
	report, err := reader(t, copied).Check(t.Context())
	require.NoError(t, err)
	require.Empty(t, report.Problems)
	require.GreaterOrEqual(t, report.States[task.Queued], 50)

	restored := open(t, Options{Path: copied})
	require.Equal(t, id(1), live(t, restored)[0])
	accept(t, restored, 10_000)
	var mode int
	require.NoError(t, restored.db.QueryRow("SELECT auto_vacuum FROM pragma_auto_vacuum").Scan(&mode))
	require.Equal(t, 2, mode, "a copy can shrink too")
}

// LO-202, LO-416
func TestExportHoldsTextBack(t *testing.T) {
	l := open(t, Options{})
	s := sample(1)
	s.Prompt, s.Request.Messages = "PRIVATE prompt", []task.Message{{Role: "user", Content: "PRIVATE message"}}
	s.Request.Inputs, s.Sampling.Stop, s.Request.Params.Stop = []string{"PRIVATE input"}, []string{"PRIVATE stop"}, []string{"PRIVATE stop"}
	s.Request.Chat = &task.Chat{Tools: []task.Tool{{Name: "PRIVATE tool"}}}
	require.NoError(t, l.Accept(t.Context(), s))
	r := ended(s, task.Completed, "PRIVATE thought", "PRIVATE ", "<answer>", "PRIVATE {}")
	r.Transcript.Marks = []task.Mark{
		{Piece: 0, Kind: task.EventReasoning}, {Piece: 3, Kind: task.EventToolCall, Call: task.CallPart{ID: "PRIVATE id", Name: "PRIVATE name"}},
	}
	r.End.ToolCalls = r.Transcript.Parts().Calls
	r.End.Receipt.TranscriptSHA256, r.End.Receipt.TranscriptForm = r.Transcript.Digest(), r.Transcript.Form()
	r.End.Result = json.RawMessage(`{"embedding":["PRIVATE"]}`)
	end(t, l, r)
	accept(t, l, 2)
	end(t, l, ended(sample(2), task.StateCanceled, "PRIVATE"))
	accept(t, l, 3)

	export := func(withText bool) (lines []entry.Exported, text string) {
		var out bytes.Buffer
		require.NoError(t, reader(t, l.o.Path).Export(t.Context(), &out, withText))
		text = out.String()
		for line := range strings.Lines(text) {
			var e entry.Exported
			require.NoError(t, json.Unmarshal([]byte(line), &e))
			lines = append(lines, e)
		}
		require.Len(t, lines, 3)
		return lines, text
	}
	lines, text := export(false)
	require.NotContains(t, text, "PRIVATE")
	require.Equal(t, sha256Hex("PRIVATE prompt"), lines[0].PromptSHA256)
	require.Equal(t, r.End.Receipt.TranscriptSHA256, lines[0].TranscriptSHA256)
	require.Equal(t, r.End.Receipt, *lines[0].Receipt)
	require.Equal(t, task.FormParts, lines[0].TranscriptForm)
	require.Equal(t, 4, lines[0].TokensOut)
	require.Equal(t, task.FormText, lines[1].TranscriptForm)
	require.Equal(t, task.Canceled, lines[1].Error.Code)
	require.Equal(t, task.Queued, lines[2].State)
	require.True(t, lines[2].FinishedAt.IsZero())

	lines, _ = export(true)
	require.Equal(t, entry.Text{
		Prompt: "PRIVATE prompt", Messages: s.Request.Messages, Chat: s.Request.Chat, Inputs: s.Request.Inputs, Transcript: "PRIVATE <answer>",
		Reasoning: "PRIVATE thought", ToolCalls: []task.ToolCall{{ID: "PRIVATE id", Name: "PRIVATE name", Arguments: "PRIVATE {}"}}, Result: r.End.Result,
	}, *lines[0].Text)
}

func sha256Hex(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}
