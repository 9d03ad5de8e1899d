// SPDX-License-Identifier: GPL-3.0-or-later

package proof

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/llama-orch/llama-orch/contracts/proof"
)

// Comparison is what differs between two bundles.
type Comparison struct {
	SameRequest bool `json:"same_request"` // the same words, sampling and seed: the answers may be compared
	SameMachine bool `json:"same_machine"` // the same fingerprint: strict tasks promise the same answer
	SameAnswer  bool `json:"same_answer"`
	// Token is the first that differs, where a bundle keeps its transcript; else -1.
	Token  int     `json:"token"`
	Want   string  `json:"want,omitempty"` // the token of the left one; empty: it had ended
	Got    string  `json:"got,omitempty"`
	Fields []Field `json:"fields"`
}

// Field is a value that differs, by its path in the bundle.
type Field struct {
	Path  string `json:"path"`
	Left  string `json:"left"` // JSON; empty: it is not there
	Right string `json:"right"`
}

// own are values of one run: two runs never agree on them, and it says nothing.
var own = []string{
	"task_id", "timing", "last_event_id", "request.correlation_id", "request.body_sha256", "request.actor", "metrics.tokens_per_second", "metrics.queue_position",
	"transcript.text", "transcript.ends", "transcript.runs", "transcript.logprobs",
}

// Diff compares two bundles.
func Diff(left, right *proof.Bundle) (*Comparison, error) {
	a, err := flat(left)
	if err != nil {
		return nil, err
	}
	b, err := flat(right)
	if err != nil {
		return nil, err
	}
	c := &Comparison{
		SameRequest: left.SameWords(right) && left.Seed == right.Seed && same(left.Sampling, right.Sampling) && left.Request.MaxTokens == right.Request.MaxTokens,
		SameMachine: left.Placement.Fingerprint == right.Placement.Fingerprint && left.Placement.Fingerprint != "",
		SameAnswer:  left.Transcript.SHA256 == right.Transcript.SHA256 && same(left.Result, right.Result),
		Token:       -1, Fields: []Field{},
	}
	if v := left.Compare(right.Transcript.Pieces(), nil); !c.SameAnswer && left.Transcript.Kept && right.Transcript.Kept {
		c.Token, c.Want, c.Got = v.Token, v.Want, v.Got
	}
	paths := maps.Clone(a)
	maps.Copy(paths, b)
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		if a[path] != b[path] {
			c.Fields = append(c.Fields, Field{path, a[path], b[path]})
		}
	}
	return c, nil
}

func same(a, b any) bool {
	left, err := json.Marshal(a)
	right, also := json.Marshal(b)
	return err == nil && also == nil && string(left) == string(right)
}

// flat is a bundle's values by their paths, without what is a task's own.
func flat(b *proof.Bundle) (map[string]string, error) {
	text, err := b.Encode()
	if err != nil {
		return nil, err
	}
	var tree any
	if err := json.Unmarshal(text, &tree); err != nil {
		return nil, fmt.Errorf("reading a proof bundle again: %w", err)
	}
	out := map[string]string{}
	var walk func(path string, v any)
	walk = func(path string, v any) {
		if slices.Contains(own, path) {
			return
		}
		if fields, ok := v.(map[string]any); ok {
			for key, value := range fields {
				walk(strings.TrimPrefix(path+"."+key, "."), value)
			}
			return
		}
		if text, err := json.Marshal(v); err == nil {
			out[path] = string(text)
		}
	}
	walk("", tree)
	return out, nil
}
