// SPDX-License-Identifier: GPL-3.0-or-later

package generate

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/go-faster/yaml"

	"github.com/llama-orch/llama-orch/ci/clients"
	"github.com/llama-orch/llama-orch/ci/command"
)

// generatePython writes a part of the client for Python.
func generatePython(part func([]byte) ([]byte, error)) func(context.Context, string) error {
	return func(_ context.Context, target string) error {
		document, err := os.ReadFile("contracts/openapi/openapi.yaml")
		if err != nil {
			return fmt.Errorf("read the API's document: %w", err)
		}
		text, err := part(document)
		if err != nil {
			return err
		}
		if err := os.WriteFile(target, text, 0o644); err != nil {
			return fmt.Errorf("write a part of Python's client: %w", err)
		}
		return nil
	}
}

// generateTypeScript writes the API's types as openapi-typescript makes them.
func generateTypeScript(ctx context.Context, target string) error {
	tools, err := clients.Install(ctx)
	if err != nil {
		return err
	}
	document, err := writeView("contracts/openapi/openapi.yaml", "yaml", typescriptView)
	if err != nil {
		return err
	}
	defer os.Remove(document)
	modules := filepath.Join(tools, "node_modules")
	cli := command.New(ctx, filepath.Join(modules, ".bin", "node"), filepath.Join(modules, "openapi-typescript", "bin", "cli.js"), document, "--default-non-nullable=false")
	cli.Stdout, cli.Stderr = nil, nil
	text, err := cli.Output()
	if err != nil {
		return fmt.Errorf("make the API's types for TypeScript: %w", err)
	}
	// The two names that a server fills in. The file that has them stands within one that declares them.
	for _, name := range []string{"PoolID", "ServedModel"} {
		if before, after := []byte(name+": string;"), []byte(name+": "+typescriptServed[name]+";"); bytes.Count(text, before) == 1 {
			text = bytes.Replace(text, before, after, 1)
			continue
		}
		return fmt.Errorf("openapi-typescript made no type %s that is a string", name)
	}
	if err := os.WriteFile(target, text, 0o644); err != nil {
		return fmt.Errorf("write the API's types for TypeScript: %w", err)
	}
	return nil
}

var typescriptServed = map[string]string{"PoolID": "PoolID", "ServedModel": "Model"}

// typescriptView is the document with a name of its own for the model of a request.
func typescriptView(document []byte) ([]byte, error) {
	var root yaml.Node
	if err := yaml.Unmarshal(document, &root); err != nil {
		return nil, fmt.Errorf("read the API's document: %w", err)
	}
	if len(root.Content) == 0 {
		return nil, fmt.Errorf("the API's document is empty")
	}
	schemas := field(field(root.Content[0], "components"), "schemas")
	for _, schema := range pairs(schemas) {
		if _, request := lookup(schema, "additionalProperties"); !request {
			continue
		}
		for _, of := range pairs(field(schema, "properties")) {
			if at := field(of, "$ref"); at != nil && at.Value == "#/components/schemas/ModelRef" {
				at.Value = "#/components/schemas/ServedModel"
			}
		}
	}
	var served yaml.Node
	if err := yaml.Unmarshal([]byte(`{type: string, description: A model of this server.}`), &served); err != nil {
		return nil, fmt.Errorf("write a schema: %w", err)
	}
	put(schemas, "ServedModel", served.Content[0])
	out, err := yaml.Marshal(&root)
	if err != nil {
		return nil, fmt.Errorf("write the view of the API's document: %w", err)
	}
	return out, nil
}
