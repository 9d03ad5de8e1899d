// SPDX-License-Identifier: GPL-3.0-or-later

package pool_test

import (
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/fleet/pool"
)

// LO-843: what a crash leaves in the pool's reason, in its log and in the lines that are kept, however long the trace is.
func TestACrashIsToldByItsFirstLinesAndItsSignal(t *testing.T) {
	for name, c := range map[string]struct {
		child child
		says  []string
		hides string
		first string // a line that is kept of the beginning
	}{
		"a Go panic with a long trace": {
			child{Trace: "index out of range [7] with length 3"},
			[]string{"exit status 2", "it said: panic: index out of range [7] with length 3"},
			"rax", "panic: index out of range [7] with length 3",
		},
		"an assertion, and then a signal": {
			child{Signal: syscall.SIGKILL},
			[]string{"signal: killed, SIGKILL", "it said: /src/ggml.c:3412: GGML_ASSERT(n > 0) failed | frame 0 | frame 1"},
			"frame 79", "/src/ggml.c:3412: GGML_ASSERT(n > 0) failed",
		},
		"a script whose command died of SIGSEGV": {
			child{Crash: "Segmentation fault", Code: 139},
			[]string{"exit status 139, as a shell says of SIGSEGV", "it said: Segmentation fault"},
			"last words", "Segmentation fault",
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t, func(b *bundle, o *pool.Options) { o.Specs[0].ModelPath, o.BackoffMin = b.model(c.child), bound }, plain)
			info := b.await("p", is(pool.Backoff, pool.Failed))
			for _, says := range c.says {
				require.Contains(t, info.LastError, says)
			}
			require.NotContains(t, info.LastError, c.hides)
			require.Contains(t, info.LogTail, c.first)
			logged := b.logs.FilterMessage("replica is not ready").All()[0].ContextMap()["error"].(string)
			require.True(t, strings.HasPrefix(info.LastError, logged[:40]), logged)
		})
	}
}
