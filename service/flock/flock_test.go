// SPDX-License-Identifier: GPL-3.0-or-later

package flock_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/flock"
)

func open(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	require.NoError(t, err)
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// LO-202: who was killed a moment ago still has its locks.
func TestALockIsWaitedForALittle(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first := open(t, path)
	require.NoError(t, flock.Take(first))
	require.ErrorIs(t, flock.Take(open(t, path)), flock.ErrHeld)
	gone := time.AfterFunc(100*time.Millisecond, func() { _ = first.Close() })
	defer gone.Stop()
	require.NoError(t, flock.Take(open(t, path)))
}
