// SPDX-License-Identifier: GPL-3.0-or-later

package triton_test

import (
	"net/http"
	"testing"

	conformance "github.com/llama-orch/llama-orch/harness/conformance/triton"
	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/enginetest"
	"github.com/llama-orch/llama-orch/service/fleet/engine/triton"
)

// ORCH-3057, LO-458
func TestServersThatMisbehave(t *testing.T) {
	enginetest.RunFaults(t, enginetest.FaultOptions{
		Serve: func(testing.TB) http.Handler { return conformance.New(conformance.Options{}) },
		Connect: func(t testing.TB, url string) engine.Engine {
			e := triton.New(engine.Endpoint{URL: url})
			t.Cleanup(e.Close)
			return e
		},
		Job: job(func(j *engine.Job) { j.MaxTokens = 24 }), Shape: conformance.Shape, Retries: true, Unmarked: true,
	})
}
