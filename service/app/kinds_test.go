// SPDX-License-Identifier: GPL-3.0-or-later

package app

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/gen"
	"github.com/llama-orch/llama-orch/service/task"
)

// There is one list of the kinds of engines: what a pool may name, by the configuration's schema too, has an adapter, and the API's
// contract has a name for it.
//
// ORCH-3054, OC-CONFIG-6010
func TestThereIsOneListOfEngineKinds(t *testing.T) {
	var names []string
	for _, kind := range Kinds() {
		names = append(names, kind.Name)
	}
	require.Equal(t, task.EngineKinds(), names)
	for _, name := range names {
		require.Contains(t, gen.EngineName("").AllValues(), gen.EngineName(name))
	}
}
