// SPDX-License-Identifier: GPL-3.0-or-later

//go:build !llamaserver

package llamacpp_test

import (
	"os/exec"
	"testing"

	"github.com/llama-orch/llama-orch/service/fleet/engine/llamacpp"
	"github.com/llama-orch/llama-orch/service/task"
)

// launch starts the engine the tests of this build run on: the built-in worker. Pace is in tokens a second.
func launch(t testing.TB, workload task.Workload, pace float64) (*llamacpp.Engine, *exec.Cmd) {
	t.Helper()
	return launchWorker(t, workload, pace)
}
