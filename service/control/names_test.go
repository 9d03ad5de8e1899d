// SPDX-License-Identifier: GPL-3.0-or-later

package control

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/supply/catalog"
	"github.com/llama-orch/llama-orch/service/task"
)

// LO-844
func TestTheNamesOfPoolsGoBeforeTheCatalogs(t *testing.T) {
	_, url := engineOf(t)
	o := operate(t, external("a", url))
	file, err := filepath.Abs("../../models/haiku/haiku.gguf")
	require.NoError(t, err)
	shelf := o.operator.shelf
	for _, id := range []string{"m-a", "label-a", "other"} {
		m, err := shelf.Create(t.Context(), catalog.Request{ID: id, Ref: "file:" + file})
		require.NoError(t, err)
		seen := candidates{Fleet: o.operator.Fleet, schedule: o.schedule}
		want := id // the pool's own name for its model, or its ref
		if id == "other" {
			want = m.Ref
		}
		require.Equal(t, want, seen.CanonicalRef(id))
		_, err = o.operator.Explain(t.Context(), task.Request{ModelRef: id, Workload: task.Completion})
		require.Equal(t, id == "other", task.HasCode(err, task.ModelNotFound), "no pool serves the file itself: %v", err)
		require.NoError(t, shelf.Delete(t.Context(), id))
	}
	require.Equal(t, "nobody", candidates{Fleet: o.operator.Fleet, schedule: o.schedule}.CanonicalRef("nobody"))
}
