// SPDX-License-Identifier: GPL-3.0-or-later

// Package engine has the targets that prepare inference engines.
package engine

import (
	"context"
	"fmt"

	"github.com/magefile/mage/mg"

	"github.com/llama-orch/llama-orch/ci/step"
	"github.com/llama-orch/llama-orch/ci/tally"
	"github.com/llama-orch/llama-orch/service/supply/provision"
)

// Engine prepares inference engines in the user's cache folder.
type Engine mg.Namespace

var preparing = provision.Options{Progress: step.Say}

// Libs fetches the pinned llama.cpp libraries of the built-in worker. It does nothing when they are there.
func (Engine) Libs(ctx context.Context) error {
	dir, err := provision.EngineLibs(ctx, preparing)
	if err != nil {
		return fmt.Errorf("preparing the engine's libraries: %w", err)
	}
	fmt.Println("engine libraries:", dir)
	return nil
}

// LibsCUDA fetches the pinned llama.cpp libraries with the back end for NVIDIA's GPUs, 140 MB. It does nothing when they are
// there.
func (Engine) LibsCUDA(ctx context.Context) error {
	dir, err := provision.CUDALibs(ctx, preparing)
	if err != nil {
		return fmt.Errorf("preparing the engine's libraries: %w", err)
	}
	fmt.Println("engine libraries with CUDA:", dir)
	return nil
}

// LlamaServer builds llama-server from the packaged source. It takes about ten minutes, once.
func (Engine) LlamaServer(ctx context.Context) error {
	path, err := provision.LlamaServer(ctx, preparing)
	if err != nil {
		return fmt.Errorf("building llama-server: %w", err)
	}
	fmt.Println("llama-server:", path)
	return nil
}

// LlamaServerRPC builds a llama-server that computes on other hosts too, and the program that they run, ggml-rpc-server (LO-470).
// It takes about ten minutes, once.
func (Engine) LlamaServerRPC(ctx context.Context) error {
	path, err := provision.LlamaServerRPC(ctx, preparing)
	if err != nil {
		return fmt.Errorf("building llama-server with RPC: %w", err)
	}
	fmt.Println("llama-server with RPC:", path)
	return nil
}

// onServer are the packages with tests that need a real llama-server, which stand behind the build tag `llamaserver`.
var onServer = []string{"service/fleet/engine/llamacpp", "service/fleet/pool", "service/app"}

// TestLlamaServer runs the llama.cpp adapter's tests on a real llama-server.
func (Engine) TestLlamaServer(ctx context.Context) error {
	mg.CtxDeps(ctx, Engine.Libs, Engine.LlamaServer)
	return step.Alone(ctx, step.Step{Name: "tests on llama-server", Target: "engine:testLlamaServer", Run: onLlamaServer})
}

// TestRPC runs the tests over several hosts, on a llama-server with RPC (LO-470, LO-471, LO-472).
func (Engine) TestRPC(ctx context.Context) error {
	mg.CtxDeps(ctx, Engine.Libs, Engine.LlamaServerRPC)
	return step.Alone(ctx, step.Step{Name: "tests on several hosts", Target: "engine:testRPC", Run: func(ctx context.Context, t *tally.Tally) error {
		return step.GoTest(ctx, t, "-count=1", "-tags", "llamarpc", "./harness/hosts/...")
	}})
}

func onLlamaServer(ctx context.Context, t *tally.Tally) error {
	args := []string{"-count=1", "-tags", "llamaserver"}
	for _, dir := range onServer {
		args = append(args, "./"+dir+"/...")
	}
	return step.GoTest(ctx, t, args...)
}
