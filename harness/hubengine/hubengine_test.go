// SPDX-License-Identifier: GPL-3.0-or-later

package hubengine

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/watch"
)

// LO-461, LO-463: the stand-in writes down how it was called, says the lines of its load, serves once the load may end, and serves what it was told to.
func TestAnEngineLoadsAndServes(t *testing.T) {
	for name, c := range map[string]struct {
		args func(model, port string) []string
		path string
		says string
	}{
		"vllm": {func(model, port string) []string {
			return []string{"serve", model, "--served-model-name", "rain", "--host", "127.0.0.1", "--port", port, "--max-model-len", "512"}
		}, "/v1/models", `"rain"`},
		"tgi": {func(model, port string) []string {
			return []string{"--model-id", model, "--hostname", "127.0.0.1", "--port", port, "--max-total-tokens", "512"}
		}, "/info", `"max_total_tokens":512`},
	} {
		t.Run(name, func(t *testing.T) {
			model := filepath.Join(t.TempDir(), "model")
			require.NoError(t, WriteModel(model, 1<<20))
			require.NoError(t, os.WriteFile(filepath.Join(model, ".hold"), nil, 0o600))
			require.NoError(t, os.WriteFile(filepath.Join(model, ".lines"), []byte("Loading: 40%\n"), 0o600))
			l, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			_, port, err := net.SplitHostPort(l.Addr().String())
			require.NoError(t, err)
			require.NoError(t, l.Close())
			args := c.args(model, port)
			go Main(context.Background(), args, &bytes.Buffer{}) // it serves until the test's process ends
			get := func() string {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1:"+port+c.path, http.NoBody)
				require.NoError(t, err)
				res, err := http.DefaultTransport.RoundTrip(req)
				if err != nil {
					return ""
				}
				defer res.Body.Close()
				var b bytes.Buffer
				_, err = b.ReadFrom(res.Body)
				require.NoError(t, err)
				return b.String()
			}
			var calls []Call
			require.NoError(t, watch.Poll(t.Context(), "the call", func() (err error) { calls, err = Calls(model); return err }))
			require.Len(t, calls, 1)
			require.Equal(t, args, calls[0].Args)
			require.Empty(t, get(), "its load may not end yet")
			require.NoError(t, os.Remove(filepath.Join(model, ".hold")))
			require.NoError(t, watch.Poll(t.Context(), "the server", func() error {
				if get() == "" {
					return os.ErrNotExist
				}
				return nil
			}))
			require.Contains(t, get(), c.says)
		})
	}
}

// LO-462: it dies with the words that it is told, behind its lines; and of a command line without a model, or a model that is not there.
func TestAnEngineDiesAsItIsTold(t *testing.T) {
	model := filepath.Join(t.TempDir(), "model")
	require.NoError(t, WriteModel(model, 0))
	require.NoError(t, os.WriteFile(filepath.Join(model, ".lines"), []byte("Loading: 40%\n"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(model, ".dies"), []byte("CUDA out of memory\n"), 0o600))
	var said bytes.Buffer
	require.Equal(t, 1, Main(t.Context(), []string{"serve", model, "--port", "1"}, &said))
	require.Equal(t, "Loading: 40%\nCUDA out of memory\n", said.String())
	for says, args := range map[string][]string{"model_tag": {"serve"}, "FileNotFoundError": {"--model-id", filepath.Join(model, "nobody"), "--port", "1"}} {
		said.Reset()
		require.Equal(t, 1, Main(t.Context(), args, &said))
		require.Contains(t, said.String(), says)
	}
}
