// SPDX-License-Identifier: GPL-3.0-or-later

package llamacpp

import (
	"cmp"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/task"
)

// The batches are llama-server's own defaults, said aloud so that a new version cannot change them.
const (
	batch      = 2048
	microBatch = 512
)

// Kind is llama.cpp: as llama-server, as the built-in worker, or run by somebody else.
func Kind() engine.Kind {
	return engine.Kind{
		Name: Name, Features: features, Own: own,
		New: func(at engine.Endpoint) engine.Engine { return New(at) },
		Start: &engine.Start{
			Program: "llama-server", Install: "install it, or build it with `go tool mage engine:llamaServer`, and correct `provisioning.path`",
			Repair: "run `orchestratord libs`, or install what its last words name", KeyEnv: "LLAMA_API_KEY",
			Check: check, Libraries: libraries, Command: command, ToldCtx: toldCtx, Size: size, Deaths: deaths, Shares: shares,
		},
	}
}

// own knows the paths by which llama-server's settings, adapters, KV and models are changed, and those by which it acts for its web page: it
// fetches addresses, and runs tools on its machine.
func own(method, path string) bool {
	switch {
	case path == "/cors-proxy", path == "/tools":
		return true
	case method == http.MethodGet || method == http.MethodHead:
		return false
	case path == "/props", path == "/lora-adapters", path == "/models":
		return true
	}
	return strings.HasPrefix(path, "/slots/") || strings.HasPrefix(path, "/models/")
}

// check refuses what the built-in worker cannot do. llama-server can do it all.
func check(w engine.Worker) error {
	switch {
	case !w.BuiltIn:
		return nil
	case w.Slots != 1:
		return errors.New("the built-in worker has one slot; raise `replicas` instead of `slots`")
	case w.Workload == task.Rerank:
		return errors.New("the built-in worker does not rerank; use provisioning mode `binary` or `external`")
	case len(w.Split) > 0:
		return errors.New("the built-in worker does not split a model; use provisioning mode `binary`, or leave `tensor_split` out")
	}
	return nil
}

func libraries(dir string, gpu bool) (missing string, err error) {
	if _, err := os.Stat(filepath.Join(dir, "libllama.so")); err != nil {
		return "the engine's libraries are not there: run `orchestratord libs`", err
	}
	if !gpu {
		return "", nil
	}
	found, err := filepath.Glob(filepath.Join(dir, "libggml-cuda*"))
	if err != nil || len(found) == 0 {
		return "the engine's libraries have no CUDA back end, and a GPU pool never falls back to the CPU: " +
			"fetch libraries with CUDA (`orchestratord libs --cuda`), or say `device: cpu`", err
	}
	return "", nil
}

func command(w engine.Worker) engine.Command {
	piece := piece(w)
	if w.BuiltIn {
		return engine.Command{
			Args: []string{
				"worker", "--model", w.Model, "--libs", w.Libs, "--threads", strconv.Itoa(w.Threads), "--ubatch", strconv.Itoa(piece),
				"--pace", strconv.FormatFloat(w.Pace, 'g', -1, 64), "--workload", string(w.Workload),
			},
			Batch: piece, Piece: piece,
			Sized: func(room engine.Room) []string { return []string{"--ctx", strconv.Itoa(room.Ctx)} },
			Flags: []string{"workload=" + string(w.Workload)},
		}
	}
	batch, microBatch := batch, microBatch
	if piece > 0 {
		batch, microBatch = piece, piece
	}
	c := engine.Command{Batch: batch, Piece: piece, Flags: flags(w), Args: []string{
		"-m", w.Model, "--parallel", strconv.Itoa(w.Slots), "-t", strconv.Itoa(w.Threads),
		"-b", strconv.Itoa(batch), "-ub", strconv.Itoa(microBatch),
		"--host", w.Host, "--port", w.Port, "--cache-ram", "0", "--no-webui", "--offline", "--log-colors", "off", "--metrics",
		"--slot-save-path", cmp.Or(w.Saves, w.Scratch), // without a folder it does not erase slots either
	}}
	if len(w.Hosts) > 0 {
		c.Args = append(c.Args, "-lv", "4") // else it does not tell what it takes of them
	}
	c.Sized = func(room engine.Room) []string {
		var sized []string
		if room.Ctx > 0 { // llama-server divides it among the slots
			sized = []string{"-c", strconv.Itoa(room.Ctx * w.Slots)}
		}
		return append(sized, c.Flags...)
	}
	return c
}

// flags are the arguments of llama-server that can change bytes.
func flags(w engine.Worker) []string {
	all := []string{"-ngl", "all", "--fit", "off"} // all layers or none: what does not fit must fail, not move to the CPU
	switch {
	case len(w.Hosts) > 0: // their devices, and the worker's own cards, which are all that it sees
		all = append([]string{"--rpc", strings.Join(w.Hosts, ",")}, all...)
	case w.Cards == 0:
		all = []string{"--device", "none", "-ngl", "0"}
	}
	if len(w.Split) > 0 {
		shares := make([]string, len(w.Split))
		for i, share := range w.Split {
			shares[i] = strconv.FormatFloat(share, 'g', -1, 64)
		}
		all = append(all, "--tensor-split", strings.Join(shares, ","))
	}
	switch w.Workload {
	case task.Completion, task.Opaque: // the latter comes to no llama-server
	case task.Embedding:
		all = append(all, "--embedding")
	case task.Rerank:
		all = append(all, "--embedding", "--pooling", "rank", "--reranking")
	}
	return append(all, w.Args...)
}

func toldCtx(args []string) bool {
	return slices.ContainsFunc(args, func(arg string) bool {
		return arg == "-c" || arg == "--ctx-size" || strings.HasPrefix(arg, "--ctx-size=")
	})
}
