// SPDX-License-Identifier: GPL-3.0-or-later

package process

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// ORCH-3001
func TestTheLastLinesOfAWorkerAreKept(t *testing.T) {
	r := &ring{}
	for _, line := range []string{"one", "two", "three"} {
		r.add("stderr", line)
	}
	require.Equal(t, []string{"two", "three"}, r.tail(2))
	require.Equal(t, []string{"one", "two", "three"}, r.last("stderr", 5))
	for range 2 * tailLines {
		r.add("stdout", "z")
	}
	require.Len(t, r.tail(1000), tailLines)
	require.Empty(t, r.last("stderr", 5))
}
