// SPDX-License-Identifier: GPL-3.0-or-later

package schema

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

type finding struct {
	File     string `json:"file"`
	Severity string `json:"severity" jsonschema:"enum=low,enum=high"`
	Line     int    `json:"line,omitempty" jsonschema:"minimum=1"`
}

type review struct {
	Findings []finding         `json:"findings"`
	Labels   map[string]string `json:"labels,omitempty"`
}

// LO-916
func TestASchemaOfAType(t *testing.T) {
	raw, err := json.Marshal(Of[review]())
	require.NoError(t, err)
	require.JSONEq(t, `{
		"$defs": {"finding": {"type": "object", "additionalProperties": false, "required": ["file", "severity"], "properties": {
			"file": {"type": "string"}, "severity": {"type": "string", "enum": ["low", "high"]}, "line": {"type": "integer", "minimum": 1}}}},
		"type": "object", "additionalProperties": false, "required": ["findings"], "properties": {
			"findings": {"type": "array", "items": {"$ref": "#/$defs/finding"}},
			"labels": {"type": "object", "additionalProperties": {"type": "string"}}}}`, string(raw))
	first, again := Of[review](), Of[review]()
	require.Same(t, first, again)
	require.Equal(t, []string{"findings", "labels"}, Of[review]().Fields())
	require.Equal(t, []string{"findings"}, Of[review]().Required())
}

type tree struct {
	Name  string `json:"name"`
	Below []tree `json:"below,omitempty"`
}

// LO-916
func TestATypeThatHoldsItself(t *testing.T) {
	value, err := Decode[tree]([]byte(`{"name": "a", "below": [{"name": "b"}]}`))
	require.NoError(t, err)
	require.Equal(t, tree{Name: "a", Below: []tree{{Name: "b"}}}, value)
	_, err = Decode[tree]([]byte(`{"name": "a", "below": [{}]}`))
	require.EqualError(t, err, "below[0].name: this field is missing")
	require.Equal(t, []string{"below", "name"}, Of[tree]().Fields())
	require.Panics(t, func() { Of[chan int]() })
	list, err := Decode[[]string]([]byte(`["a"]`))
	require.NoError(t, err)
	require.Equal(t, []string{"a"}, list)
}

// LO-916
func TestWhatDoesNotFitIsNamedByItsPath(t *testing.T) {
	for text, says := range map[string]string{
		`{"findings": [{"file": "a", "severity": "high"}, {"file": 1, "severity": "hi"}]}`: `findings[1].file: got number, want string; findings[1].severity: value must be one of 'low', 'high'`,
		`{"finding": []}`:                  `findings: this field is missing; finding: there is no such field; did you mean "findings"?`,
		`[]`:                               `got array, want object`,
		`{"findings": [{"line": 0}]}`:      `findings[0].file: this field is missing; findings[0].severity: this field is missing; findings[0].line: minimum: got 0, want 1`,
		`{"findings":[],"labels":{"a":1}}`: `labels.a: got number, want string`,
	} {
		_, err := Decode[review]([]byte(text))
		_, ok := errors.AsType[*MismatchError](err)
		require.True(t, ok, "%s: %v", text, err)
		for _, problem := range err.(*MismatchError).Problems { //nolint:errorlint // it is one
			require.Contains(t, says, problem.Problem)
			require.Contains(t, says, problem.Path)
		}
	}
	for text, at := range map[string]int64{`{"findings": [`: 14, `{"findings": []} and more`: 18, ``: 0, `{'a': 1}`: 2} {
		_, err := Decode[review]([]byte(text))
		broken, ok := errors.AsType[*BrokenError](err)
		require.True(t, ok, "%s: %v", text, err)
		require.Equal(t, at, broken.Offset, text)
		require.ErrorContains(t, err, "give one JSON value")
	}
	_, err := Decode[struct {
		N int8 `json:"n"`
	}]([]byte(`{"n": 1000}`))
	_, ok := errors.AsType[*MismatchError](err)
	require.True(t, ok, "%v", err)
}

// A schema has nothing read: not a file, nor an address.
//
// LO-916
func TestSchemasFromOutside(t *testing.T) {
	file := filepath.Join(t.TempDir(), "other.json")
	require.NoError(t, os.WriteFile(file, []byte(`{}`), 0o600))
	for _, raw := range []string{`{"type": 1}`, `{`, `{"$ref": "file://` + file + `"}`, `{"$ref": "http://127.0.0.1/x"}`, `{"pattern": "("}`} {
		_, err := Compile(json.RawMessage(raw))
		_, ok := errors.AsType[*InvalidError](err)
		require.True(t, ok, "%s: %v", raw, err)
	}
	s, err := Compile(json.RawMessage(`{"type": "string", "maxLength": 2}`))
	require.NoError(t, err)
	require.NoError(t, s.Check([]byte(`"ab"`)))
	require.Error(t, s.Check([]byte(`"abc"`)))
}

// LO-945
func BenchmarkDecode(b *testing.B) {
	text := []byte(`{"findings": [{"file": "a", "severity": "high"}, {"file": "b", "severity": "low", "line": 3}]}`)
	for b.Loop() {
		if _, err := Decode[review](text); err != nil {
			b.Fatal(err)
		}
	}
}
