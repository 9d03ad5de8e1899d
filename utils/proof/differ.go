// SPDX-License-Identifier: GPL-3.0-or-later

package proof

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/llama-orch/llama-orch/contracts/proof"
)

// Kind says what a difference between two bundles means.
type Kind string

// The kinds of differences.
const (
	Asked    Kind = "asked"    // another request, so that another answer is no surprise
	Placed   Kind = "placed"   // another fingerprint: no promise goes beyond one
	Answered Kind = "answered" // another answer
	Around   Kind = "around"   // ids, times and figures, which say nothing about the answer
)

// Difference is a field that two bundles have otherwise.
type Difference struct {
	Kind  Kind   `json:"kind"`
	Field string `json:"field"` // its path, such as `sampling.temperature`
	A     string `json:"a"`     // its JSON; empty where it is missing
	B     string `json:"b"`
}

// decides are the fields that are more than ids, times and figures. The first that begins a field's path is its kind. What was asked stands there by its
// digests, and the values of the request as they were resolved.
var decides = []struct {
	prefix string
	kind   Kind
}{
	{"request.prompt_sha256", Asked},
	{"request.messages_sha256", Asked},
	{"request.inputs_sha256", Asked},
	{"request.chat_sha256", Asked},
	{"request.workload", Asked},
	{"request.max_tokens", Asked},
	{"seed", Asked},
	{"sampling.", Asked},
	{"determinism", Asked},
	{"request.model_ref", Placed},
	{"request_digest", Placed}, // with the same words it is another template
	{"placement.fingerprint", Placed},
	{"placement.engine", Placed},
	{"placement.model_id", Placed},
	{"receipt.fingerprint", Placed},
	{"receipt.engine_version", Placed},
	{"receipt.model_digest", Placed},
	{"receipt.request_digest", Placed},
	{"transcript.", Answered},
	{"result.", Answered},
	{"receipt.transcript", Answered},
	{"outcome", Answered},
	{"error.", Answered},
}

// Compare returns the fields that two bundles have otherwise: first what was asked, then where it ran, then the answer, then the rest.
func Compare(a, b *proof.Bundle) []Difference {
	one, other := flat(a), flat(b)
	fields := map[string]bool{}
	for field := range one {
		fields[field] = true
	}
	for field := range other {
		fields[field] = true
	}
	var all []Difference
	for _, field := range slices.Sorted(maps.Keys(fields)) {
		if one[field] != other[field] {
			all = append(all, Difference{kindOf(field), field, one[field], other[field]})
		}
	}
	order := []Kind{Asked, Placed, Answered, Around}
	slices.SortStableFunc(all, func(x, y Difference) int { return slices.Index(order, x.Kind) - slices.Index(order, y.Kind) })
	return all
}

func kindOf(field string) Kind {
	for _, d := range decides {
		if strings.HasPrefix(field, d.prefix) {
			return d.kind
		}
	}
	return Around
}

// flat has the JSON of each field of a value under its path.
func flat(v any) map[string]string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("proof: %v", err)) // texts and numbers always encode
	}
	var tree any
	if err := json.Unmarshal(text, &tree); err != nil {
		panic(fmt.Sprintf("proof: %v", err)) // it was just encoded
	}
	out := map[string]string{}
	var walk func(path string, node any)
	walk = func(path string, node any) {
		switch node := node.(type) {
		case map[string]any:
			for name, below := range node {
				walk(strings.TrimPrefix(path+"."+name, "."), below)
			}
		case []any:
			for i, below := range node {
				walk(path+"."+strconv.Itoa(i), below)
			}
		default:
			value, _ := json.Marshal(node) // a number, a text, true, false or null
			out[path] = string(value)
		}
	}
	walk("", tree)
	return out
}
