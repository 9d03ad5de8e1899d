// SPDX-License-Identifier: GPL-3.0-or-later

package vllm

import (
	"slices"
	"strconv"
	"strings"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/hub"
)

// start is how `vllm serve` is started (LO-461).
func start() *engine.Start {
	return &engine.Start{
		Program: "vllm", KeyEnv: "VLLM_API_KEY", Env: append(hub.Env(), "VLLM_NO_USAGE_STATS=1"),
		Install: "install it with `pip install vllm`, and correct `provisioning.path`, or use provisioning mode `container` with vLLM's image",
		Repair:  "install vLLM and its Python packages again, or what its last words name",
		Check:   hub.Check, Command: command, ToldCtx: toldCtx, Files: hub.Files, Size: hub.Size, Even: true, Deaths: hub.Deaths(), Progress: hub.Progress,
	}
}

func command(w engine.Worker) engine.Command {
	cards := strconv.Itoa(max(w.Cards, 1))
	flags := append([]string{
		"--tensor-parallel-size", cards, "--max-num-seqs", strconv.Itoa(max(w.Slots, 1)), "--seed", "0",
	}, w.Args...)
	args := []string{w.Model, "--served-model-name", w.Name, "--host", w.Host, "--port", w.Port}
	if !w.Inside { // the image's entry point has it
		args = append([]string{"serve"}, args...)
	}
	return engine.Command{
		Args: args, Flags: flags,
		Sized: func(room engine.Room) (sized []string) {
			if room.Ctx > 0 {
				sized = append(sized, "--max-model-len", strconv.Itoa(room.Ctx))
			}
			if room.Share > 0 {
				sized = append(sized, "--gpu-memory-utilization", hub.Fraction(room.Share))
			}
			return append(sized, flags...)
		},
	}
}

func toldCtx(args []string) bool {
	return slices.ContainsFunc(args, func(arg string) bool { return strings.HasPrefix(arg, "--max-model-len") })
}
