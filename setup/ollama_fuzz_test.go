// SPDX-License-Identifier: GPL-3.0-or-later

package setup

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzManifest: whatever Ollama's folder has, what is read stays in it.
//
// LO-930, LO-861
func FuzzManifest(f *testing.F) {
	digest := "sha256:" + strings.Repeat("0", 64)
	f.Add([]byte(`{"layers":[{"mediaType":"`+layerPrefix+`model","digest":"`+digest+`"},{"mediaType":"`+layerPrefix+`params","digest":"`+digest+`"}]}`), []byte(`{"num_ctx":4096,"stop":["a"],"temperature":1e999}`))
	f.Add([]byte(`{"layers":[{"mediaType":"`+layerPrefix+`model","digest":"sha256:../../x"}]}`), []byte("["))
	f.Fuzz(func(t *testing.T, manifest, blob []byte) {
		dir := t.TempDir()
		require.NoError(t, os.MkdirAll(filepath.Join(dir, "manifests/registry.ollama.ai/library/m"), 0o700))
		require.NoError(t, os.Mkdir(filepath.Join(dir, "blobs"), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "manifests/registry.ollama.ai/library/m/latest"), manifest, 0o600))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "blobs", strings.Replace(digest, ":", "-", 1)), blob, 0o600))
		var s Seen
		s.Ollama(func(name string) string { return map[string]string{"OLLAMA_MODELS": dir}[name] })
		found := newFinder()
		m := Model{}
		found.params(&m, "m", filepath.Join(dir, "blobs", strings.Replace(digest, ":", "-", 1)))
		for _, one := range append(s.Models, m) {
			for _, arg := range one.Args {
				require.True(t, !filepath.IsAbs(arg) || strings.HasPrefix(arg, dir), "%q", arg)
			}
		}
	})
}
