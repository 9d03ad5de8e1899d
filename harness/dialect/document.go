// SPDX-License-Identifier: GPL-3.0-or-later

// Package dialect holds what the fronts send against what their dialects' owners say that they send (LO-419).
package dialect

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// document is the document of an API, closed: an object has no field but those that the document names.
type document struct{ schemas map[string]*jsonschema.Schema }

// difference is where the front differs on purpose, or where the document is not true of its owner's API. The schema at that place is
// put in the document. .docs/fronts.md tells users of those that they can see.
type difference struct{ at, schema string }

// load reads a document. Its schemas are components.schemas.
func load(text []byte, differences []difference) (*document, error) {
	var root map[string]any
	if err := json.Unmarshal(text, &root); err != nil {
		return nil, fmt.Errorf("read the document: %w", err)
	}
	components, _ := root["components"].(map[string]any)
	schemas, ok := components["schemas"].(map[string]any)
	if !ok {
		return nil, errors.New("the document has no schemas")
	}
	for _, d := range differences {
		if err := put(schemas, d); err != nil {
			return nil, err
		}
	}
	for name, s := range schemas {
		schemas[name] = merged(s, schemas)
	}
	for name, s := range schemas {
		schemas[name] = closed(s)
	}
	return compile(root, slices.Collect(maps.Keys(schemas)))
}

func compile(root map[string]any, names []string) (*document, error) {
	text, err := json.Marshal(root)
	if err != nil {
		return nil, fmt.Errorf("write the document: %w", err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("read the document again: %w", err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("document.json", doc); err != nil {
		return nil, fmt.Errorf("take the document: %w", err)
	}
	d := &document{schemas: map[string]*jsonschema.Schema{}}
	for _, name := range names {
		if d.schemas[name], err = c.Compile("document.json#/components/schemas/" + name); err != nil {
			return nil, fmt.Errorf("compile the schema %s: %w", name, err)
		}
	}
	return d, nil
}

// put puts a difference in its place. What it hangs on must be there.
func put(schemas map[string]any, d difference) error {
	var schema any
	if err := json.Unmarshal([]byte(d.schema), &schema); err != nil {
		return fmt.Errorf("read the difference at %s: %w", d.at, err)
	}
	steps := strings.Split(d.at, "/")
	last := len(steps) - 1
	var at any = schemas
	for _, step := range steps[:last] {
		switch in := at.(type) {
		case map[string]any:
			at = in[step]
		case []any:
			n, err := strconv.Atoi(step)
			if err != nil || n < 0 || n >= len(in) {
				return fmt.Errorf("the document has no place %s", d.at)
			}
			at = in[n]
		}
	}
	in, ok := at.(map[string]any)
	if !ok {
		return fmt.Errorf("the document has no place %s", d.at)
	}
	in[steps[last]] = schema
	return nil
}

// merged makes one object of those that an allOf joins: only one object can be closed.
func merged(s any, schemas map[string]any) any {
	of, _ := s.(map[string]any)
	all, ok := of["allOf"].([]any)
	if !ok {
		return s
	}
	properties, required := map[string]any{}, []any{}
	for _, one := range all {
		part, _ := one.(map[string]any)
		if ref, ok := part["$ref"].(string); ok {
			part, _ = schemas[ref[strings.LastIndex(ref, "/")+1:]].(map[string]any)
		}
		more, _ := part["properties"].(map[string]any)
		for name, p := range more {
			properties[name] = cloned(p) // each is closed by itself
		}
		names, _ := part["required"].([]any)
		required = append(required, names...)
	}
	return map[string]any{"type": "object", "properties": properties, "required": required}
}

func cloned(v any) any {
	switch s := v.(type) {
	case []any:
		out := make([]any, len(s))
		for i := range s {
			out[i] = cloned(s[i])
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(s))
		for k := range s {
			out[k] = cloned(s[k])
		}
		return out
	}
	return v
}

// closed forbids fields that the document does not name, and says in JSON schema's words what may be null.
func closed(v any) any {
	switch s := v.(type) {
	case []any:
		for i := range s {
			s[i] = closed(s[i])
		}
	case map[string]any:
		for k := range s {
			s[k] = closed(s[k])
		}
		if _, said := s["additionalProperties"]; !said && s["properties"] != nil {
			s["additionalProperties"] = false
		}
		if s["nullable"] == true {
			delete(s, "nullable")
			return map[string]any{"anyOf": []any{s, map[string]any{"type": "null"}}}
		}
	}
	return v
}

// Fits holds JSON against the schema of that name.
func (d *document) Fits(name string, text []byte) error {
	schema := d.schemas[name]
	if schema == nil {
		return fmt.Errorf("the document has no schema %q", name)
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return fmt.Errorf("%q is no JSON: %w", text, err)
	}
	if err := schema.Validate(value); err != nil {
		return fmt.Errorf("%s: %w", text, err)
	}
	return nil
}

// The types of streams.
const (
	eventStream = "text/event-stream"
	lineStream  = "application/x-ndjson"
)

// jsonLines is the type of files of JSON, line by line.
const jsonLines = "application/jsonl"

// eachLine calls check with each line of a body.
func eachLine(body []byte, check func(line []byte) error) error {
	for line := range bytes.Lines(body) {
		if err := check(bytes.TrimSuffix(line, []byte("\n"))); err != nil {
			return err
		}
	}
	return nil
}

// frames are the names and data of a stream of server-sent events, less comments. What stands behind the last empty line was cut off.
func frames(body string) iter.Seq2[string, string] {
	return func(yield func(name, data string) bool) {
		for frame := range strings.SplitSeq(body[:strings.LastIndex(body, "\n\n")+1], "\n\n") {
			name, data := "", ""
			for line := range strings.SplitSeq(frame, "\n") {
				if v, ok := strings.CutPrefix(line, "event: "); ok {
					name = v
				}
				if v, ok := strings.CutPrefix(line, "data: "); ok {
					data += v
				}
			}
			if data != "" && !yield(name, data) {
				return
			}
		}
	}
}
