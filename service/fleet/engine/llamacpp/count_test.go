// SPDX-License-Identifier: GPL-3.0-or-later

package llamacpp_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
)

// ORCH-3014: a prompt that nobody has counted is counted only where it and the answer may be more than the context holds.
func TestAPromptThatFitsIsNotCounted(t *testing.T) {
	var b strings.Builder
	e := fake(t, map[string]string{"/props": props, "/tokenize": "no count", "/completion": token("a") + last})
	fits := job(nil)
	fits.MaxTokens = 256 - engine.MostTokens(fits.Prompt)
	_, err := e.Generate(t.Context(), fits, collect(&b))
	require.NoError(t, err)
	fits.MaxTokens++
	_, err = e.Generate(t.Context(), fits, collect(&b))
	require.ErrorContains(t, err, "/tokenize")
}
