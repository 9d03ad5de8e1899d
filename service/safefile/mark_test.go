// SPDX-License-Identifier: GPL-3.0-or-later

package safefile

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// LO-808: whatever somebody does to a file shows, also if they set its time back.
func TestAMarkTellsWhateverHappensToAFile(t *testing.T) {
	write := func(path, content string) {
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	}
	for name, c := range map[string]struct {
		do   func(path string)
		says string
		over bool // it was the very file
	}{
		"nothing":   {do: func(string) {}},
		"written":   {func(p string) { write(p, "efgh") }, "was written to", true},
		"cut short": {func(p string) { require.NoError(t, os.Truncate(p, 1)) }, "was written to", true},
		"written, and the time set back": {func(p string) {
			at, err := os.Stat(p)
			require.NoError(t, err)
			write(p, "efgh")
			require.NoError(t, os.Chtimes(p, at.ModTime(), at.ModTime()))
		}, "was written to", false},
		"replaced": {func(p string) {
			write(p+".new", "abcd")
			require.NoError(t, os.Rename(p+".new", p))
		}, "was replaced by another file", false},
		"removed":         {func(p string) { require.NoError(t, os.Remove(p)) }, "no such file", false},
		"a folder's name": {func(p string) { require.NoError(t, os.Remove(p)); require.NoError(t, os.Mkdir(p, 0o700)) }, "no regular file", false},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "f")
			write(path, "abcd")
			old := time.Now().Add(-time.Hour)
			require.NoError(t, os.Chtimes(path, old, old)) // and the time of change is now
			mark, err := MarkOf(path)
			require.NoError(t, err)
			for settled := false; !settled; { // the next change has another time
				now := filepath.Join(filepath.Dir(path), "now")
				write(now, "")
				at, err := MarkOf(now)
				require.NoError(t, err)
				settled = at.Changed.After(mark.Changed)
			}
			c.do(path)
			if c.says == "" {
				require.NoError(t, mark.Same())
			} else {
				require.ErrorContains(t, mark.Same(), c.says)
			}
			require.Equal(t, c.over, mark.Overwritten())
		})
	}
	_, err := MarkOf(t.TempDir())
	require.ErrorIs(t, err, ErrNotRegular)
	_, err = MarkOf("/nowhere/at/all")
	require.ErrorIs(t, err, fs.ErrNotExist)
}
