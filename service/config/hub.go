// SPDX-License-Identifier: GPL-3.0-or-later

package config

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/llama-orch/llama-orch/service/task"
)

// hubProgram is the program of those engines that we start with models in the form of the Hugging Face hub; empty: it is another engine (LO-461).
func hubProgram(engine string) string {
	switch engine {
	case task.VLLM:
		return "vllm"
	case task.TGI:
		return "text-generation-launcher"
	}
	return ""
}

// started reports whether the workers of the pool's engine can come from where its mode says. Else it has added the problem.
func (c *Config) started(ps *problems, p *Pool, path string) bool {
	mode, program := p.Provisioning.Mode, hubProgram(p.Engine)
	var modes []string
	switch {
	case mode == "" || p.Engine == "" || p.Engine == task.LlamaCpp || p.Engine == task.Command: // or it was reported already
		return true
	case program == "":
		modes = []string{ModeExternal}
	default:
		modes = []string{ModeExternal, ModeBinary, ModeContainer}
	}
	if slices.Contains(modes, mode) {
		if program != "" && mode != ModeExternal {
			c.hub(ps, p, path, program)
		}
		return true
	}
	where := path + ".provisioning.mode"
	if !c.where.set(where) {
		where = path + ".engine"
	}
	ps.add(c.where.of(where), fmt.Sprintf("a pool of engine %s cannot have provisioning.mode %s", p.Engine, mode), "set provisioning.mode to "+strings.Join(modes, " or "))
	return false
}

// hub checks a pool whose engine we start, and which takes models in the form of the hub.
func (c *Config) hub(ps *problems, p *Pool, path, program string) {
	at := func(field string) position { return c.where.of(path + "." + field) }
	if p.Provisioning.Mode == ModeBinary && p.Provisioning.URL == "" {
		p.Provisioning.Path = cmp.Or(p.Provisioning.Path, program)
	}
	if p.Model.Ref != "" {
		if r, err := parseRef(p.Model.Ref, c.Dir, c.home); err != nil || r.scheme != schemeFile {
			ps.add(at("model.ref"), fmt.Sprintf("engine %s takes a model that is in a folder here, and fetches none", p.Engine), r.fetched())
		}
	}
	if p.Workload != task.Completion && p.Workload != "" {
		ps.add(at("workload"), fmt.Sprintf("the orchestrator starts engine %s for completions only", p.Engine), "remove workload, or start the engine yourself and set provisioning.mode: external")
	}
	if p.Determinism.BatchInvariant { // it is an environment variable, and a worker inherits none
		ps.add(at("determinism.batch_invariant"), "an engine that is started here does not run with VLLM_BATCH_INVARIANT=1", "start vLLM yourself, and set provisioning.mode: external")
	}
	for _, field := range []string{"threads", "determinism.reuse", "determinism.piece"} {
		if c.where.set(path + "." + field) {
			ps.add(at(field), fmt.Sprintf("%s has no effect in a pool of engine %s", field, p.Engine), "remove it")
		}
	}
}

// hubDevices checks the cards of such a pool: each replica gets all cards of the mask, and its model is split evenly over them.
func (c *Config) hubDevices(ps *problems, p *Pool, path string) {
	at := func(field string) position { return c.where.of(path + "." + field) }
	if p.Device == CPU {
		ps.add(at("device"), fmt.Sprintf("engine %s needs a GPU", p.Engine), "name cards, like device: [0], or use engine: llamacpp")
	}
	if len(p.TensorSplit) > 0 {
		ps.add(at("tensor_split"), fmt.Sprintf("engine %s splits a model evenly over the cards of device", p.Engine), "remove tensor_split")
	}
}

// FromFolder reports whether the pool's engine is started here with a model in the form of the Hugging Face hub, which is a folder.
func (p Pool) FromFolder() bool {
	return hubProgram(p.Engine) != "" && p.Provisioning.Mode != ModeExternal
}

// fetched says how a person fetches the folder of a model: nobody else knows which of its files may come onto this machine, since code may be among them.
func (r ref) fetched() string {
	if repo := strings.SplitN(r.rest, "/", 3); r.scheme == schemeHF && len(repo) > 1 {
		return fmt.Sprintf("fetch it, as `hf download %s/%s --local-dir FOLDER` does, and write file:FOLDER", repo[0], repo[1])
	}
	return "fetch all files of the model's repository into a folder, and write file:FOLDER"
}

// folder says what is wrong with the folder of a model in the form of the hub. It returns "" if nothing is wrong.
func folder(path string) (what, remedy string) {
	const fetch = "fetch all files of the model's repository into it, or correct model.ref; a relative path starts at this file's folder"
	at, err := os.Stat(path)
	switch {
	case err != nil:
		return "there is no folder " + path, fetch
	case !at.IsDir():
		return path + " is no folder", fetch
	}
	if _, err := os.Stat(filepath.Join(path, "config.json")); err != nil {
		return path + " has no config.json", fetch
	}
	return "", ""
}
