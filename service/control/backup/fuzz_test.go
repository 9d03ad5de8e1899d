// SPDX-License-Identifier: GPL-3.0-or-later

package backup

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzManifest: whatever a backup says of itself, it names files of a data folder alone, or is refused with what to do.
//
// LO-632, LO-861
func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"format":1,"made_by":"v1","files":1,"schema":1}`), "00  state.db\n")
	f.Add([]byte(`{"format":99}`), "00  ../state.db\n")
	f.Add([]byte(`{}`), "00  artifacts/sha256/aa/\n00  models/files/../x.json")
	f.Fuzz(func(t *testing.T, manifest []byte, list string) {
		dir := t.TempDir()
		sum := sha256.Sum256(manifest)
		list = hex.EncodeToString(sum[:]) + "  " + manifestName + "\n" + list
		require.NoError(t, os.WriteFile(filepath.Join(dir, manifestName), manifest, 0o600))
		require.NoError(t, os.WriteFile(filepath.Join(dir, sumsName), []byte(list), 0o600))
		root, err := os.OpenRoot(dir)
		require.NoError(t, err)
		defer func() { _ = root.Close() }()
		m, sums, err := (&source{dir: dir, root: root}).read()
		if err != nil {
			e, ok := errors.AsType[*Error](err)
			require.True(t, ok, "%v", err)
			require.NotEmpty(t, e.Remedy)
			return
		}
		require.Len(t, sums, m.Files)
		for _, s := range sums {
			require.True(t, filepath.IsLocal(inPlace(s.name)), "%q", s.name)
		}
	})
}
