// SPDX-License-Identifier: GPL-3.0-or-later

package utils_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// goBlock is a piece of Go in a document.
var goBlock = regexp.MustCompile("(?s)```go\n(.*?)```")

// What the guide shows stands in the examples, which run.
//
// LO-901, LO-917
func TestTheGuideShowsWhatRuns(t *testing.T) {
	t.Parallel()
	guide, err := os.ReadFile("../.docs/programming.md")
	require.NoError(t, err)
	examples := ""
	for _, file := range []string{"../sdk/example_test.go", "example_test.go"} {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		examples += string(text)
	}
	blocks := goBlock.FindAllStringSubmatch(string(guide), -1)
	require.Len(t, blocks, 2)
	for _, b := range blocks {
		var indented strings.Builder
		for line := range strings.Lines(b[1]) {
			indented.WriteString("\t" + line)
		}
		require.Contains(t, examples, indented.String())
	}
}
