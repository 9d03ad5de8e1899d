// SPDX-License-Identifier: GPL-3.0-or-later

// Package generate has the targets that make what is generated from the contracts.
package generate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/magefile/mage/mg"

	"github.com/llama-orch/llama-orch/ci/command"
	"github.com/llama-orch/llama-orch/ci/pact"
	"github.com/llama-orch/llama-orch/ci/step"
)

// printed are the files that programs print, from Go types: where each is, and which program.
var printed = map[string]string{
	"contracts/config-schema/config.schema.json": "./contracts/config-schema/gen",
	"contracts/blueprint/blueprint.schema.json":  "./contracts/blueprint/gen",
	".docs/configuration.md":                     "./contracts/config-schema/reference",
}

// files are made from the API's document: what writes each to where it is told.
var files = map[string]func(ctx context.Context, target string) error{
	"sdk/types_gen.go":                   generatePlain,
	"cmd/llama-orch/bindings/api.ts":     generateTypeScript,
	"cmd/llama-orch/bindings/types.py":   generatePython(pythonTypes),
	"cmd/llama-orch/bindings/methods.py": generatePython(pythonMethods),
}

// pagePath has the templates of the status page, and beside each of them what templ makes of it.
const pagePath = "service/front/page"

// manualPath is the manual of llama-orch, made from its commands.
const manualPath = ".docs/cli"

// Gen makes what is generated from the contracts.
type Gen mg.Namespace

// All regenerates the API layer, the SDK's types, the bindings' parts, the status page's templates, what programs print, the dashboards and alert rules, and the
// command line's manual.
func (Gen) All(ctx context.Context) error {
	if err := generateAPI(ctx, "gen"); err != nil {
		return err
	}
	for path, write := range files {
		if err := write(ctx, path); err != nil {
			return err
		}
	}
	if err := templates(ctx); err != nil {
		return err
	}
	for path, program := range printed {
		out, err := output(ctx, program)
		if err != nil {
			return err
		}
		if err := os.WriteFile(path, out, 0o644); err != nil {
			return fmt.Errorf("writing what a generator printed: %w", err)
		}
	}
	if err := deployAnew(ctx); err != nil {
		return err
	}
	if err := os.RemoveAll(manualPath); err != nil {
		return fmt.Errorf("removing the command line's manual: %w", err)
	}
	return manual(ctx, manualPath)
}

// Pacts rewrites contracts/pacts from what the consumers rely on.
func (Gen) Pacts(ctx context.Context) error {
	return step.Alone(ctx, step.Step{Name: "consumers", Target: "gen:pacts", Run: pact.Update})
}

func generateAPI(ctx context.Context, target string) error {
	document, err := writeView("contracts/openapi/openapi.yaml", "yaml", view)
	if err != nil {
		return err
	}
	defer os.Remove(document)
	return command.Run(ctx, "go", "tool", "ogen", "--target", target, "--package", "gen", "--clean",
		"--config", "contracts/openapi/ogen.yml", document)
}

// templates makes Go of the status page's templates.
func templates(ctx context.Context, more ...string) error {
	return command.Run(ctx, "go", append([]string{"tool", "templ", "generate", "-path", pagePath, "-log-level", "error"}, more...)...)
}

// output is what a program prints.
func output(ctx context.Context, program string) ([]byte, error) {
	cmd := command.New(ctx, "go", "run", program)
	cmd.Stdout = nil
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("running a generator: %w", err)
	}
	return out, nil
}

// manual writes the command line's manual. The program itself knows its commands.
func manual(ctx context.Context, folder string) error {
	return command.Run(ctx, "go", "run", "./cmd/llama-orch", "docs", folder)
}

// Check generates a second time and fails when anything differs from what is there. It changes nothing, and it does not ask
// git, so that it also holds while a contract is being changed.
func (Gen) Check(ctx context.Context) error {
	second, err := os.MkdirTemp("", "llama-orch-gen-")
	if err != nil {
		return fmt.Errorf("making a folder for the second generation: %w", err)
	}
	defer os.RemoveAll(second)
	var stale []string
	for made, by := range map[string]func(context.Context, string) error{"gen": generateAPI, manualPath: manual} {
		again := filepath.Join(second, filepath.Base(made))
		if err := by(ctx, again); err != nil {
			return err
		}
		want, err := readTree(again)
		if err != nil {
			return err
		}
		have, err := readTree(made)
		if err != nil {
			return err
		}
		stale = append(stale, differences(made, have, want)...)
	}
	for path, write := range files {
		again := filepath.Join(second, filepath.Base(path))
		if err := write(ctx, again); err != nil {
			return err
		}
		want, err := os.ReadFile(again)
		if err != nil {
			return fmt.Errorf("reading what was generated again: %w", err)
		}
		if have, err := os.ReadFile(path); err != nil || !bytes.Equal(have, want) {
			stale = append(stale, path)
		}
	}
	for path, program := range printed {
		want, err := output(ctx, program)
		if err != nil {
			return err
		}
		if have, err := os.ReadFile(path); err != nil || !bytes.Equal(have, want) {
			stale = append(stale, path)
		}
	}
	more, err := staleDeploy(ctx, second)
	if err != nil {
		return err
	}
	stale = append(stale, more...)
	if err := templates(ctx, "-check"); err != nil {
		stale = append(stale, pagePath)
	}
	slices.Sort(stale)
	if len(stale) > 0 {
		return fmt.Errorf("stale, or edited by hand; run `go tool mage gen` and commit the result:\n  %s", strings.Join(stale, "\n  "))
	}
	return nil
}

func readTree(root string) (map[string][]byte, error) {
	files := map[string][]byte{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		files[name] = content
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is missing: run `go tool mage gen`", root)
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", root, err)
	}
	return files, nil
}

func differences(root string, have, want map[string][]byte) []string {
	var names []string
	for name, content := range want {
		if old, ok := have[name]; !ok || !bytes.Equal(old, content) {
			names = append(names, filepath.Join(root, name))
		}
	}
	for name := range have {
		if _, ok := want[name]; !ok {
			names = append(names, filepath.Join(root, name))
		}
	}
	slices.Sort(names)
	return names
}
