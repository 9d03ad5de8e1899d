// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/llama-orch/llama-orch/harness/nvmlstub"
	"github.com/llama-orch/llama-orch/harness/standin"
	"github.com/llama-orch/llama-orch/service/supply/provision"
)

// model is a pool of the stand-in's configuration, with a model of its name.
type model struct {
	pool     string
	gib      int64
	onDemand bool
}

// reviewed are the pools of examples/workstation.yaml: one model lives on the small card, and two that do not fit on the large
// one together take turns there.
var reviewed = []model{{"chat", 6, false}, {"coder", 20, true}, {"reviewer", 10, true}}

// standIn makes the reference box in a folder: its cards, which NVML shows, a llama-server that takes their memory and decodes
// with the bundled model on the CPU, and a configuration with models of some size.
func standIn(ctx context.Context, dir string, models []model) (m machine, err error) {
	libs, err := provision.LocateEngineLibs()
	if err != nil {
		return m, err // it says what to run
	}
	if m.library, err = nvmlstub.Build(dir); err != nil {
		return m, err
	}
	state := filepath.Join(dir, "cards")
	if err := nvmlstub.Reference().Write(state); err != nil {
		return m, err
	}
	if err := os.Setenv(nvmlstub.Env, state); err != nil { // for the look at the cards, in this process
		return m, fmt.Errorf("name the cards' state: %w", err)
	}
	exe := filepath.Join(dir, "standin")
	if err := standin.Build(ctx, "", exe); err != nil {
		return m, err
	}
	haiku, err := filepath.Abs(filepath.Join("models", "haiku", "haiku.gguf"))
	if err != nil {
		return m, fmt.Errorf("find the bundled model: %w", err)
	}
	args, err := json.Marshal(standin.Args(state, haiku, libs))
	if err != nil {
		return m, fmt.Errorf("encode the stand-in's arguments: %w", err)
	}
	var text strings.Builder
	text.WriteString("pools:\n")
	for _, p := range models {
		if err := standin.WriteModel(filepath.Join(dir, p.pool+".gguf"), p.pool, p.gib<<30); err != nil {
			return m, err
		}
		lifecycle := map[bool]string{true: ", lifecycle: on_demand"}[p.onDemand]
		fmt.Fprintf(&text, "  - {id: %s, model: {ref: \"file:%[1]s.gguf\"}, ctx: 256%s, provisioning: {mode: binary, path: %q, args: %s}}\n", p.pool, lifecycle, exe, args)
	}
	m.config = filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(m.config, []byte(text.String()), 0o600); err != nil {
		return m, fmt.Errorf("write the configuration: %w", err)
	}
	m.env = []string{"LD_LIBRARY_PATH=" + dir, nvmlstub.Env + "=" + state, provision.EnvEngineLibs + "=" + libs}
	return m, nil
}
