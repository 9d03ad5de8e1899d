// SPDX-License-Identifier: GPL-3.0-or-later

// Package schema makes JSON schemas from Go types, and holds JSON to them (LO-916). A schema of a type wants every field that is not `omitempty` or
// `omitzero`, and no other. Tags say more, as github.com/invopop/jsonschema has them:
//
//	type Finding struct {
//		File     string `json:"file"`
//		Severity string `json:"severity" jsonschema:"enum=low,enum=high"`
//		Line     int    `json:"line,omitempty" jsonschema:"minimum=1,description=where it is"`
//	}
package schema

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/invopop/jsonschema"
	validator "github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
	"golang.org/x/text/language"
	"golang.org/x/text/message"

	"github.com/llama-orch/llama-orch/internal/nearest"
)

// Schema is a JSON schema that has been compiled. It does not change.
type Schema struct {
	raw      json.RawMessage
	compiled *validator.Schema
	fields   []string
}

// made holds the schemas of types.
var made sync.Map // reflect.Type → *Schema

// Of returns the schema of a type. It panics for a type that JSON cannot hold, such as a channel: no input leads there.
func Of[T any]() *Schema {
	t := reflect.TypeFor[T]()
	if s, ok := made.Load(t); ok {
		return s.(*Schema)
	}
	s, err := reflected(t, true)
	if err != nil { // a type that holds itself has to be a definition
		s, err = reflected(t, false)
	}
	if err != nil {
		panic(fmt.Sprintf("schema: type %s has no JSON schema: %v", t, err))
	}
	made.Store(t, s)
	return s
}

func reflected(t reflect.Type, expanded bool) (*Schema, error) {
	r := jsonschema.Reflector{Anonymous: true, ExpandedStruct: expanded}
	of := r.ReflectFromType(t)
	of.Version = "" // engines read the latest without being told
	raw, err := json.Marshal(of)
	if err != nil {
		return nil, err
	}
	return Compile(raw)
}

// InvalidError says that something is not a JSON schema.
type InvalidError struct{ Err error }

func (e *InvalidError) Error() string {
	return fmt.Sprintf("this is not a JSON schema: %v; write one such as {\"type\":\"object\",\"properties\":{…}}, without references to other documents", e.Err)
}

func (e *InvalidError) Unwrap() error { return e.Err }

// noLoader keeps a schema from having files read.
type noLoader struct{}

func (noLoader) Load(url string) (any, error) {
	return nil, fmt.Errorf("it refers to %s, and other documents are not read", url)
}

// Compile compiles a schema. It reads no other document.
func Compile(raw json.RawMessage) (*Schema, error) {
	document, err := validator.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		return nil, &InvalidError{Err: err}
	}
	const name = "schema.json"
	c := validator.NewCompiler()
	c.UseLoader(noLoader{})
	if err := c.AddResource(name, document); err != nil {
		return nil, &InvalidError{Err: err}
	}
	compiled, err := c.Compile(name)
	if err != nil {
		return nil, &InvalidError{Err: err}
	}
	s := &Schema{raw: slices.Clone(raw), compiled: compiled}
	for field := range aim(compiled).Properties {
		s.fields = append(s.fields, field)
	}
	slices.Sort(s.fields)
	return s, nil
}

// MarshalJSON returns the schema's own text.
func (s *Schema) MarshalJSON() ([]byte, error) { return s.raw, nil }

// Fields are the names of an object's fields, sorted.
func (s *Schema) Fields() []string { return s.fields }

// Required are the fields that an object has to have.
func (s *Schema) Required() []string { return aim(s.compiled).Required }

// aim follows references to what has fields. References may lead back to where they began.
func aim(s *validator.Schema) *validator.Schema {
	seen := map[*validator.Schema]bool{}
	for s.Ref != nil && len(s.Properties) == 0 && !seen[s] {
		seen[s] = true
		s = s.Ref
	}
	return s
}

// BrokenError says that a text is not JSON.
type BrokenError struct {
	Offset  int64 // in bytes
	Problem string
}

func (e *BrokenError) Error() string {
	return fmt.Sprintf("this is not JSON, at byte %d: %s; give one JSON value and nothing around it", e.Offset, e.Problem)
}

// Problem is one thing that a schema does not allow.
type Problem struct {
	Path    string `json:"path"` // such as `findings[0].line`; "" is the whole
	Problem string `json:"problem"`
}

// MismatchError says where JSON is not what a schema describes.
type MismatchError struct{ Problems []Problem }

func (e *MismatchError) Error() string {
	const most = 5
	var all []string
	for _, p := range e.Problems[:min(most, len(e.Problems))] {
		if p.Path == "" {
			all = append(all, p.Problem)
		} else {
			all = append(all, p.Path+": "+p.Problem)
		}
	}
	if more := len(e.Problems) - most; more > 0 {
		all = append(all, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(all, "; ")
}

// Check holds JSON to the schema. Its errors are *BrokenError and *MismatchError.
func (s *Schema) Check(raw []byte) error {
	value, err := validator.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		return broken(raw, err)
	}
	err = s.compiled.Validate(value)
	if err == nil {
		return nil
	}
	invalid, ok := errors.AsType[*validator.ValidationError](err)
	if !ok {
		return &MismatchError{Problems: []Problem{{Problem: err.Error()}}}
	}
	var all []Problem
	s.collect(invalid, &all)
	return &MismatchError{Problems: all}
}

// broken says where JSON breaks off. A truncated answer is the usual case.
func broken(raw []byte, err error) error {
	e := &BrokenError{Offset: int64(len(raw)), Problem: err.Error()}
	if syntax, ok := errors.AsType[*json.SyntaxError](json.Unmarshal(raw, new(any))); ok {
		e.Offset, e.Problem = syntax.Offset, syntax.Error()
	}
	return e
}

var english = message.NewPrinter(language.English)

// collect gathers the leaves of what is wrong.
func (s *Schema) collect(e *validator.ValidationError, all *[]Problem) {
	for _, cause := range e.Causes {
		s.collect(cause, all)
	}
	if len(e.Causes) > 0 {
		return
	}
	at := place(e.InstanceLocation)
	switch k := e.ErrorKind.(type) {
	case *kind.AdditionalProperties:
		for _, field := range k.Properties {
			problem := "there is no such field"
			if like := nearest.Name(field, s.fields); like != "" && at == "" {
				problem += fmt.Sprintf("; did you mean %q?", like)
			}
			*all = append(*all, Problem{Path: place(append(slices.Clone(e.InstanceLocation), field)), Problem: problem})
		}
	case *kind.Required:
		for _, field := range k.Missing {
			*all = append(*all, Problem{Path: place(append(slices.Clone(e.InstanceLocation), field)), Problem: "this field is missing"})
		}
	default:
		*all = append(*all, Problem{Path: at, Problem: k.LocalizedString(english)})
	}
}

// place writes a path as Go and JavaScript do.
func place(path []string) string {
	var b strings.Builder
	for _, step := range path {
		if _, err := strconv.Atoi(step); err == nil {
			b.WriteString("[" + step + "]")
			continue
		}
		if b.Len() > 0 {
			b.WriteByte('.')
		}
		b.WriteString(step)
	}
	return b.String()
}

// Decode reads a value of a type from JSON that the type's schema allows.
func Decode[T any](raw []byte) (T, error) {
	var value T
	if err := Of[T]().Check(raw); err != nil {
		return value, err
	}
	if err := json.Unmarshal(raw, &value); err != nil { // a number that is too large for its field
		return value, &MismatchError{Problems: []Problem{{Problem: err.Error()}}}
	}
	return value, nil
}
