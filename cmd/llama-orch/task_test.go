// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/gen"
)

// LO-832
func TestRm(t *testing.T) {
	t.Parallel()
	d := newDaemon()
	addr := d.serve(t)
	got := call(t.Context(), addr, "", "rm", "a", "b")
	require.Zero(t, got.code, got.err)
	require.Equal(t, "deleted task a\ndeleted task b\n", got.out)
	got = call(t.Context(), addr, "", "--json", "rm", "c")
	require.JSONEq(t, `{"task_id":"c","deleted":true}`, got.out)
	got = call(t.Context(), addr, "", "rm", "d", "runs", "e")
	require.Equal(t, exitFailed, got.code)
	require.Equal(t, "deleted task d\n", got.out)
	require.Contains(t, got.err, "CONFLICT")
	require.Equal(t, []gen.TaskID{"a", "b", "c", "d"}, d.deleted)
	require.Equal(t, exitUsage, call(t.Context(), addr, "", "rm").code)
}
