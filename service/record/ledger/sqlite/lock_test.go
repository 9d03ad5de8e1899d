// SPDX-License-Identifier: GPL-3.0-or-later

package sqlite

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// One process has the ledger open, whatever became of the folder's own lock: the database file itself is locked. Others may
// read it all the same.
// LO-202
func TestASecondProcessIsLockedOut(t *testing.T) {
	path := filled(t, false)
	l := open(t, Options{Path: path})
	_, err := Open(Options{Path: path})
	require.Equal(t, Held, faultOf(t, err).Fault)
	_, err = Aside(path, epoch)
	require.Equal(t, Held, faultOf(t, err).Fault)

	cmd, lines := launch(t, "second", path)
	require.True(t, lines.Scan())
	require.Equal(t, string(Held), lines.Text())
	require.NoError(t, cmd.Wait())
	accept(t, l, 201)

	// What that process closed did not take SQLite's own locks away from this one.
	copied := filepath.Join(t.TempDir(), "copy.db")
	r, err := OpenReader(path)
	require.NoError(t, err)
	require.NoError(t, r.Backup(t.Context(), copied))
	require.NoError(t, r.Close())
	accept(t, l, 202)

	require.NoError(t, l.Close())
	moved, err := Aside(path, epoch)
	require.NoError(t, err)
	require.NoError(t, os.Rename(moved, path))
	require.Len(t, live(t, open(t, Options{Path: path})), 102)
}
