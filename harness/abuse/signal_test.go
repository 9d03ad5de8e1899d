// SPDX-License-Identifier: GPL-3.0-or-later

package abuse_test

import (
	"fmt"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/supply/provision"
)

// Which signal all processes of the service get, and what becomes of the task that runs: it ends as the stop's time allows, and so does
// everything else.
// LO-837
func TestSignalsToTheWholeService(t *testing.T) {
	t.Parallel()
	exe := built(t)
	libs, err := provision.LocateEngineLibs()
	require.NoError(t, err)
	for name, sent := range map[string]struct {
		workers, daemon syscall.Signal
	}{
		"SIGTERM, as systemd does with KillMode=control-group": {syscall.SIGTERM, syscall.SIGTERM},
		"SIGINT, as a terminal does":                           {syscall.SIGINT, syscall.SIGINT},
		"SIGHUP, as a terminal that is closed does":            {syscall.SIGHUP, syscall.SIGTERM},
	} {
		t.Run(name, func(t *testing.T) {
			d, _ := serveWith(t, exe, fmt.Sprintf(`
  - {id: only, model: {id: m, ref: "file:%s"}, device: cpu, ctx: 256, pace: 10, sampler_profile: v1, provisioning: {mode: builtin}}
`, haiku(t)), map[string]string{provision.EnvEngineLibs: libs}, "--stop-within", "60s")
			_, err = d.Idle(t.Context(), "only")
			require.NoError(t, err)
			workers := d.Workers()
			require.Len(t, workers, 1)
			admitted, err := d.Client.Submit(t.Context(), task(30))
			require.NoError(t, err)
			s, err := d.Client.Open(t.Context(), admitted.TaskID)
			require.NoError(t, err)
			for len(s.Tokens) < 2 {
				_, err := s.Next()
				require.NoError(t, err)
			}
			require.NoError(t, syscall.Kill(-workers[0].Pid, sent.workers))
			require.NoError(t, syscall.Kill(-d.Pid(), sent.daemon))
			require.NoError(t, s.Rest())
			require.NotNil(t, s.End, "%+v", s.Fail)
			code, err := d.Exit()
			require.NoError(t, err)
			require.Zero(t, code)
			require.False(t, workers[0].Alive())
		})
	}
}
