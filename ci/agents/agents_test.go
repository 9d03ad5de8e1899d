// SPDX-License-Identifier: GPL-3.0-or-later

package agents

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// LO-423: what is installed is what the suite runs.
func TestTheSuiteRunsWhatIsInstalled(t *testing.T) {
	var set struct{ Dependencies map[string]string }
	require.NoError(t, json.Unmarshal(packages, &set))
	suite, err := os.ReadFile("../../harness/agents/agent_test.go")
	require.NoError(t, err)
	require.Len(t, set.Dependencies, 4)
	for name := range set.Dependencies {
		parts := strings.Split(name, "/")
		require.Contains(t, string(suite), strings.TrimSuffix(parts[len(parts)-1], "-ai"), name)
	}
}
