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

// LO-844
func TestAStopStringIsComparedWithWhatTheClientGets(t *testing.T) {
	for _, c := range []struct {
		pieces     []string
		stop, sent string
	}{
		{[]string{"a", "\xff", "b"}, "\uFFFD", "a"},
		{[]string{"a", "\xffb", "c"}, "\uFFFDb", "a"},
		{[]string{"a\xe8", "c", "d"}, "\uFFFDc", "a"},
		{[]string{"a", "\xe8", "\xff", "c"}, "a\uFFFDc", ""},
		{[]string{"a", "\xff", "\xff", "b"}, "\uFFFD\uFFFDb", "a"},
		{[]string{"a", "\uFFFD", "b"}, "\uFFFDb", "a"},
		{[]string{"a\xf0", "\x9f", "\x90", "\xb8", "b"}, "🐸b", "a"},
		{[]string{"a\xef", "\xbf", "\xbd", "b"}, "\uFFFD", "a"},
	} {
		txt := newText([]string{c.stop})
		sent, stopped := "", ""
		for i := 0; i < len(c.pieces) && stopped == ""; i++ {
			var out []byte
			out, stopped = txt.push([]byte(c.pieces[i]), false)
			sent += string(out)
		}
		require.Equal(t, c.stop, stopped, "%q", c.pieces)
		require.Equal(t, c.sent, sent, "%q", c.pieces)
	}
	txt := newText([]string{"\uFFFD"})
	out, stopped := txt.push([]byte("a\xe8"), true)
	require.Equal(t, "a", string(out))
	require.Empty(t, stopped, "of a rune that was cut off nothing is sent")
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
