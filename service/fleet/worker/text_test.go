// SPDX-License-Identifier: GPL-3.0-or-later

package worker

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// ORCH-3054
func TestTextHoldsBackPartialRunes(t *testing.T) {
	txt := newText(nil)
	var got []string
	for _, piece := range []string{"a", "\xf0", "\x9f\x90", "\xb8b", "\xe8", "c", "\xc3"} {
		out, _ := txt.push([]byte(piece), false)
		got = append(got, string(out))
	}
	require.Equal(t, []string{"a", "", "", "🐸b", "", "\uFFFDc", ""}, got)
	out, _ := txt.push(nil, true)
	require.Empty(t, out, "a rune that was cut off is left out")
}

// ORCH-3054
func TestTextProperty(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		letters := rapid.SampledFrom([]string{"a", "b", "ab", "é", "🐸", "\n"})
		whole := strings.Join(rapid.SliceOfN(letters, 0, 40).Draw(rt, "whole"), "")
		stops := rapid.SliceOfN(rapid.Map(rapid.SliceOfN(letters, 1, 4), func(s []string) string { return strings.Join(s, "") }), 0, 3).Draw(rt, "stops")
		txt := newText(stops)
		var sent strings.Builder
		rest, stopped := whole, ""
		for rest != "" && stopped == "" {
			n := rapid.IntRange(1, len(rest)).Draw(rt, "cut")
			var out []byte
			out, stopped = txt.push([]byte(rest[:n]), n == len(rest))
			require.True(rt, utf8.Valid(out))
			sent.Write(out)
			rest = rest[n:]
		}
		for _, s := range stops {
			require.NotContains(rt, sent.String(), s)
		}
		if stopped == "" {
			require.Equal(rt, whole, sent.String())
		} else {
			require.True(rt, strings.HasPrefix(whole, sent.String()+stopped))
		}
	})
}
