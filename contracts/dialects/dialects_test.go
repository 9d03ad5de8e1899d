// SPDX-License-Identifier: GPL-3.0-or-later

package dialects

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// LO-419: what was left out of a document is missed nowhere in it, and its licence stands beside it.
func TestTheDocumentsAreWhole(t *testing.T) {
	for name, document := range map[string][]byte{"openai": OpenAI, "openai requests": OpenAIRequests, "anthropic": Anthropic, "ollama": Ollama} {
		t.Run(name, func(t *testing.T) {
			var all any
			require.NoError(t, json.Unmarshal(document, &all))
			refs := 0
			var look func(v any)
			look = func(v any) {
				switch v := v.(type) {
				case []any:
					for _, item := range v {
						look(item)
					}
				case map[string]any:
					if ref, ok := v["$ref"].(string); ok {
						refs++
						at, path := all, strings.Split(strings.TrimPrefix(ref, "#/"), "/")
						require.True(t, strings.HasPrefix(ref, "#/"), ref)
						for _, step := range path {
							within, ok := at.(map[string]any)
							require.True(t, ok, ref)
							at = within[step]
						}
						require.NotNil(t, at, ref)
					}
					for _, item := range v {
						look(item)
					}
				}
			}
			look(all)
			require.NotZero(t, refs, "the search is broken")
			licence, err := os.ReadFile(strings.TrimSuffix(name, " requests") + "/LICENSE")
			require.NoError(t, err)
			require.NotEmpty(t, licence)
		})
	}
}
