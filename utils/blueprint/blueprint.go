// SPDX-License-Identifier: GPL-3.0-or-later

// Package blueprint runs graphs of applets, from a Go program or from a YAML file (LO-925 to LO-928):
//
//	name: haiku
//	inputs:
//	  topic: {doc: what it is about}
//	steps:
//	  - id: draft
//	    use: llm.invoke
//	    with: {model: haiku, prompt: "Write a haiku about ${inputs.topic}."}
//	  - id: plain
//	    use: extract.text
//	    with: {text: "${steps.draft.text}"}
//	result: ${steps.plain.text}
//
// Values refer to others as ${inputs.NAME}, ${steps.ID.FIELD}, ${item}, ${index} and ${last}; [2] picks from a list and [*] goes through all of it. A value
// that is one reference alone keeps its type, and one inside of a text becomes text. $${ is a plain ${. A step begins when all that it refers to is there,
// so what does not refer to each other runs in parallel. A step that was left out by its condition has the result null.
package blueprint

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/llama-orch/llama-orch/internal/plainjson"
	"github.com/llama-orch/llama-orch/utils/schema"
)

// MaxItems bounds the list that each goes through.
const MaxItems = 10_000

// Blueprint is a graph of steps.
type Blueprint struct {
	Name   string           `json:"name" jsonschema:"pattern=^[a-z][a-z0-9-]*$"`
	Doc    string           `json:"doc,omitempty" jsonschema:"description=what it does\\, in a sentence"`
	Inputs map[string]Input `json:"inputs,omitempty"`
	Steps  []Step           `json:"steps" jsonschema:"minItems=1"`
	Result any              `json:"result,omitempty" jsonschema:"description=what a run gives; default: the results of all steps\\, by id"`
}

// Input is something that a run is given.
type Input struct {
	Doc     string `json:"doc,omitempty"`
	Default any    `json:"default,omitempty" jsonschema:"description=without one\\, each run has to give a value"`
}

// Step is an applet with its inputs, or a group of steps.
type Step struct {
	ID     string         `json:"id" jsonschema:"pattern=^[a-z][a-z0-9_]*$"`
	Use    string         `json:"use,omitempty" jsonschema:"description=the applet's name"`
	With   map[string]any `json:"with,omitempty" jsonschema:"description=its input"`
	Steps  []Step         `json:"steps,omitempty" jsonschema:"description=instead of use: a group\\, whose steps refer to each other and to those around it"`
	Result any            `json:"result,omitempty" jsonschema:"description=of a group; default: the results of its steps\\, by id"`
	After  []string       `json:"after,omitempty" jsonschema:"description=steps that have to end first though nothing of theirs is used"`
	If     string         `json:"if,omitempty" jsonschema:"description=REFERENCE or !REFERENCE or REFERENCE == JSON or REFERENCE != JSON"`
	Each   any            `json:"each,omitempty" jsonschema:"description=a list: the step runs for each ${item} in parallel and its result is a list"`
	Repeat *Repeat        `json:"repeat,omitempty"`
	Retry  int            `json:"retry,omitempty" jsonschema:"minimum=0,maximum=10,description=how many times more it is tried where it fails"`
}

// Repeat runs a step again and again. Its ${last} is the result of the time before, and null at first.
type Repeat struct {
	Until string `json:"until" jsonschema:"description=a condition on ${last}\\, as in if\\, which ends the loop"`
	Most  int    `json:"most" jsonschema:"minimum=1,maximum=100,description=how often at most; the last result counts then"`
}

// Schema is the JSON schema of a blueprint's file.
func Schema() ([]byte, error) {
	raw, err := json.Marshal(schema.Of[Blueprint]())
	if err != nil {
		return nil, err
	}
	var document map[string]any
	if err := json.Unmarshal(raw, &document); err != nil {
		return nil, err
	}
	document["$schema"], document["title"] = "https://json-schema.org/draft/2020-12/schema", "A blueprint of llama-orch"
	text, err := json.MarshalIndent(document, "", "  ")
	return append(text, '\n'), err
}

// plain is the blueprint as a file would have it: with values as JSON has them, whatever types a Go program gave.
func (b *Blueprint) plain() (*Blueprint, error) {
	raw, err := plainjson.Encode(b)
	if err != nil {
		return nil, &CheckError{Problems: []Problem{{Problem: fmt.Sprintf("it cannot be written as JSON: %v", err)}}}
	}
	if wrong, ok := errors.AsType[*schema.MismatchError](schema.Of[Blueprint]().Check(raw)); ok {
		c := &checker{}
		for _, p := range wrong.Problems {
			c.form(p)
		}
		return nil, c.err()
	}
	return read(raw)
}

// read reads a blueprint from JSON that its schema allows. Numbers stay as they are written.
func read(raw []byte) (*Blueprint, error) {
	b := &Blueprint{}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	return b, d.Decode(b)
}

// Problem is one thing that is wrong with a blueprint.
type Problem struct {
	Line    int    `json:"line,omitempty"` // of the file; 0: there is none
	Path    string `json:"path"`           // such as steps[1].with.text
	Problem string `json:"problem"`        // what is wrong, and what to do
}

// CheckError says all that is wrong with a blueprint. Nothing has run.
type CheckError struct {
	File     string // "" for one of a Go program
	Problems []Problem
}

func (e *CheckError) Error() string {
	var all []string
	for _, p := range e.Problems {
		where := e.File
		if p.Line > 0 {
			where = fmt.Sprintf("%s:%d", e.File, p.Line)
		}
		if where != "" {
			where += ": "
		}
		if p.Path != "" {
			where += p.Path + ": "
		}
		all = append(all, where+p.Problem)
	}
	return strings.Join(all, "\n")
}
