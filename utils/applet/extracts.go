// SPDX-License-Identifier: GPL-3.0-or-later

package applet

import (
	"context"
	"encoding/json"

	"github.com/llama-orch/llama-orch/utils/extract"
	"github.com/llama-orch/llama-orch/utils/schema"
)

// The inputs and results of extract.* and schema.*.
type (
	CodeIn struct {
		Text     string `json:"text"`
		Language string `json:"language,omitempty" jsonschema:"description=default: any"`
	}
	JSONIn struct {
		Text   string          `json:"text"`
		Schema json.RawMessage `json:"schema,omitempty" jsonschema:"description=a JSON schema; default: any JSON"`
	}
	JSONOut struct {
		Value json.RawMessage `json:"value"`
	}
	TagIn struct {
		Text string `json:"text"`
		Tag  string `json:"tag" jsonschema:"description=without the angles\\, such as answer"`
	}
	CheckIn struct {
		Value  json.RawMessage `json:"value"`
		Schema json.RawMessage `json:"schema"`
	}
	CheckOut struct {
		Fits     bool             `json:"fits"`
		Problems []schema.Problem `json:"problems,omitempty"`
	}
)

func extracts() Catalog {
	return Catalog{
		New("extract.text", "Takes thoughts, a fence around the whole and outer space off an answer.", func(_ context.Context, _ *Env, in FileText) (FileText, error) {
			text, err := extract.Text(in.Text)
			return FileText{Text: text}, err
		}),
		New("extract.code", "Finds the first block of fenced code in an answer.", func(_ context.Context, _ *Env, in CodeIn) (FileText, error) {
			text, err := extract.Code(in.Text, in.Language)
			return FileText{Text: text}, err
		}),
		New("extract.json", "Finds JSON in an answer that a schema allows.", func(_ context.Context, _ *Env, in JSONIn) (JSONOut, error) {
			var fits func([]byte) error
			if len(in.Schema) > 0 {
				s, err := schema.Compile(in.Schema)
				if err != nil {
					return JSONOut{}, err
				}
				fits = s.Check
			}
			value, err := extract.JSON(in.Text, fits)
			return JSONOut{Value: value}, err
		}),
		New("extract.diff", "Finds a unified diff in an answer.", func(_ context.Context, _ *Env, in FileText) (Diff, error) {
			diff, err := extract.Diff(in.Text)
			return Diff{Diff: diff}, err
		}),
		New("extract.tag", "Finds what stands between a tag and its end in an answer.", func(_ context.Context, _ *Env, in TagIn) (FileText, error) {
			text, err := extract.Tag(in.Text, in.Tag)
			return FileText{Text: text}, err
		}),
	}
}
