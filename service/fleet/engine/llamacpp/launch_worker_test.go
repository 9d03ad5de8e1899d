// SPDX-License-Identifier: GPL-3.0-or-later

//go:build !llamaserver

package llamacpp_test

import (
	"os/exec"
	"testing"

	"github.com/llama-orch/llama-orch/service/fleet/engine/llamacpp"
	"github.com/llama-orch/llama-orch/service/task"
)

// launch starts the engine the tests of this build run on: the built-in worker.
func launch(t testing.TB, workload task.Workload) (*llamacpp.Engine, *exec.Cmd) {
	t.Helper()
	return launchWorker(t, workload, 0)
}
