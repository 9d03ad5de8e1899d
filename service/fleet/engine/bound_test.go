// SPDX-License-Identifier: GPL-3.0-or-later

package engine

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// ORCH-3014: a bound that needs no tokenizer.
func TestMostTokens(t *testing.T) {
	require.Equal(t, 0, MostTokens())
	require.Equal(t, 8+3+8+2, MostTokens("abc", "é"))
}
