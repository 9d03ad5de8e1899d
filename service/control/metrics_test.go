// SPDX-License-Identifier: GPL-3.0-or-later

package control

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/supply/fetch"
)

// LO-613: the data folder's file system tells what is free and what it has. What is free moves while the test runs, but is never more than all.
func TestTheDataFoldersFileSystem(t *testing.T) {
	dir := t.TempDir()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(FolderMetrics(dir))
	families, err := registry.Gather()
	require.NoError(t, err)
	require.Len(t, families, 1)
	kinds := map[string]float64{}
	for _, m := range families[0].GetMetric() {
		kinds[m.GetLabel()[0].GetValue()] = m.GetGauge().GetValue()
	}
	_, size, err := fetch.Disk(dir)
	require.NoError(t, err)
	require.Len(t, kinds, 2)
	require.EqualValues(t, size, kinds["size"])
	require.Positive(t, kinds["free"])
	require.Less(t, kinds["free"], kinds["size"])

	registry = prometheus.NewPedanticRegistry()
	registry.MustRegister(FolderMetrics(dir + "/gone"))
	families, err = registry.Gather()
	require.NoError(t, err)
	require.Empty(t, families, "a figure that nobody knows is left out")
}
