// SPDX-License-Identifier: GPL-3.0-or-later

package hub

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
)

// FuzzConfig: whatever a model's config.json says, what is made of it can be.
//
// LO-861
func FuzzConfig(f *testing.F) {
	f.Add([]byte(`{"num_hidden_layers":2,"hidden_size":64,"num_attention_heads":4,"num_key_value_heads":2,"max_position_embeddings":512,"torch_dtype":"bfloat16"}`))
	f.Add([]byte(`{"text_config":{"num_hidden_layers":2,"head_dim":9,"num_key_value_heads":2}}`))
	f.Add([]byte(`{"num_hidden_layers":1048576,"head_dim":1048576,"num_key_value_heads":1048576,"torch_dtype":"float32"}`))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text []byte) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, configFile), text, 0o600))
		sizer, _ := Size(engine.Worker{Model: dir, Cards: 1, Slots: 1}, 0)
		s, ok := sizer.(size)
		require.True(t, ok)
		require.GreaterOrEqual(t, s.token, int64(0))
		require.GreaterOrEqual(t, s.own, 0)
		for _, ctx := range []int{0, 1, engine.MaxTokens} {
			estimate, err := sizer.At(ctx)
			require.Positive(t, estimate.Host)
			for _, card := range estimate.Cards {
				require.True(t, card > 0 || card == 0 && err != nil, "%d bytes at a context of %d", card, ctx)
			}
		}
	})
}
