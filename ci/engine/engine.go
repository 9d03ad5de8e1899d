// SPDX-License-Identifier: GPL-3.0-or-later

//go:build mage

package main

import (
	"context"
	"fmt"

	"github.com/magefile/mage/mg"

	"github.com/llama-orch/llama-orch/ci/tally"
	"github.com/llama-orch/llama-orch/service/supply/provision"
)

// Engine prepares inference engines in the user's cache folder.
type Engine mg.Namespace

var preparing = provision.Options{Progress: func(message string) { fmt.Println(message) }}

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

// TestLlamaServer runs the llama.cpp adapter's tests on a real llama-server.
func (Engine) TestLlamaServer(ctx context.Context) error {
	mg.CtxDeps(ctx, Engine.Libs, Engine.LlamaServer)
	return finish(runSteps(ctx, tally.New(), true, step{
		"tests on llama-server", "engine:testLlamaServer",
		func(ctx context.Context, t *tally.Tally) error {
			return goTest(ctx, t, "-count=1", "-tags", "llamaserver", "./service/fleet/engine/llamacpp/...", "./service/fleet/pool/...")
		},
	}))
}
