// SPDX-License-Identifier: GPL-3.0-or-later

// Package contract holds the API's document against a linter's rules, and what the daemon sent in the suites against the document (LO-845).
package contract

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/go-faster/yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/llama-orch/llama-orch/contracts/openapi"
)

// Document is the API's document, closed: an object has no field but those that the document names.
type Document struct {
	root       map[string]any
	operations []*operation
	schemas    map[string]*jsonschema.Schema // by where they stand in the document
}

// operation is one method of a path.
type operation struct {
	id, method string
	path       []string // {…} stands for anything
	codes      []string
	statuses   []string
	body       bool              // it takes one
	events     map[string]string // of a stream, by their names: where the schema of their data stands
}

// Where two schemas stand that no stream names: that of an event's id, and of a refusal.
const (
	eventID = "#/components/schemas/EventID"
	refusal = "#/components/schemas/Error"
)

// Load reads the document.
func Load() (*Document, error) {
	d := &Document{schemas: map[string]*jsonschema.Schema{}}
	if err := yaml.Unmarshal(openapi.Document, &d.root); err != nil {
		return nil, fmt.Errorf("read the API's document: %w", err)
	}
	for _, v := range object(object(d.root["components"])["schemas"]) {
		s := object(v)
		if _, said := s["additionalProperties"]; !said && s["type"] == "object" {
			s["additionalProperties"] = false
		}
	}
	for path, v := range object(d.root["paths"]) {
		for method, v := range object(v) {
			raw := object(v)
			id, ok := raw["operationId"].(string)
			if !ok {
				continue // what the path's operations share
			}
			o := &operation{id: id, method: strings.ToUpper(method), path: strings.Split(path, "/"), body: raw["requestBody"] != nil, events: map[string]string{}}
			for status, answer := range object(raw["responses"]) {
				o.statuses = append(o.statuses, status)
				for name, schema := range object(object(object(object(answer)["content"])["text/event-stream"])["x-sse-data"]) {
					o.events[name] = fmt.Sprint(object(schema)["$ref"])
				}
				delete(object(object(object(answer)["content"])["*/*"]), "schema") // they are bytes, and prism reads those that are JSON
			}
			codes, _ := raw["x-error-codes"].([]any)
			for _, code := range codes {
				o.codes = append(o.codes, fmt.Sprint(code))
			}
			d.operations = append(d.operations, o)
		}
	}
	return d, d.compile()
}

func (d *Document) compile() error {
	text, err := json.Marshal(d.root)
	if err != nil {
		return fmt.Errorf("write the API's document as JSON: %w", err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return fmt.Errorf("read the API's document as JSON: %w", err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("api.json", doc); err != nil {
		return fmt.Errorf("take the API's document: %w", err)
	}
	all := []string{eventID, refusal}
	for _, o := range d.operations {
		all = slices.AppendSeq(all, maps.Values(o.events))
	}
	for _, at := range all {
		if d.schemas[at], err = c.Compile("api.json" + at); err != nil {
			return fmt.Errorf("compile the schema %s: %w", at, err)
		}
	}
	return nil
}

// Write writes the document to a folder, and returns the file's path.
func (d *Document) Write(dir string) (string, error) {
	text, err := json.Marshal(d.root)
	if err != nil {
		return "", fmt.Errorf("write the API's document as JSON: %w", err)
	}
	path := filepath.Join(dir, "api.json")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return "", fmt.Errorf("write the API's document: %w", err)
	}
	return path, nil
}

// plain is a request's target without the slash behind its path, which the daemon passes over.
func plain(target string) string {
	path, query, asked := strings.Cut(target, "?")
	if path = strings.TrimSuffix(path, "/"); path == "" {
		path = "/"
	}
	if asked {
		path += "?" + query
	}
	return path
}

// operation is the one of a request, or nil. A HEAD is a GET without a body.
func (d *Document) operation(method, target string) *operation {
	path, _, _ := strings.Cut(plain(target), "?")
	parts := strings.Split(path, "/")
	if method == "HEAD" {
		method = "GET"
	}
	at := slices.IndexFunc(d.operations, func(o *operation) bool {
		return o.method == method && slices.EqualFunc(o.path, parts, func(want, got string) bool {
			return want == got || strings.HasPrefix(want, "{") && got != ""
		})
	})
	if at < 0 {
		return nil
	}
	return d.operations[at]
}

// fits holds JSON against the schema that stands there.
func (d *Document) fits(at, text string) error {
	value, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	if err != nil {
		return fmt.Errorf("%q is no JSON: %w", text, err)
	}
	return d.schemas[at].Validate(value) //nolint:wrapcheck // it says all
}

func object(v any) map[string]any {
	m, _ := v.(map[string]any)
	return m
}
