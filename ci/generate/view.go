// SPDX-License-Identifier: GPL-3.0-or-later

package generate

import (
	"fmt"
	"os"

	"github.com/go-faster/yaml"
)

// view is the document as ogen gets it. ogen makes a Go type of each status of each operation, where the handlers, and the clients, want one error for
// all. So every answer from 400 on becomes the default answer with the envelope. Handlers write the bytes of an artifact themselves, with their status
// and media type, so that ogen knows one of them.
func view(document []byte) ([]byte, error) {
	var root yaml.Node
	if err := yaml.Unmarshal(document, &root); err != nil {
		return nil, fmt.Errorf("read the API's document: %w", err)
	}
	if len(root.Content) == 0 {
		return nil, fmt.Errorf("the API's document is empty")
	}
	doc := root.Content[0]
	shared := field(field(doc, "components"), "responses")
	if shared == nil {
		return nil, fmt.Errorf("the API's document has no shared answers")
	}
	var failure yaml.Node
	if err := yaml.Unmarshal([]byte(defaultAnswer), &failure); err != nil {
		return nil, fmt.Errorf("read the default answer: %w", err)
	}
	put(shared, "Error", failure.Content[0])
	paths := field(doc, "paths")
	for i := 1; i < len(paths.Content); i += 2 {
		for j := 1; j < len(paths.Content[i].Content); j += 2 {
			if answers := field(paths.Content[i].Content[j], "responses"); answers != nil {
				simplify(answers)
			}
		}
	}
	out, err := yaml.Marshal(&root)
	if err != nil {
		return nil, fmt.Errorf("write the generator's view of the API's document: %w", err)
	}
	return out, nil
}

const defaultAnswer = `
description: The one error envelope; the status is by code.
headers:
  X-Correlation-Id: {$ref: "#/components/headers/CorrelationId"}
  Retry-After:
    schema: {type: integer, minimum: 1, maximum: 86400}
  X-Backoff-Ms:
    schema: {type: integer, format: int64, minimum: 1, maximum: 86400000}
content:
  application/json:
    schema: {$ref: "#/components/schemas/Error"}
`

func simplify(answers *yaml.Node) {
	kept := answers.Content[:0]
	for i := 0; i+1 < len(answers.Content); i += 2 {
		if status, answer := answers.Content[i], answers.Content[i+1]; status.Value < "206" {
			if content := field(answer, "content"); content != nil && content.Content[0].Value == "*/*" {
				content.Content[0].Value = "application/octet-stream"
			}
			kept = append(kept, status, answer)
		}
	}
	answers.Content = kept
	reference := &yaml.Node{Kind: yaml.MappingNode}
	put(reference, "$ref", &yaml.Node{Kind: yaml.ScalarNode, Value: "#/components/responses/Error", Style: yaml.DoubleQuotedStyle})
	put(answers, "default", reference)
}

// field is the value of a mapping's key, or nil.
func field(node *yaml.Node, key string) *yaml.Node {
	if node == nil || node.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		if node.Content[i].Value == key {
			return node.Content[i+1]
		}
	}
	return nil
}

func put(node *yaml.Node, key string, value *yaml.Node) {
	node.Content = append(node.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: key}, value)
}

// writeView writes a view of the document to a file, and returns its name. The caller removes it.
func writeView(document, ext string, view func([]byte) ([]byte, error)) (string, error) {
	content, err := os.ReadFile(document)
	if err != nil {
		return "", fmt.Errorf("read the API's document: %w", err)
	}
	if content, err = view(content); err != nil {
		return "", err
	}
	file, err := os.CreateTemp("", "llama-orch-openapi-*."+ext)
	if err != nil {
		return "", fmt.Errorf("make a file for the generator: %w", err)
	}
	defer file.Close()
	if _, err := file.Write(content); err != nil {
		return "", fmt.Errorf("write a file for the generator: %w", err)
	}
	return file.Name(), nil
}
