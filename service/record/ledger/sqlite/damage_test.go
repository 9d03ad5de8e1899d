// SPDX-License-Identifier: GPL-3.0-or-later

package sqlite

import (
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/llama-orch/llama-orch/service/record/ledger"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

// filled is a ledger of some tasks, closed. Left is what a killed process leaves: the log of writes has the last of them.
func filled(t *testing.T, left bool) string {
	t.Helper()
	path := file(t)
	l, err := Open(Options{Path: path, offhand: true})
	require.NoError(t, err)
	for seq := uint64(1); seq <= 200; seq++ {
		accept(t, l, seq)
		if seq%2 == 0 {
			end(t, l, ended(sample(seq), task.Completed, "one", " two"))
		}
	}
	if !left {
		require.NoError(t, l.Close())
		return path
	}
	killed := filepath.Join(t.TempDir(), FileName)
	for _, part := range []string{"", "-wal"} {
		data, err := os.ReadFile(path + part)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(killed+part, data, 0o600))
	}
	require.NoError(t, l.Close())
	return killed
}

// tree is what a folder's files hold. The index of the log of writes is derived, and an empty log is none.
func tree(t *testing.T, path string) map[string]string {
	t.Helper()
	found := map[string]string{}
	entries, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(filepath.Dir(path), e.Name()))
		require.NoError(t, err)
		if strings.HasSuffix(e.Name(), "-shm") || strings.HasSuffix(e.Name(), "-wal") && len(data) == 0 {
			continue
		}
		found[e.Name()] = fmt.Sprintf("%d %x", len(data), sha256.Sum256(data))
	}
	return found
}

func pragma(t *testing.T, path, text string) {
	t.Helper()
	db, err := sql.Open("sqlite", dsn(path))
	require.NoError(t, err)
	_, err = db.Exec("PRAGMA " + text)
	require.NoError(t, err)
	require.NoError(t, db.Close())
}

func overwrite(t *testing.T, path string, at, n int) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	require.NoError(t, err)
	noise := make([]byte, n)
	_, _ = rand.Read(noise) // never fails
	_, err = f.WriteAt(noise, int64(at))
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

// LO-202
func TestDamagedFileIsRefusedAndLeftAsItIs(t *testing.T) {
	for name, test := range map[string]struct {
		damage func(*testing.T, string)
		fault  Fault
	}{
		"random bytes":       {func(t *testing.T, p string) { overwrite(t, p, 0, 40960) }, Damaged},
		"random head":        {func(t *testing.T, p string) { overwrite(t, p, 0, 100) }, Damaged},
		"random middle":      {func(t *testing.T, p string) { overwrite(t, p, 8192, 20000) }, Damaged},
		"cut to nothing":     {func(t *testing.T, p string) { require.NoError(t, os.Truncate(p, 0)) }, Damaged},
		"cut in the head":    {func(t *testing.T, p string) { require.NoError(t, os.Truncate(p, 50)) }, Damaged},
		"cut after the head": {func(t *testing.T, p string) { require.NoError(t, os.Truncate(p, 4096)) }, Damaged},
		"cut in the middle":  {func(t *testing.T, p string) { require.NoError(t, os.Truncate(p, 30000)) }, Damaged},
		"newer schema":       {func(t *testing.T, p string) { pragma(t, p, "user_version = 99") }, TooNew},
		"older schema":       {func(t *testing.T, p string) { pragma(t, p, "user_version = 0") }, TooOld},
		"another program's":  {func(t *testing.T, p string) { pragma(t, p, "application_id = 7") }, Foreign},
		"a text file":        {func(t *testing.T, p string) { require.NoError(t, os.WriteFile(p, []byte("dear diary\n"), 0o600)) }, Damaged},
		"a folder": {func(t *testing.T, p string) {
			require.NoError(t, os.Remove(p))
			require.NoError(t, os.Mkdir(p, 0o700))
			require.NoError(t, os.RemoveAll(p+"-wal"))
		}, Damaged},
	} {
		for _, left := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, killed %v", name, left), func(t *testing.T) {
				path := filled(t, left)
				test.damage(t, path)
				var before map[string]string
				if name != "a folder" {
					before = tree(t, path)
				}
				l, err := Open(Options{Path: path})
				if err == nil { // what was overwritten is whole in the log of writes
					require.True(t, left)
					require.NoError(t, l.Close())
					requireWhole(t, path)
					return
				}
				e := faultOf(t, err)
				require.Equal(t, test.fault, e.Fault, err)
				require.Contains(t, err.Error(), path)
				require.Contains(t, e.Remedy, "orchestratord serve --ledger-aside")
				if before != nil {
					require.Equal(t, before, tree(t, path))
				}

				moved, err := Aside(path, epoch)
				require.NoError(t, err)
				require.Equal(t, path+".aside-20231114T221320.123Z", moved)
				if data, was := before[FileName]; was {
					require.Equal(t, data, tree(t, path)[filepath.Base(moved)])
				}
				accept(t, open(t, Options{Path: path}), 1)
			})
		}
	}
}

// requireWhole makes sure that the tasks of filled are there.
func requireWhole(t *testing.T, path string) {
	t.Helper()
	r, err := OpenReader(path)
	require.NoError(t, err)
	report, err := r.Check(t.Context())
	require.NoError(t, err)
	require.Equal(t, ledger.Report{Schema: len(steps), States: map[task.State]int{task.Queued: 100, task.Completed: 100}, Verified: 100}, report)
	require.NoError(t, r.Close())
}

// LO-202
func TestAsideTakesEveryPart(t *testing.T) {
	path := filled(t, true)
	before := tree(t, path)
	require.NoError(t, os.Remove(path)) // now the log of writes is there alone: a new ledger would take it for its own
	_, err := Open(Options{Path: path})
	require.Equal(t, Damaged, faultOf(t, err).Fault)
	moved, err := Aside(path, epoch)
	require.NoError(t, err)
	require.Equal(t, before[FileName+"-wal"], tree(t, path)[filepath.Base(moved)+"-wal"])
	_, err = Aside(path, epoch.Add(time.Second))
	require.NoError(t, err)
	l := open(t, Options{Path: path})
	require.Empty(t, live(t, l))

	moved, err = Aside(file(t), epoch)
	require.NoError(t, err)
	require.Empty(t, moved)
}

// LO-202
func TestAsideKeepsWhatIsThere(t *testing.T) {
	path := filled(t, false)
	_, err := Aside(path, epoch)
	require.NoError(t, err)
	require.NoError(t, open(t, Options{Path: path}).Close())
	before := tree(t, path)
	_, err = Aside(path, epoch)
	require.ErrorContains(t, err, "wait a moment")
	require.Equal(t, before, tree(t, path))
}

// LO-202
func TestPlacesThatCannotBeWritten(t *testing.T) {
	for name, path := range map[string]string{
		"a folder nobody can write":    filepath.Join("/proc", FileName),
		"a folder that is not there":   filepath.Join(t.TempDir(), "gone", FileName),
		"a folder that is a file":      filepath.Join(filled(t, false), FileName),
		"a file name that is too long": filepath.Join(t.TempDir(), strings.Repeat("x", 300)),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Open(Options{Path: path})
			require.Equal(t, NoAccess, faultOf(t, err).Fault)
		})
	}
}

// LO-202
func TestReaderNeedsALedger(t *testing.T) {
	path := file(t)
	_, err := OpenReader(path)
	require.Equal(t, Missing, faultOf(t, err).Fault)
	require.Empty(t, tree(t, path))
}

// A second version, of which the file is brought up to date, and a third that fails.
var (
	second = "ALTER TABLE task ADD COLUMN note TEXT; UPDATE task SET note = 'was ' || state;"
	broken = "CREATE TABLE half (x); UPDATE task SET nope = 1;"
)

// LO-202
func TestSchemaIsBroughtUpToDate(t *testing.T) {
	path := filled(t, true)
	l := open(t, Options{Path: path, steps: append(slices.Clone(steps), second)})
	require.Equal(t, uint64(201), next(t, l))
	require.Equal(t, "one two", get(t, l, id(2)).Transcript.Text)
	var note string
	require.NoError(t, l.db.QueryRow("SELECT note FROM task WHERE seq = 2").Scan(&note))
	require.Equal(t, "was completed", note)
	l = reopen(t, l)
	require.Equal(t, uint64(201), next(t, l))
	require.NoError(t, l.Close())

	_, err := Open(Options{Path: path})
	require.Equal(t, TooNew, faultOf(t, err).Fault)
	fresh := open(t, Options{steps: l.o.steps})
	accept(t, fresh, 1)
}

// LO-202
func TestStepThatFailsLeavesTheSchemaAsItWas(t *testing.T) {
	path := filled(t, false)
	_, err := Open(Options{Path: path, steps: append(slices.Clone(steps), second, broken)})
	require.ErrorContains(t, err, fmt.Sprint("version ", len(steps)+2))
	l := open(t, Options{Path: path, steps: append(slices.Clone(steps), second)}) // the step before it is done
	var tables int
	require.NoError(t, l.db.QueryRow("SELECT count(*) FROM sqlite_schema WHERE name = 'half'").Scan(&tables))
	require.Zero(t, tables)
	require.Equal(t, uint64(201), next(t, l))
}
