// SPDX-License-Identifier: GPL-3.0-or-later

package generate

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/go-faster/yaml"

	"github.com/llama-orch/llama-orch/ci/command"
)

// What the SDK's plain types do not take from the contract as it stands (ADR 027).
var (
	// ownSchemas have a type in the SDK that is written by hand.
	ownSchemas = map[string]string{
		"Error": "Error", "EndEvent": "End", "Message.content": "Content",
	}
	// leftOut are the data of events, which the SDK's events stand for, what only a worker sends, and requests that a method has arguments for.
	leftOut = []string{
		"Error", "StartedEvent", "TokenEvent", "TokenBytes", "Logprob", "Likely", "ToolCallEvent", "MetricsEvent", "EndEvent", "ErrorEvent",
		"LogLine", "LogGap", "WorkerRegistration", "WorkerLease", "DrainRequest", "ReloadRequest", "ModelStateRequest",
	}
	// renamed give way to the events of the same name, or have a part of another's values.
	renamed = map[string]string{"ToolCall": "Call", "Reasoning": "ReasoningWish", "TaskWorkload": "Workload"}
	// lifted are enums that stand within other schemas, and get a name of their own.
	lifted = map[string]string{
		"EndEvent.finish_reason": "FinishReason", "MetricsEvent.phase": "Phase", "Message.role": "Role", "Part.media_type": "MediaType",
		"CapabilityPool.features": "ChatFeature", "Pool.features": "ChatFeature", "ModelMetadata.features": "ModelFeature",
	}
)

// generatePlain writes the SDK's types to a file.
func generatePlain(ctx context.Context, target string) error {
	view, err := writeView("contracts/openapi/openapi.yaml", "json", plainView)
	if err != nil {
		return err
	}
	defer os.Remove(view)
	return command.Run(ctx, "go", "tool", "-modfile=ci/tools/go.mod", "oapi-codegen", "-config", "contracts/openapi/sdk.yml", "-o", target, view)
}

// plainView is the part of the document that the SDK's types are made from, as JSON: the schemas alone. A scalar with rules of its own is a plain string or
// number. What is optional is a pointer where its zero would mean something else than its absence.
func plainView(document []byte) ([]byte, error) {
	var doc struct {
		Info       map[string]any
		Components struct{ Schemas yaml.Node }
	}
	if err := yaml.Unmarshal(document, &doc); err != nil {
		return nil, fmt.Errorf("read the API's document: %w", err)
	}
	v := plain{schemas: map[string]*yaml.Node{}}
	all := doc.Components.Schemas.Content
	for i := 0; i+1 < len(all); i += 2 {
		v.schemas[all[i].Value] = all[i+1]
	}
	if len(v.schemas) == 0 {
		return nil, fmt.Errorf("the API's document has no schemas")
	}
	out := map[string]any{}
	for at, name := range lifted {
		schema, property, _ := strings.Cut(at, ".")
		_, of := v.resolve(field(field(v.schemas[schema], "properties"), property))
		if items := field(of, "items"); items != nil {
			of = items
		}
		if field(of, "enum") == nil {
			return nil, fmt.Errorf("the API's document has no enum at %s any more: take it out of the SDK's view", at)
		}
		out[name] = v.enum(of)
	}
	for name, schema := range v.schemas {
		_, again := renamed[name]
		if slices.Contains(leftOut, name) || again && v.schemas[renamed[name]] != nil {
			continue
		}
		switch {
		case field(schema, "properties") != nil:
			out[as(name)] = v.object(name, schema)
		case field(schema, "enum") != nil:
			out[as(name)] = v.enum(schema)
		}
	}
	text, err := json.MarshalIndent(map[string]any{
		"openapi": "3.0.3", "info": doc.Info, "paths": map[string]any{}, "components": map[string]any{"schemas": out},
	}, "", " ")
	if err != nil {
		return nil, fmt.Errorf("write the view of the API's document: %w", err)
	}
	return text, nil
}

func as(name string) string {
	if other, ok := renamed[name]; ok {
		return other
	}
	return name
}

type plain struct{ schemas map[string]*yaml.Node }

func (v plain) object(name string, schema *yaml.Node) map[string]any {
	var required []string
	if list := field(schema, "required"); list != nil {
		for _, n := range list.Content {
			required = append(required, n.Value)
		}
	}
	_, closed := lookup(schema, "additionalProperties")
	properties, fields := map[string]any{}, field(schema, "properties").Content
	for i := 0; i+1 < len(fields); i += 2 {
		key, of := fields[i].Value, fields[i+1]
		made := v.value(name+"."+key, of)
		if !slices.Contains(required, key) && v.pointed(of, closed) {
			made["x-go-type-skip-optional-pointer"] = false
		} else {
			made["x-omitempty"] = false // an empty list is not its absence
		}
		made["x-order"] = i
		if key == "gpus" {
			made["x-go-name"] = "GPUs"
		}
		if what := said(of); what != "" {
			made["description"] = what
		}
		properties[key] = made
	}
	return map[string]any{"type": "object", "description": said(schema), "required": required, "properties": properties}
}

// value is a schema as it stands in a field or in a list.
func (v plain) value(at string, schema *yaml.Node) map[string]any {
	name, of := v.resolve(schema)
	switch {
	case ownSchemas[at] != "":
		return map[string]any{"x-go-type": ownSchemas[at]}
	case ownSchemas[name] != "":
		return map[string]any{"x-go-type": ownSchemas[name]}
	case lifted[at] != "" && field(of, "enum") != nil:
		return map[string]any{"allOf": []any{map[string]any{"$ref": "#/components/schemas/" + lifted[at]}}}
	case name != "" && (field(of, "enum") != nil || field(of, "properties") != nil):
		return map[string]any{"allOf": []any{map[string]any{"$ref": "#/components/schemas/" + as(name)}}}
	case field(of, "enum") != nil:
		return v.enum(of)
	}
	kind, ok := lookup(of, "type")
	format, _ := lookup(of, "format")
	switch {
	case !ok:
		return map[string]any{"x-go-type": "json.RawMessage"}
	case kind == "array":
		return map[string]any{"type": "array", "items": v.value(at, field(of, "items"))}
	case kind == "object":
		return map[string]any{"type": "object", "additionalProperties": v.value(at, field(of, "additionalProperties"))}
	case format == "uuid":
		format = ""
	case kind == "number":
		format = "double"
	}
	made := map[string]any{"type": kind}
	if format != "" {
		made["format"] = format
	}
	return made
}

// enum names its values in Go's way: `NOT_FOUND` and `not_found` are NotFound.
func (v plain) enum(schema *yaml.Node) map[string]any {
	var values, names []string
	for _, n := range field(schema, "enum").Content {
		values = append(values, n.Value)
		var name strings.Builder
		for _, word := range strings.FieldsFunc(n.Value, func(r rune) bool { return strings.ContainsRune("_-/.", r) }) {
			if word == strings.ToUpper(word) {
				word = strings.ToLower(word)
			}
			name.WriteString(strings.ToUpper(word[:1]) + word[1:])
		}
		names = append(names, name.String())
	}
	return map[string]any{"type": "string", "description": said(schema), "enum": values, "x-enum-varnames": names}
}

// resolve follows a reference, also one that stands in allOf for the sake of its description.
func (v plain) resolve(schema *yaml.Node) (string, *yaml.Node) {
	if all := field(schema, "allOf"); all != nil {
		schema = all.Content[0]
	}
	at, ok := lookup(schema, "$ref")
	if !ok {
		return "", schema
	}
	name := strings.TrimPrefix(at, "#/components/schemas/")
	return name, v.schemas[name]
}

var zeroDefault = regexp.MustCompile(`Default (0|false|no[a-z]*)\b`)

// pointed reports whether an optional value is a pointer: an object, and a number or, in a request, a boolean whose zero is allowed and is not the default.
func (v plain) pointed(schema *yaml.Node, request bool) bool {
	name, of := v.resolve(schema)
	kind, _ := lookup(of, "type")
	byDefault, has := lookup(schema, "default")
	least, bounded := lookup(of, "minimum")
	switch {
	case field(of, "properties") != nil, ownSchemas[name] != "":
		return true
	case has && (byDefault == "0" || byDefault == "false"), zeroDefault.MatchString(said(schema)):
		return false
	case kind == "boolean":
		return request
	case kind == "integer", kind == "number":
		return !bounded || least == "0" || strings.HasPrefix(least, "-")
	}
	return false
}

func said(schema *yaml.Node) string {
	what, _ := lookup(schema, "description")
	return strings.TrimSpace(what)
}

func lookup(node *yaml.Node, key string) (string, bool) {
	value := field(node, key)
	if value == nil {
		return "", false
	}
	return value.Value, true
}
