// SPDX-License-Identifier: GPL-3.0-or-later

package generate

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWhatIsStaleIsNamed(t *testing.T) {
	have := map[string][]byte{"same.go": []byte("a"), "edited.go": []byte("b"), "dropped.go": []byte("c")}
	want := map[string][]byte{"same.go": []byte("a"), "edited.go": []byte("B"), "new/one.go": []byte("d")}
	require.Equal(t, []string{"gen/dropped.go", "gen/edited.go", "gen/new/one.go"}, differences("gen", have, want))
	require.Empty(t, differences("gen", want, want))
}

func TestATreeIsReadWhole(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "in"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "top"), []byte("1"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "in", "deep"), []byte("2"), 0o600))
	files, err := readTree(dir)
	require.NoError(t, err)
	require.Equal(t, map[string][]byte{"top": []byte("1"), "in/deep": []byte("2")}, files)

	_, err = readTree(filepath.Join(dir, "missing"))
	require.ErrorContains(t, err, "run `go tool mage gen`")
}
