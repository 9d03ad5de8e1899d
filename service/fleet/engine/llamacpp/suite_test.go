// SPDX-License-Identifier: GPL-3.0-or-later

package llamacpp_test

import (
	"net/http/httptest"
	"testing"

	"github.com/llama-orch/llama-orch/harness/fakeengine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/enginetest"
	"github.com/llama-orch/llama-orch/service/task"
)

// The engine that the tests of this build run on: the built-in worker, or a real llama-server.
//
// ORCH-3054, ORCH-3026, ORCH-3045, ORCH-3022, ORCH-3021
func TestTheEngineKeepsItsPromises(t *testing.T) {
	enginetest.Run(t, enginetest.Options{
		Launch: func(t testing.TB, w task.Workload, slow bool) enginetest.Replica {
			pace := 0.0
			if slow {
				pace = 100
			}
			e, cmd := launch(t, w, pace)
			return enginetest.Replica{Engine: e, Kill: func() error { return cmd.Process.Kill() }}
		},
		Ctx: 256, KV: true,
	})
}

// The fake stands for an engine in many tests, so it is held to the same.
//
// ORCH-3054, ORCH-3058
func TestTheFakeKeepsTheSamePromises(t *testing.T) {
	enginetest.Run(t, enginetest.Options{
		Launch: func(t testing.TB, _ task.Workload, slow bool) enginetest.Replica {
			fake := fakeengine.New(fakeengine.Options{Ctx: 256})
			if slow {
				fake.SetScript(fakeengine.Script{IntervalMS: 10})
			}
			server := httptest.NewServer(fake)
			t.Cleanup(server.Close)
			return enginetest.Replica{Engine: connect(t, server.URL), Kill: func() error {
				_ = server.Listener.Close()
				server.CloseClientConnections()
				return nil
			}}
		},
		Ctx: 256, Rerank: true,
	})
}
