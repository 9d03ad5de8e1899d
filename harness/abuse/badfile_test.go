// SPDX-License-Identifier: GPL-3.0-or-later

package abuse_test

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/client"
	"github.com/llama-orch/llama-orch/service/supply/provision"
)

// Files that are no models, sent to the catalog and to a pool. None is an outage or an error of the daemon's, and the pool serves on.
// LO-802, LO-806
func TestFilesThatAreNoModels(t *testing.T) {
	libs, err := provision.LocateEngineLibs()
	require.NoError(t, err)
	whole, err := os.ReadFile("../../models/haiku/haiku.gguf")
	require.NoError(t, err)
	dir := t.TempDir()
	file := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, content, 0o600))
		return path
	}
	model := file("good.gguf", whole)
	alignment := append([]byte("GGUF\x03\x00\x00\x00"), make([]byte, 8)...) // no tensors
	alignment = append(alignment, "\x01\x00\x00\x00\x00\x00\x00\x00\x11\x00\x00\x00\x00\x00\x00\x00general.alignment\x04\x00\x00\x00\x00\x00\x00\x00"...)
	d, c := serveWith(t, built(t), fmt.Sprintf(`
  - {id: only, model: {id: m, ref: "file:%s"}, device: cpu, ctx: 256, sampler_profile: v1, provisioning: {mode: builtin}}
`, model), map[string]string{provision.EnvEngineLibs: libs})
	_, err = d.Idle(t.Context(), "only")
	require.NoError(t, err)
	const missing = http.StatusNotFound
	for _, sent := range []struct {
		path            string
		catalog, reload int
		says            string // by the catalog
	}{
		{file("empty.gguf", nil), 400, 400, "no whole GGUF"},
		{file("text.gguf", []byte("no model")), 400, 400, "no whole GGUF"},
		{file("half.gguf", whole[:len(whole)/2]), 400, 400, "no whole GGUF"},
		{file("alignment.gguf", alignment), 400, 400, "its alignment is 0, and must be a power of 2"},
		{file("tensors.gguf", []byte("GGUF\x03\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")), 400, 400, "it counts 1099511627776 tensors"},
		{file("settings.gguf", []byte("GGUF\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00")), 400, 400, "settings"},
		{file("key.gguf", []byte("GGUF\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00k")), 400, 400, "ends within its header"},
		{file("zeros.gguf", append(bytes.Clone(whole[:64]), make([]byte, 4096)...)), 400, 400, "no whole GGUF"},
		{"/proc/self/mem", 400, missing, "name the model's file itself"},
		{dir, 400, missing, "is no file"},
		{filepath.Join(dir, "none.gguf"), missing, missing, "does not exist"},
	} {
		var refused *client.RefusedError
		_, err := d.Client.Post(t.Context(), "/v1/catalog/models", fmt.Appendf(nil, `{"ref":"file:%s","wait_ms":20000}`, sent.path), http.StatusCreated)
		require.ErrorAs(t, err, &refused, "%s\n%s", sent.path, d.Tail(40))
		require.Equal(t, sent.catalog, refused.Status, "%s: %v", sent.path, err)
		require.Contains(t, refused.Message, sent.says)
		require.NotContains(t, refused.Message, "runtime error")
		_, err = d.Client.Post(t.Context(), "/v1/pools/only/reload", fmt.Appendf(nil, `{"new_model_ref":"file:%s"}`, sent.path), http.StatusOK)
		require.ErrorAs(t, err, &refused, "%s\n%s", sent.path, d.Tail(40))
		require.Equal(t, sent.reload, refused.Status, "%s: %v", sent.path, err)
		finishes(t, d)
		readable(t, c)
	}
}
