// SPDX-License-Identifier: GPL-3.0-or-later

package nearest

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestName(t *testing.T) {
	known := []string{"max_tokens", "messages", "model_ref", "prompt", "port"}
	for name, want := range map[string]string{
		"max_token": "max_tokens", "maxtokens": "max_tokens", "modelref": "model_ref", "Prompt": "prompt", "prt": "port",
		"model": "", "x": "", "": "", strings.Repeat("p", 1000): "",
	} {
		require.Equal(t, want, Name(name, known), name)
	}
	require.Equal(t, "v1", Name("v2", []string{"default", "v1"}))
	require.Empty(t, Name("ab", []string{"id"}), "all of it would be wrong")
}
