// SPDX-License-Identifier: GPL-3.0-or-later

package blueprint

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzKept: whatever is in a run's folder, the run goes on with what is whole, or begins anew.
//
// LO-927, LO-861
func FuzzKept(f *testing.F) {
	out := `{"out":1}`
	f.Add([]byte("d "+sum([]byte(out))+" "+out+"\ne "), []byte(`{"path":"","state":"began","digest":"d"}`+"\n"+`{"path":"a","state":"done","digest":"d"}`+"\n{"))
	f.Add([]byte("d  \n \n"), []byte("null\n"))
	f.Fuzz(func(t *testing.T, results, journal []byte) {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, keptName), results, 0o600))
		require.NoError(t, os.WriteFile(filepath.Join(dir, journalName), journal, 0o600))
		s, err := open(dir, "x", "d")
		if err != nil {
			return
		}
		for digest := range s.where {
			_, _ = s.get(digest)
		}
		require.NoError(t, s.put("new", []byte("3"), nil))
		k, ok := s.get("new")
		require.True(t, ok)
		require.JSONEq(t, "3", string(k.Out))
		require.NoError(t, s.close())
	})
}
