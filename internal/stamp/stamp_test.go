// SPDX-License-Identifier: GPL-3.0-or-later

package stamp

import (
	"runtime/debug"
	"testing"

	"github.com/stretchr/testify/require"
)

// LO-638: `go install ...@v1.2.0` gives a program that says v1.2.0; a stamp comes first, and a checkout's guess does not count.
func TestVersionOfAnInstalledProgram(t *testing.T) {
	installed := &debug.BuildInfo{Main: debug.Module{Version: "v1.2.0"}}
	require.Equal(t, "v1.2.0", version(Unknown, installed))
	require.Equal(t, "1.2.1", version("1.2.1", installed))
	require.Equal(t, Unknown, version(Unknown, &debug.BuildInfo{Main: debug.Module{Version: "(devel)"}}))
	require.Equal(t, Unknown, version(Unknown, &debug.BuildInfo{Main: debug.Module{Version: "v0.0.0-2026"}, Settings: []debug.BuildSetting{{Key: "vcs", Value: "git"}}}))
	require.Equal(t, Unknown, version(Unknown, nil))
}
