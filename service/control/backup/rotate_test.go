// SPDX-License-Identifier: GPL-3.0-or-later

package backup_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/control/backup"
	"github.com/llama-orch/llama-orch/service/control/datafolder"
)

// entries are the names in a folder.
func entries(t *testing.T, dir string) (found []string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, at := range list {
		found = append(found, at.Name())
	}
	return found
}

// LO-645: older backups go once the new one is whole, and nothing else does.
func TestOldBackupsGoOnceTheNewOneIsWhole(t *testing.T) {
	u, id, _ := filled(t)
	dir := filepath.Join(t.TempDir(), "backups")
	day := time.Date(2026, 12, 1, 3, 30, 0, 0, time.UTC)
	next := func(ctx context.Context) (backup.Rotation, error) {
		day = day.AddDate(0, 0, 1)
		return backup.Rotate(ctx, backup.Options{DataDir: u.dir, Dir: dir, Version: "v1", Now: func() time.Time { return day }}, 2)
	}
	const first, second, third, cut, foreign = "2026-12-02T03-30-00Z", "2026-12-03T03-30-00Z", "2026-12-04T03-30-00Z", "2026-11-01T03-30-00Z", "letters"
	for range 2 {
		r, err := next(t.Context())
		require.NoError(t, err)
		require.Empty(t, r.Deleted)
	}
	for _, name := range []string{cut, foreign} {
		require.NoError(t, os.Mkdir(filepath.Join(dir, name), 0o700))
	}
	r, err := next(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{filepath.Join(dir, first)}, r.Deleted)
	require.Equal(t, []string{filepath.Join(dir, cut)}, r.Unfinished)
	require.Equal(t, []string{cut, second, third, foreign}, entries(t, dir))
	_, err = backup.Restore(t.Context(), r.Made, filepath.Join(t.TempDir(), "data"), false)
	require.NoError(t, err)

	stopped, stop := context.WithCancel(t.Context())
	stop()
	for range 3 { // nights in which it fails
		_, err = next(stopped)
		require.ErrorIs(t, err, context.Canceled)
	}
	require.Equal(t, []string{cut, second, third, foreign}, entries(t, dir))

	hex := id[len("sha256-"):]
	at := filepath.Join(u.dir, datafolder.Artifacts, "sha256", hex[:2], hex[2:])
	require.NoError(t, os.WriteFile(at, []byte("other"), 0o600))
	for range 3 { // nights in which it finds damage
		r, err = next(t.Context())
		require.NoError(t, err)
		require.Empty(t, r.Deleted)
	}
	require.NoError(t, os.WriteFile(at, []byte("a plan"), 0o600))
	for range 2 { // it was mended
		_, err = next(t.Context())
		require.NoError(t, err)
	}
	require.Equal(t, []string{cut, "2026-12-11T03-30-00Z", "2026-12-12T03-30-00Z", foreign}, entries(t, dir), "the two newest without damage")
}
