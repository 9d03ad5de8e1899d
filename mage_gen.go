// SPDX-License-Identifier: GPL-3.0-or-later

//go:build mage

package main

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

	"github.com/llama-orch/llama-orch/ci/tally"
)

// Gen makes what is generated from the contracts.
type Gen mg.Namespace

// All regenerates the API layer and the config schema.
func (Gen) All(ctx context.Context) error {
	if err := generateAPI(ctx, "gen"); err != nil {
		return err
	}
	return generateSchema(ctx)
}

// Check regenerates and fails when anything differs from what is there.
func (Gen) Check(ctx context.Context) error { return checkGen(ctx, nil) }

func generateAPI(ctx context.Context, target string) error {
	return command(ctx, "go", "tool", "ogen", "--target", target, "--package", "gen", "--clean",
		"--config", "contracts/openapi/ogen.yml", "contracts/openapi/openapi.yaml")
}

func generateSchema(ctx context.Context) error {
	return command(ctx, "go", "run", "./contracts/config-schema/gen")
}

// checkGen compares trees instead of asking git, so that it also holds while a contract is being changed. gen/ is made a
// second time elsewhere and stays as it is; the schema is made in place, because its generator knows one place only.
func checkGen(ctx context.Context, _ *tally.Tally) error {
	second, err := os.MkdirTemp("", "llama-orch-gen-")
	if err != nil {
		return fmt.Errorf("making a folder for the second generation: %w", err)
	}
	defer os.RemoveAll(second)
	if err := generateAPI(ctx, second); err != nil {
		return err
	}
	schema := filepath.Join("contracts", "config-schema")
	before, err := readTree(schema)
	if err != nil {
		return err
	}
	if err := generateSchema(ctx); err != nil {
		return err
	}
	after, err := readTree(schema)
	if err != nil {
		return err
	}
	have, err := readTree("gen")
	if err != nil {
		return err
	}
	want, err := readTree(second)
	if err != nil {
		return err
	}
	stale := append(differences("gen", have, want), differences(schema, before, after)...)
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
