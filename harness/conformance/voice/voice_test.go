// SPDX-License-Identifier: GPL-3.0-or-later

package voice_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/conformance/voice"
)

func said(token func(i int) string) string {
	var b strings.Builder
	for i := range 64 {
		b.WriteString(token(i))
	}
	return b.String()
}

// The same question gets the same answer, another prompt, seed or parameter another one. There are runes of several bytes, and an answer begins with text.
//
// LO-458, ORCH-3045
func TestTheVoiceDependsOnWhatIsAskedAlone(t *testing.T) {
	first := said(voice.Of("rain", 7, 0.8))
	require.Equal(t, first, said(voice.Of("rain", 7, 0.8)))
	for _, other := range []func(int) string{voice.Of("snow", 7, 0.8), voice.Of("rain", 8, 0.8), voice.Of("rain", 7, 0.9), voice.Of("rain")} {
		require.NotEqual(t, first, said(other))
	}
	require.True(t, utf8.ValidString(first))
	require.Greater(t, len(first), utf8.RuneCountInString(first))
	for seed := range 100 {
		require.NotEmpty(t, voice.Of("rain", seed)(0))
	}
}

// LO-458
func TestALongerPromptHasMoreTokens(t *testing.T) {
	require.Equal(t, 1, voice.Count(""))
	require.Equal(t, 2, voice.Count("rain"))
	require.Equal(t, 3, voice.Count("rain "))
}
