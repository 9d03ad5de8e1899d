// SPDX-License-Identifier: GPL-3.0-or-later

package safefile

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// watchFor bounds a wait.
const watchFor = 10 * time.Second

func file(t *testing.T, name string, mode fs.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, []byte("text"), 0o600))
	require.NoError(t, os.Chmod(path, mode))
	return path
}

// LO-815
func TestOnlyRegularFilesAreOpened(t *testing.T) {
	f, at, err := Open(file(t, "f", 0o600))
	require.NoError(t, err)
	require.EqualValues(t, 4, at.Size())
	require.NoError(t, f.Close())
	pipe := filepath.Join(t.TempDir(), "pipe")
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))
	for _, path := range []string{pipe, t.TempDir(), "/dev/zero", "/dev/tty"} {
		_, _, err := Open(path)
		require.ErrorIs(t, err, ErrNotRegular, path)
	}
	_, _, err = Open(filepath.Join(t.TempDir(), "none"))
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// foreign is a file of another user's.
type foreign struct{ fs.FileInfo }

func (foreign) Sys() any { return &syscall.Stat_t{Uid: uint32(os.Geteuid() + 1)} }

// LO-813
func TestWhatOthersOwnOrCanWriteIsRefused(t *testing.T) {
	mine := file(t, "f", 0o644)
	require.NoError(t, CheckOwn(mine))
	text, err := ReadOwn(mine, 4)
	require.NoError(t, err)
	require.Equal(t, "text", string(text))
	_, err = ReadOwn(mine, 3)
	require.ErrorContains(t, err, "larger than 3 bytes")
	at, err := os.Stat(mine)
	require.NoError(t, err)
	require.ErrorContains(t, own(mine, foreign{at}), "belongs to user")
	for _, mode := range []fs.FileMode{0o620, 0o602, 0o666} {
		open := file(t, "f", mode)
		require.ErrorContains(t, CheckOwn(open), "chmod go-w")
		_, err := ReadOwn(open, 4)
		require.ErrorContains(t, err, "chmod go-w")
		require.ErrorContains(t, CheckOwnTree(filepath.Dir(open), 1), "chmod go-w")
	}
	link := filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(mine, link))
	_, err = ReadOwn(link, 4)
	require.ErrorIs(t, err, syscall.ELOOP)
	require.NoError(t, CheckOwnTree(filepath.Dir(link), 1), "a link of this user's")
}

// LO-813
func TestATreeIsSearchedSoManyLevelsDown(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "a", "b"), 0o700))
	require.NoError(t, syscall.Mkfifo(filepath.Join(dir, "a", "b", "pipe"), 0o600))
	require.NoError(t, CheckOwnTree(dir, 2))
	require.ErrorContains(t, CheckOwnTree(dir, 3), "is a pipe")
	require.NoError(t, os.Chmod(filepath.Join(dir, "a"), 0o770))
	require.ErrorContains(t, CheckOwnTree(dir, 1), "chmod go-w")
}

// LO-816
func TestAReadThatDoesNotComeBackIsLeftBehind(t *testing.T) {
	n, err := Wait(t.Context(), func(context.Context) (int, error) { return 7, nil })
	require.NoError(t, err)
	require.Equal(t, 7, n)
	hung := make(chan struct{})
	gone := errors.New("gone")
	for range maxLeft {
		ctx, cancel := context.WithCancelCause(t.Context())
		begun := make(chan struct{})
		go func() { <-begun; cancel(gone) }()
		_, err := Wait(ctx, func(context.Context) (int, error) { close(begun); <-hung; return 0, nil })
		require.ErrorIs(t, err, gone)
	}
	_, err = Wait(t.Context(), func(context.Context) (int, error) { return 7, nil })
	require.ErrorIs(t, err, ErrTooManyLeft)
	close(hung)
	require.Eventually(t, func() bool { return left.Load() == 0 }, watchFor, watchFor/1000)
}

// LO-803: a panic in a read is the caller's. One in a read that was left behind ends nobody.
func TestAPanicInARead(t *testing.T) {
	require.PanicsWithError(t, "panic: index out of range", func() {
		_, _ = Wait(t.Context(), func(context.Context) (int, error) { panic("index out of range") })
	})
	ctx, cancel := context.WithCancel(t.Context())
	hung := make(chan struct{})
	_, err := Wait(ctx, func(context.Context) (int, error) { cancel(); <-hung; panic("index out of range") })
	require.ErrorIs(t, err, context.Canceled)
	close(hung)
	require.Eventually(t, func() bool { return left.Load() == 0 }, watchFor, watchFor/1000)
}
