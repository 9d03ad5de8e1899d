// SPDX-License-Identifier: GPL-3.0-or-later

package tgi

import (
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/hub"
)

// maxStops is how many stop strings a TGI that we start takes: as many as a task may have.
const maxStops = 16

// start is how TGI's launcher is started (LO-461).
func start() *engine.Start {
	return &engine.Start{
		Program: "text-generation-launcher", KeyEnv: "API_KEY", Env: hub.Env(),
		Install: "install it as TGI's documents say, and correct `provisioning.path`, or use provisioning mode `container` with TGI's image",
		Repair:  "install TGI and its Python packages again, or what its last words name",
		Check:   hub.Check, Command: command, ToldCtx: toldCtx, Files: hub.Files, Size: hub.Size, Even: true, Deaths: hub.Deaths(), Progress: hub.Progress,
	}
}

func command(w engine.Worker) engine.Command {
	shards := strconv.Itoa(max(w.Cards, 1))
	args := []string{
		"--model-id", w.Model, "--hostname", w.Host, "--port", w.Port, "--num-shard", shards, "--max-stop-sequences", strconv.Itoa(maxStops),
		"--shard-uds-path", filepath.Join(w.Scratch, "tgi-"+w.Port),
	}
	if !w.Inside { // what it listens on besides would be the same for each worker
		args = append(args, "--prometheus-port", near(w.Port, 1), "--master-port", near(w.Port, 2))
	}
	flags := []string{"--num-shard", shards}
	return engine.Command{
		Args: args, Flags: append(flags, w.Args...),
		Sized: func(room engine.Room) (sized []string) {
			if room.Ctx > 1 {
				sized = append(sized, "--max-input-tokens", strconv.Itoa(room.Ctx-1), "--max-total-tokens", strconv.Itoa(room.Ctx))
			}
			if room.Share > 0 {
				sized = append(sized, "--cuda-memory-fraction", hub.Fraction(room.Share))
			}
			return append(sized, w.Args...)
		},
	}
}

// near is another port. If somebody has it, the worker ends, and the next one gets others.
func near(port string, by int) string {
	const least, last = 1024, 65535
	n, _ := strconv.Atoi(port) // it was a port that was free
	if n += by; n > last {
		n = least + by
	}
	return strconv.Itoa(n)
}

func toldCtx(args []string) bool {
	return slices.ContainsFunc(args, func(arg string) bool { return strings.HasPrefix(arg, "--max-total-tokens") })
}
