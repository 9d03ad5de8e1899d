// SPDX-License-Identifier: GPL-3.0-or-later

package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"sync"
	"time"

	"github.com/invopop/jsonschema"

	"github.com/llama-orch/llama-orch/service/task"
)

const (
	durationPattern = `^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$`
	profilePattern  = `^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`
)

// Schema returns the JSON Schema of the config file, draft 2020-12, with the same bytes on every call. It is committed as
// contracts/config-schema/config.schema.json.
func Schema() ([]byte, error) {
	plain, err := json.Marshal(withShorthands(reflected()))
	if err != nil {
		return nil, fmt.Errorf("encode the config schema: %w", err)
	}
	var out bytes.Buffer
	if err := json.Indent(&out, plain, "", "  "); err != nil {
		return nil, fmt.Errorf("indent the config schema: %w", err)
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}

// schema is what the reader reads by. Its structs stand there without their short forms, which the reader knows itself.
var schema = sync.OnceValue(reflected)

// withShorthands lets a struct be written in its short form as well.
func withShorthands(s *jsonschema.Schema) *jsonschema.Schema {
	either := func(whole *jsonschema.Schema, field string) *jsonschema.Schema {
		short, _ := whole.Properties.Get(field)
		out := &jsonschema.Schema{Description: whole.Description, OneOf: []*jsonschema.Schema{short, whole}}
		whole.Description = ""
		return out
	}
	fronts, _ := s.Properties.Get("fronts")
	s.Properties.Set("fronts", either(fronts, shorthands[reflect.TypeFor[Fronts]()]))
	aliases, _ := s.Properties.Get("aliases")
	aliases.AdditionalProperties = either(aliases.AdditionalProperties, shorthands[reflect.TypeFor[Alias]()])
	return s
}

func reflected() *jsonschema.Schema {
	r := jsonschema.Reflector{
		FieldNameTag: "yaml", RequiredFromJSONSchemaTags: true, DoNotReference: true, ExpandedStruct: true, Anonymous: true,
		Mapper: func(t reflect.Type) *jsonschema.Schema {
			switch t {
			case reflect.TypeFor[time.Duration]():
				return &jsonschema.Schema{Type: "string", Pattern: durationPattern}
			case reflect.TypeFor[Device]():
				one, zero := uint64(1), json.Number("0")
				return &jsonschema.Schema{OneOf: []*jsonschema.Schema{
					{Type: "string", Enum: []any{string(CPU), string(Auto)}},
					{Type: "array", Items: &jsonschema.Schema{Type: "integer", Minimum: zero}, MinItems: &one, UniqueItems: true},
				}, Default: string(Auto)}
			}
			return nil
		},
	}
	s := r.Reflect(Config{})
	s.ID = "https://github.com/llama-orch/llama-orch/contracts/config-schema/config.schema.json"
	s.Title = "llama-orch configuration"
	profiles, _ := s.Properties.Get("sampler_profiles")
	profiles.PropertyNames = &jsonschema.Schema{Pattern: profilePattern}
	aliases, _ := s.Properties.Get("aliases")
	aliases.PropertyNames = &jsonschema.Schema{Pattern: aliasPattern}
	pools, _ := s.Properties.Get("pools")
	engine, _ := pools.Items.Properties.Get("engine")
	for _, kind := range task.EngineKinds() {
		engine.Enum = append(engine.Enum, kind)
	}
	engine.Default = task.LlamaCpp
	return s
}

// defaultProfile returns a sampler profile with all defaults.
func defaultProfile() SamplerProfile {
	var p SamplerProfile
	profiles, _ := schema().Properties.Get("sampler_profiles")
	(&reader{problems: &problems{}, where: &positions{}}).absent(profiles.AdditionalProperties, reflect.ValueOf(&p).Elem(), "")
	return p
}

// modelIDPattern is what a model.id has to match, whether it is written or derived.
func modelIDPattern() string {
	pools, _ := schema().Properties.Get("pools")
	model, _ := pools.Items.Properties.Get("model")
	id, _ := model.Properties.Get("id")
	return id.Pattern
}
