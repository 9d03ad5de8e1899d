// SPDX-License-Identifier: GPL-3.0-or-later

package datafolder_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/control/datafolder"
)

// HME-003: one process alone has the folder, whatever becomes of the file in it, until it gives it back.
func TestOneProcessAloneHasTheFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "data")
	first, err := datafolder.Take(dir)
	require.NoError(t, err)
	for range 2 {
		_, err = datafolder.Take(dir)
		require.ErrorContains(t, err, "another orchestratord uses the data folder "+dir)
		require.NoError(t, os.RemoveAll(filepath.Join(dir, "lock")))
	}
	require.NoError(t, first.Close())
	require.NoError(t, first.Close(), "again")
	second, err := datafolder.Take(dir)
	require.NoError(t, err, "what was refused has left no lock behind")
	require.NoError(t, second.Close())
}

// LO-813: what others can write decides what is run, and a link may lead anywhere.
func TestAFolderOfOthersIsRefused(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o777))
	_, err := datafolder.Take(dir)
	require.ErrorContains(t, err, "take the data folder")
	require.NoError(t, os.Chmod(dir, 0o700))
	require.NoError(t, os.Symlink(filepath.Join(t.TempDir(), "other"), filepath.Join(dir, "lock")))
	_, err = datafolder.Take(dir)
	require.Error(t, err)
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err = datafolder.Take(file)
	require.ErrorContains(t, err, "set data_dir")
}

// LO-632: whether somebody has a folder is seen without touching it.
func TestWhetherAFolderIsFree(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	require.NoError(t, datafolder.Free(dir))
	require.NoDirExists(t, dir)
	f, err := datafolder.Take(dir)
	require.NoError(t, err)
	require.ErrorContains(t, datafolder.Free(dir), "another orchestratord uses")
	require.NoError(t, f.Close())
	require.NoError(t, datafolder.Free(dir))
}

// LO-702: a data folder keeps its name, and no other has it.
func TestADataFolderHasAName(t *testing.T) {
	one, other := t.TempDir(), t.TempDir()
	name, err := datafolder.HostID(one)
	require.NoError(t, err)
	again, err := datafolder.HostID(one)
	require.NoError(t, err)
	require.Equal(t, name, again)
	theirs, err := datafolder.HostID(other)
	require.NoError(t, err)
	require.NotEqual(t, name, theirs)
	require.NoError(t, os.WriteFile(filepath.Join(one, datafolder.Host), []byte("cut"), 0o600))
	renamed, err := datafolder.HostID(one)
	require.NoError(t, err)
	require.NotEqual(t, name, renamed, "what is no name is replaced")
}
