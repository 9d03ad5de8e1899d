// SPDX-License-Identifier: GPL-3.0-or-later

package engine

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// ORCH-3053
func TestWhatLastWordsTell(t *testing.T) {
	d := Deaths{Harmless: []string{"pinned"}, Signs: []Sign{{OutOfVRAM, []string{"cuda: no memory"}}, {OutOfMemory, []string{"no memory"}}, {BadModel, []string{"bad magic"}}}}
	require.Equal(t, []Cause{OutOfVRAM, OutOfMemory}, d.Told([]string{"CUDA: no memory"}))
	require.Equal(t, []Cause{OutOfMemory, BadModel}, d.Told([]string{"Bad magic", "NO MEMORY"}), "in the order of the signs")
	require.Empty(t, d.Told([]string{"no memory that is pinned", "fine"}))
	require.Empty(t, Deaths{}.Told([]string{"no memory"}))
}
