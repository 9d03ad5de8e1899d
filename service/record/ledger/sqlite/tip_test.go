// SPDX-License-Identifier: GPL-3.0-or-later

package sqlite

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/llama-orch/llama-orch/service/task"
)

// What somebody does to the files of a daemon that was killed, and what the next start tells. The log of writes has the accepts of the tasks 3 to 5
// and an end; the database has the first two.
// LO-835
func TestWhatIsMissingIsTold(t *testing.T) {
	for name, test := range map[string]struct {
		do      func(t *testing.T, path, older string)
		commits int64 // that are told to be missing, at most; 0: nothing is missing
		left    int   // tasks that are there, at least
	}{
		"nothing":                     {do: func(*testing.T, string, string) {}, left: 5},
		"the log of writes removed":   {do: func(t *testing.T, p, _ string) { require.NoError(t, os.Remove(p+"-wal")) }, commits: 4, left: 2},
		"the log of writes emptied":   {do: func(t *testing.T, p, _ string) { require.NoError(t, os.Truncate(p+"-wal", 0)) }, commits: 4, left: 2},
		"the log of writes cut":       {do: halve, commits: 3, left: 2},
		"an older copy in its place":  {do: func(t *testing.T, p, older string) { replace(t, p, older) }, commits: 5, left: 1},
		"the small file removed":      {do: func(t *testing.T, p, _ string) { require.NoError(t, os.Remove(p+tipSuffix)) }, left: 5},
		"the small file of no use":    {do: func(t *testing.T, p, _ string) { overwrite(t, p+tipSuffix, 0, tipBytes) }, left: 5},
		"the small file of long ago":  {do: func(t *testing.T, p, older string) { copyFile(t, older+tipSuffix, p+tipSuffix) }, left: 5},
		"all of it of an older state": {do: func(t *testing.T, p, older string) { replace(t, p, older); copyFile(t, older+tipSuffix, p+tipSuffix) }, left: 1},
	} {
		t.Run(name, func(t *testing.T) {
			var c clock
			l := open(t, Options{Now: c.now})
			accept(t, l, 1)
			older := file(t)
			leaveAll(t, l, older)
			c.advance(time.Minute)
			accept(t, l, 2)
			done, err := l.w.empty() // the writer rests
			require.NoError(t, err)
			require.True(t, done)
			c.advance(time.Minute)
			accept(t, l, 3, 4, 5)
			end(t, l, ended(sample(3), task.Completed, "x"))
			path := file(t)
			leaveAll(t, l, path)

			test.do(t, path, older)
			core, logs := observer.New(zap.ErrorLevel)
			next := open(t, Options{Path: path, Log: zap.New(core), Now: c.now})
			require.GreaterOrEqual(t, len(states(t, next)), test.left)
			report, err := next.Check(t.Context())
			require.NoError(t, err)
			if test.commits == 0 {
				require.Empty(t, logs.All())
				require.Empty(t, report.Losses)
				return
			}
			require.Len(t, logs.All(), 1)
			told := logs.All()[0].ContextMap()
			require.LessOrEqual(t, told["commits"], test.commits)
			require.Positive(t, told["commits"])
			require.Equal(t, epoch.Add(2*time.Minute).UnixMilli(), told["to"].(time.Time).UnixMilli())
			require.False(t, told["from"].(time.Time).After(told["to"].(time.Time)))
			require.Len(t, report.Losses, 1)
			seq, err := next.NextSeq()
			require.NoError(t, err)
			require.EqualValues(t, 6, seq, "a number that somebody was told is not given again")
			accept(t, next, seq)

			next = reopen(t, next)
			require.Len(t, logs.All(), 1, "it is told once")
			report, err = next.Check(t.Context())
			require.NoError(t, err)
			require.Len(t, report.Losses, 1, "and can still be looked up")
			require.Empty(t, report.Problems)
		})
	}
}

// states are the tasks that are there.
func states(t *testing.T, l *Ledger) (found []uint64) {
	t.Helper()
	for seq := uint64(1); seq <= 5; seq++ {
		_, ok, err := l.Get(t.Context(), id(seq))
		require.NoError(t, err)
		if ok {
			found = append(found, seq)
		}
	}
	return found
}

// leaveAll is leave, with the number of the last commit.
func leaveAll(t *testing.T, l *Ledger, path string) {
	t.Helper()
	leave(t, l, path)
	copyFile(t, l.o.Path+tipSuffix, path+tipSuffix)
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(to, data, 0o600))
}

// replace puts an older copy in the place of a ledger, as an operator would.
func replace(t *testing.T, path, older string) {
	t.Helper()
	for _, suffix := range []string{"-wal", "-shm"} {
		require.NoError(t, os.RemoveAll(path+suffix))
	}
	r := reader(t, older)
	copied := filepath.Join(t.TempDir(), "backup.db")
	require.NoError(t, r.Backup(t.Context(), copied))
	copyFile(t, copied, path)
}

// halve cuts the log of writes off in the middle of it.
func halve(t *testing.T, path, _ string) {
	t.Helper()
	info, err := os.Stat(path + "-wal")
	require.NoError(t, err)
	require.NoError(t, os.Truncate(path+"-wal", info.Size()/2))
}
