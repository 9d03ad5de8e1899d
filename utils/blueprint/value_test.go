// SPDX-License-Identifier: GPL-3.0-or-later

package blueprint

import (
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// References are read by hand, since expressions took a fifth of a step's time. These expressions say what they are.
//
// LO-925
func TestReferencesAreWhatTheExpressionsSay(t *testing.T) {
	found := regexp.MustCompile(`\$?\$\{[^}]*\}`)
	form := regexp.MustCompile(`^(inputs|steps|item|index|last)((?:\.[A-Za-z0-9_-]+|\[(?:[0-9]{1,6}|\*)\])*)$`)
	part := regexp.MustCompile(`\.[A-Za-z0-9_-]+|\[[^\]]*\]`)
	piece := rapid.SampledFrom([]string{
		"$", "{", "}", "${", "inputs", "steps", "item", "last", "index", ".", "a", "-", "_9", "[", "]", "*", "1", "123456", "1234567", "[3]", "[*]", ".x", "é", " ",
	})
	rapid.Check(t, func(t *rapid.T) {
		text := strings.Join(rapid.SliceOfN(piece, 0, 12).Draw(t, "pieces"), "")
		var got []string
		for rest := text; ; {
			begin, end := find(rest)
			if begin < 0 {
				break
			}
			got, rest = append(got, rest[begin:end]), rest[end:]
		}
		require.Equal(t, found.FindAllString(text, -1), got, text)

		r, err := parseRef(text)
		want := form.FindStringSubmatch(strings.TrimSpace(text))
		if want == nil {
			require.ErrorContains(t, err, "is no reference", text)
			return
		}
		require.Equal(t, want[1], r.root, text)
		require.Equal(t, part.FindAllString(want[2], -1), r.parts, text)
	})
}
