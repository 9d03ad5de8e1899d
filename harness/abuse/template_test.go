// SPDX-License-Identifier: GPL-3.0-or-later

package abuse_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/client"
	"github.com/llama-orch/llama-orch/harness/daemon"
	"github.com/llama-orch/llama-orch/service/supply/provision"
)

// withTemplate writes a copy of the bundled model that has another chat template.
func withTemplate(t *testing.T, template string) (path string) {
	t.Helper()
	whole, err := os.ReadFile("../../models/haiku/haiku.gguf")
	require.NoError(t, err)
	key := []byte("tokenizer.chat_template")
	at := bytes.Index(whole, key) + len(key) + 4 // behind the key are the type, the length and the text
	require.Greater(t, at, len(key)+4)
	old := int(binary.LittleEndian.Uint64(whole[at:]))
	for (len(template)-old)%32 != 0 { // the weights stay where they are aligned
		template += " "
	}
	out := bytes.Clone(whole[:at])
	out = binary.LittleEndian.AppendUint64(out, uint64(len(template)))
	out = append(append(out, template...), whole[at+8+old:]...)
	path = filepath.Join(t.TempDir(), "evil.gguf")
	require.NoError(t, os.WriteFile(path, out, 0o600))
	return path
}

// What the template of a model is, and what a client that sends messages is told. Each time the worker is the same one afterwards.
// LO-804, LO-805
func TestTemplatesOfModels(t *testing.T) {
	exe := built(t)
	libs, err := provision.LocateEngineLibs()
	require.NoError(t, err)
	nested := strings.Repeat("{% for i in range(20000) %}", 3) + strings.Repeat("{% endfor %}", 3)
	for template, says := range map[string]string{
		"{% if %}{{": "cannot be used",
		"{% macro f(x) %}{{ f(x ~ x) }}{% endmacro %}{{ f('x') }}": "than a template may",
		nested: "than a template may",
		"{{ raise_exception('roles must alternate') }}": "refused the messages: roles must alternate",
	} {
		d, _ := serveWith(t, exe, fmt.Sprintf(`
  - {id: only, model: {id: m, ref: "file:%s"}, device: cpu, ctx: 256, sampler_profile: v1, provisioning: {mode: builtin}}
`, withTemplate(t, template)), map[string]string{provision.EnvEngineLibs: libs})
		_, err := d.Idle(t.Context(), "only")
		require.NoError(t, err)
		before := d.Workers()
		require.Len(t, before, 1)
		for range 2 {
			_, err = d.Client.Submit(t.Context(), []byte(`{"model_ref":"m","workload":"completion","messages":[{"role":"user","content":"hello"}],"max_tokens":4}`))
			var refused *client.RefusedError
			require.ErrorAs(t, err, &refused)
			require.Equal(t, 400, refused.Status)
			require.Equal(t, "INVALID_PARAMS", refused.Code)
			require.Contains(t, refused.Message, "the chat template of evil.gguf")
			require.Contains(t, refused.Message, says)
		}
		finishes(t, d)
		require.Equal(t, before, d.Workers())
	}
}

// finishes requires that a plain task still runs.
func finishes(t *testing.T, d *daemon.Daemon) {
	t.Helper()
	admitted, err := d.Client.Submit(t.Context(), []byte(`{"model_ref":"m","workload":"completion","prompt":"a b c","max_tokens":4}`))
	require.NoError(t, err)
	s, err := d.Client.Open(t.Context(), admitted.TaskID)
	require.NoError(t, err)
	require.NoError(t, s.Rest())
	require.NotNil(t, s.End)
}
