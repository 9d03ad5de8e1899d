// SPDX-License-Identifier: GPL-3.0-or-later

package lines

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// ORCH-3001
func TestOutputIsCutIntoBoundedLines(t *testing.T) {
	const limit = 100
	var got []string
	c := &Cutter{Limit: limit, Each: func(line string) { got = append(got, line) }}
	for _, part := range []string{"one\ntw", "o \r\n\n", strings.Repeat("x", limit+9), "y\nbad \xff\nrest"} {
		n, err := c.Write([]byte(part))
		require.NoError(t, err)
		require.Len(t, part, n)
	}
	c.Flush()
	require.Equal(t, []string{"one", "two", strings.Repeat("x", limit) + "…", "bad \uFFFD", "rest"}, got)
}
