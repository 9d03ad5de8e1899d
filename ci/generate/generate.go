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

// schemas are made by programs, from Go types: where each is, and what prints it.
var schemas = map[string]string{
	"contracts/config-schema/config.schema.json": "./contracts/config-schema/gen",
	"contracts/blueprint/blueprint.schema.json":  "./contracts/blueprint/gen",
}

const plainPath = "sdk/types_gen.go"

// pagePath has the templates of the status page, and beside each of them what templ makes of it.
const pagePath = "service/front/page"

// manualPath is the manual of llama-orch, made from its commands.
const manualPath = ".docs/cli"

// Gen makes what is generated from the contracts.
type Gen mg.Namespace

// All regenerates the API layer, the SDK's types, the status page's templates, the schemas and the command line's manual.
func (Gen) All(ctx context.Context) error {
	if err := generateAPI(ctx, "gen"); err != nil {
		return err
	}
	if err := generatePlain(ctx, plainPath); err != nil {
		return err
	}
	if err := templates(ctx, pagePath); err != nil {
		return err
	}
	for path, program := range schemas {
		out, err := schema(ctx, program)
		if err != nil {
			return err
		}
		if err := os.WriteFile(path, out, 0o644); err != nil {
			return fmt.Errorf("writing a schema: %w", err)
		}
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

// templates makes Go of the templates in a folder.
func templates(ctx context.Context, folder string) error {
	return command.Run(ctx, "go", "tool", "templ", "generate", "-path", folder, "-log-level", "error")
}

// templatesAgain makes them a second time, in another folder, and returns what they should be.
func templatesAgain(ctx context.Context, folder string) (map[string][]byte, error) {
	list, err := filepath.Glob(filepath.Join(pagePath, "*.templ"))
	if err != nil {
		return nil, fmt.Errorf("finding the templates: %w", err)
	}
	if err := os.Mkdir(folder, 0o755); err != nil {
		return nil, fmt.Errorf("making a folder for the templates: %w", err)
	}
	for _, path := range list {
		text, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(filepath.Join(folder, filepath.Base(path)), text, 0o644)
		}
		if err != nil {
			return nil, fmt.Errorf("copying a template: %w", err)
		}
	}
	if err := templates(ctx, folder); err != nil {
		return nil, err
	}
	return readTemplates(folder)
}

// readTemplates reads what was made of templates.
func readTemplates(folder string) (map[string][]byte, error) {
	all, err := readTree(folder)
	for name := range all {
		if !strings.HasSuffix(name, "_templ.go") {
			delete(all, name)
		}
	}
	return all, err
}

// schema is a schema as it should be. Its generator prints it.
func schema(ctx context.Context, program string) ([]byte, error) {
	cmd := command.New(ctx, "go", "run", program)
	cmd.Stdout = nil
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("generating a schema: %w", err)
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
	wantPage, err := templatesAgain(ctx, filepath.Join(second, "page"))
	if err != nil {
		return err
	}
	havePage, err := readTemplates(pagePath)
	if err != nil {
		return err
	}
	stale = append(stale, differences(pagePath, havePage, wantPage)...)
	types := filepath.Join(second, "types_gen.go")
	if err := generatePlain(ctx, types); err != nil {
		return err
	}
	wantTypes, err := os.ReadFile(types)
	if err != nil {
		return fmt.Errorf("reading the SDK's types: %w", err)
	}
	if haveTypes, err := os.ReadFile(plainPath); err != nil || !bytes.Equal(haveTypes, wantTypes) {
		stale = append(stale, plainPath)
	}
	for path, program := range schemas {
		want, err := schema(ctx, program)
		if err != nil {
			return err
		}
		if have, err := os.ReadFile(path); err != nil || !bytes.Equal(have, want) {
			stale = append(stale, path)
		}
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
