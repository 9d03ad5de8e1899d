// SPDX-License-Identifier: GPL-3.0-or-later

// Package service_test holds what the tree below service/ must be as a whole.
package service_test

import (
	"go/build"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/llama-orch/llama-orch/"

// No way leads from what is shipped to the fake engine, or to anything else of the tests. Which package may import which is
// the linter's to hold (.golangci.yml, depguard).
//
// ORCH-3058
func TestWhatIsShippedReachesNoTest(t *testing.T) {
	open, seen := []string{"cmd/orchestratord", "cmd/llama-orch", "sdk"}, map[string]bool{}
	for len(open) > 0 {
		at := open[0]
		open = open[1:]
		if seen[at] {
			continue
		}
		seen[at] = true
		p, err := build.Default.ImportDir(filepath.Join("..", filepath.FromSlash(at)), 0)
		require.NoError(t, err)
		for _, path := range p.Imports {
			require.NotEqual(t, "testing", path, "%s imports it", at)
			if own, ok := strings.CutPrefix(path, module); ok {
				require.False(t, strings.HasPrefix(own, "harness/") || strings.HasPrefix(own, "ci/"), "%s imports %s", at, path)
				open = append(open, own)
			}
		}
	}
	for _, reached := range []string{"gen", "service/task", "service/fleet/worker", "service/fleet/engine/llamacpp"} {
		require.True(t, seen[reached], "%s is not reached from the commands: the search is broken", reached)
	}
}
