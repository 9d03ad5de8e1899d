// SPDX-License-Identifier: GPL-3.0-or-later

package plainjson_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/internal/plainjson"
)

func TestNothingIsEscapedForHTML(t *testing.T) {
	text, err := plainjson.Encode("<p> & co\n")
	require.NoError(t, err)
	require.Equal(t, []byte("\"<p> & co\\n\""), text, "one line, as it is")
	_, err = plainjson.Encode(func() {})
	require.Error(t, err)
}
