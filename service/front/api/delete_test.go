// SPDX-License-Identifier: GPL-3.0-or-later

package api

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/gen"
	"github.com/llama-orch/llama-orch/service/task"
)

// LO-832
func TestDeleteTask(t *testing.T) {
	f := setup(t)
	res := f.do("DELETE", "/v1/tasks/t1", "")
	require.Equal(t, 204, res.StatusCode)
	require.NotEmpty(t, res.Header.Get("X-Correlation-Id"))
	require.Equal(t, "t1", f.tasks.deleted[0])
	require.NotEmpty(t, f.tasks.deleted[1], "who asked for it")
	f.tasks.err = task.Errorf(task.Conflict, "cancel it first")
	res = f.do("DELETE", "/v1/tasks/t1", "")
	require.Equal(t, 409, res.StatusCode)
	require.Equal(t, gen.ErrorCodeCONFLICT, envelope(t, res).Code)
	f.tasks.err = task.Errorf(task.Deleted, "it was deleted")
	res = f.do("GET", "/v1/tasks/t1", "")
	require.Equal(t, 410, res.StatusCode)
	require.Equal(t, gen.ErrorCodeDELETED, envelope(t, res).Code)
	at := time.UnixMilli(1_700_000_000_123)
	require.Equal(t, at.UTC(), toStatus(task.Status{DeletedAt: at}).DeletedAt.Value)
	require.False(t, toStatus(task.Status{}).DeletedAt.Set)
}
