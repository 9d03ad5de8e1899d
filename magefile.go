// SPDX-License-Identifier: GPL-3.0-or-later

//go:build mage

// The targets of `go tool mage`. `go tool mage -l` lists them; they are defined in packages under ci/.
package main

import (
	// mage:import
	"github.com/llama-orch/llama-orch/ci/build"
	// mage:import
	_ "github.com/llama-orch/llama-orch/ci/cleanroom"
	// mage:import
	_ "github.com/llama-orch/llama-orch/ci/engine"
	// mage:import
	"github.com/llama-orch/llama-orch/ci/gate"
	// mage:import
	"github.com/llama-orch/llama-orch/ci/generate"
	// mage:import
	_ "github.com/llama-orch/llama-orch/ci/gpu"
	// mage:import
	_ "github.com/llama-orch/llama-orch/ci/measure"
	// mage:import
	_ "github.com/llama-orch/llama-orch/ci/mutate"
	// mage:import
	_ "github.com/llama-orch/llama-orch/ci/proof"
	// mage:import
	_ "github.com/llama-orch/llama-orch/ci/release"
	// mage:import
	_ "github.com/llama-orch/llama-orch/ci/soak"
	// mage:import
	_ "github.com/llama-orch/llama-orch/ci/todo"
	// mage:import
	_ "github.com/llama-orch/llama-orch/ci/up"
)

// Default is what `go tool mage` alone does.
var Default = gate.Test

// Aliases are short names of namespaced targets.
var Aliases = map[string]any{
	"gen":   generate.Gen.All,
	"build": build.Build.All,
	"trace": gate.Trace.Write,
}
