// SPDX-License-Identifier: GPL-3.0-or-later

package task

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// LO-842: what a client reads of a pool that takes no task: the state, and whether waiting helps.
func TestARefusalNamesTheState(t *testing.T) {
	for _, c := range []struct {
		stands    Standing
		code      Code
		retriable bool
		waitMS    int64
		says      string
	}{
		{Standing{State: PoolLoading}, PoolUnready, true, 1000, "pool 'p' is loading and has no Ready replica yet: try again in a moment; `llama-orch pools p` says why"},
		{Standing{State: PoolLoading, Progress: 0.4, Retry: 3 * time.Second, Reason: "it crashed"}, PoolUnready, true, 3000, "is loading (40 %) and has no Ready replica yet: try again in a moment: it crashed"},
		{Standing{State: PoolFetching, Progress: 0.25}, PoolUnready, true, 5000, "the model of pool 'p' is being fetched (25 %)"},
		{Standing{State: PoolDraining}, PoolUnready, false, 0, "pool 'p' is draining, and takes no tasks until somebody brings it back: `llama-orch pool resume p`"},
		{Standing{State: PoolDrained, Retry: time.Second}, PoolUnready, false, 0, "pool 'p' is drained, and takes no tasks"},
		{Standing{State: PoolFailed, Reason: "put it there", Fixed: true, Retry: time.Second}, PoolUnavailable, false, 0, "pool 'p' failed, and takes no tasks: put it there; once that is mended, `llama-orch pool load p`"},
		{Standing{State: PoolFailed, Reason: "gave up", Retry: time.Minute}, PoolUnavailable, true, 60000, "pool 'p' failed, and takes no tasks: gave up"},
	} {
		e := c.stands.Refusal("p", "llamacpp")
		v := e.Envelope()
		require.Equal(t, c.code, v.Code)
		require.Equal(t, c.retriable, v.Retriable, "%+v", c.stands)
		require.Contains(t, v.Message, c.says)
		require.Equal(t, "p", v.PoolID)
		require.Equal(t, "llamacpp", v.Engine)
		if c.waitMS == 0 {
			require.Nil(t, v.RetryAfterMS)
			require.NotContains(t, v.Message, "try again in a moment")
		} else {
			require.Equal(t, c.waitMS, *v.RetryAfterMS)
		}
	}
}
