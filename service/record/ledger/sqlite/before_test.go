// SPDX-License-Identifier: GPL-3.0-or-later

package sqlite

import (
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/record/bundle"
	"github.com/llama-orch/llama-orch/service/record/ledger/ledgertest"
	"github.com/llama-orch/llama-orch/service/task"
)

// before unpacks what a daemon of the version with schema 2 left when it was killed: tasks 1 to 12, of which 1, 2, 3 and 5 had
// ended, and 11, 7 and 9 were started, in this order; most of it is still in the log of writes.
func before(t *testing.T) string {
	t.Helper()
	path := file(t)
	for _, part := range []string{"", "-wal"} {
		packed, err := os.Open(filepath.Join("testdata", "schema2", FileName+part+".gz"))
		require.NoError(t, err)
		z, err := gzip.NewReader(packed)
		require.NoError(t, err)
		data, err := io.ReadAll(z)
		require.NoError(t, err)
		require.NoError(t, packed.Close())
		require.NoError(t, os.WriteFile(path+part, data, 0o600))
	}
	return path
}

// A file of the version before, as a kill left it, is taken up with all that is in it. What only reads leaves it alone, and says
// what to do.
// LO-202, OC-CTRL-2067
func TestAFileOfTheVersionBefore(t *testing.T) {
	path := before(t)
	_, err := OpenReader(path)
	require.Equal(t, TooOld, faultOf(t, err).Fault)

	l := open(t, Options{Path: path, Bundles: &bundle.Keep{Transcripts: true}})
	claim, err := l.Claim(t.Context(), task.Host{ID: "me"})
	require.NoError(t, err)
	require.Equal(t, []string{id(11), id(7), id(9), id(4), id(6), id(8), id(10), id(12)}, ids(claim.Tasks))
	require.Equal(t, task.Record{
		Task: sample(7), State: task.Running, ReplicaID: "default-0", Fingerprint: "f1", StartedAt: dispatched(sample(7)).At,
		Checkpoint: task.Checkpoint{Event: 5, Sum: [32]byte{7}},
	}, claim.Tasks[1])
	require.Equal(t, task.BestEffort, claim.Tasks[2].Task.Determinism)
	require.Equal(t, ended(sample(1), task.Completed, "one ", "two", " <é> 1"), get(t, l, id(1)))
	require.Equal(t, ended(sample(3), task.StateCanceled, "one ", "two", " <é> 3"), get(t, l, id(3)))
	listed, err := l.List(t.Context(), "", 99)
	require.NoError(t, err)
	require.Equal(t, []string{id(5), id(3), id(2), id(1)}, ids(listed))
	sessions, err := l.Sessions(t.Context())
	require.NoError(t, err)
	require.Len(t, sessions, 2)
	require.Equal(t, task.Amount{Tokens: 6, Cost: 2}, sessions[1].Spent)
	spent, err := l.Spent(t.Context(), epoch)
	require.NoError(t, err)
	require.Equal(t, map[string]task.Amount{"me": {Tokens: 6, Cost: 2}}, spent)
	_, ok, err := l.Proven(t.Context(), [32]byte{})
	require.NoError(t, err)
	require.False(t, ok, "what ended before has its bundle in a file")
	require.Equal(t, uint64(13), next(t, l))

	// It goes on as every ledger does.
	l.Started(dispatched(sample(8)))
	settle(t, l)
	require.Equal(t, []string{id(11), id(7), id(9), id(8), id(4)}, live(t, l)[:5])
	for _, seq := range []uint64{7, 8} {
		end(t, l, ended(sample(seq), task.Completed, "a", "b"))
		_, found, err := l.Proven(t.Context(), get(t, l, id(seq)).Proof.SHA256)
		require.NoError(t, err)
		require.True(t, found)
	}
	whole := func(path string) {
		r := reader(t, path)
		report, err := r.Check(t.Context())
		require.NoError(t, err)
		require.Empty(t, report.Problems)
		require.Equal(t, len(steps), report.Schema)
		require.Equal(t, map[task.State]int{task.Queued: 4, task.Running: 2, task.Completed: 4, task.Failed: 1, task.StateCanceled: 1}, report.States)
		var out bytes.Buffer
		require.NoError(t, r.Export(t.Context(), &out, true))
		require.Equal(t, 12, strings.Count(out.String(), "\n"))
	}
	whole(path)
	copied := filepath.Join(t.TempDir(), "copy.db")
	require.NoError(t, reader(t, path).Backup(t.Context(), copied))
	whole(copied)
	l = reopen(t, l)
	require.Equal(t, []string{id(11), id(9), id(4), id(6), id(10), id(12)}, live(t, l))
	opened(t, l).Sweep(ledgertest.Epoch.AddDate(1, 0, 0))
	require.Equal(t, 6, pages(t, l).tasks)
}
