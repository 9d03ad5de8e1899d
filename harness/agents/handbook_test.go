// SPDX-License-Identifier: GPL-3.0-or-later

package agents

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The handbook has the configuration of each agent, word for word as it is tested.
//
// LO-423
func TestTheHandbookHasTheConfigurations(t *testing.T) {
	data, err := os.ReadFile("../../.docs/fronts.md")
	require.NoError(t, err)
	for _, a := range agents {
		texts := []string{strings.Join(a.env, "\n")}
		for _, text := range a.files {
			texts = append(texts, strings.TrimSuffix(text, "\n"))
		}
		for _, text := range texts {
			require.Contains(t, string(data), strings.ReplaceAll(text, "\n", "\n    "), a.name)
		}
	}
}
