// SPDX-License-Identifier: GPL-3.0-or-later

package process

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// ORCH-3001
func TestOutputIsCutIntoBoundedLines(t *testing.T) {
	r := &ring{}
	l := &lines{each: func(line string) { r.add("stderr", line) }}
	for _, part := range []string{"one\ntw", "o\r\n\n", strings.Repeat("x", lineLimit+9), "y\nbad \xff\nrest"} {
		n, err := l.Write([]byte(part))
		require.NoError(t, err)
		require.Len(t, part, n)
	}
	l.flush()
	require.Equal(t, []string{"one", "two", strings.Repeat("x", lineLimit) + "…", "bad \uFFFD", "rest"}, r.tail(9))
	for range 2 * tailLines {
		r.add("stdout", "z")
	}
	require.Len(t, r.tail(1000), tailLines)
	require.Empty(t, r.last("stderr", 5))
}
