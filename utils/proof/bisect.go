// SPDX-License-Identifier: GPL-3.0-or-later

package proof

import (
	"encoding/json"
	"maps"
	"slices"

	"github.com/llama-orch/llama-orch/sdk"
)

// Like says which of two answers a third one equals.
type Like string

// The answers that a run may give.
const (
	LikeA   Like = "a"
	LikeB   Like = "b"
	Neither Like = "neither"
)

// Ran is an answer on one fingerprint.
type Ran struct {
	Fingerprint string     `json:"fingerprint"`
	Facts       *sdk.Facts `json:"facts,omitempty"` // nil where nobody knows them any more
	Like        Like       `json:"like"`
	Where       string     `json:"where"` // the task of the run
}

// Fact is a part of a fingerprint that two of them have otherwise.
type Fact struct {
	Name string `json:"name"`
	A    string `json:"a"` // its JSON
	B    string `json:"b"`
}

// FactsThatDiffer returns the parts of which two fingerprints are made that they have otherwise.
func FactsThatDiffer(a, b sdk.Facts) (all []Fact) {
	one, other := facts(a), facts(b)
	for _, name := range slices.Sorted(maps.Keys(one)) {
		if one[name] != other[name] {
			all = append(all, Fact{name, one[name], other[name]})
		}
	}
	return all
}

// Suspects returns the parts of the fingerprints that may have changed the answer: those of which no value stands both with an answer like a and with one like b.
// The more fingerprints were tried, the fewer are left. A fingerprint that gave both answers, or another one, tells nothing.
func Suspects(runs []Ran) (names []string) {
	values := map[string][2]map[string]bool{} // of each part, with answers like a, and like b
	for _, r := range runs {
		side := slices.Index([]Like{LikeA, LikeB}, r.Like)
		if r.Facts == nil || side < 0 {
			continue
		}
		for name, value := range facts(*r.Facts) {
			of, ok := values[name]
			if !ok {
				of = [2]map[string]bool{{}, {}}
				values[name] = of
			}
			of[side][value] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		of := values[name]
		apart := len(of[0]) > 0 && len(of[1]) > 0
		for value := range of[0] {
			apart = apart && !of[1][value]
		}
		if apart {
			names = append(names, name)
		}
	}
	return names
}

// facts has the JSON of each part, also of those that say nothing.
func facts(f sdk.Facts) map[string]string {
	text, err := json.Marshal(f)
	if err != nil {
		panic("proof: " + err.Error()) // texts and numbers always encode
	}
	out := map[string]string{"files": "[]", "build_ref": `""`, "build_flags": "[]"}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(text, &fields); err != nil {
		panic("proof: " + err.Error()) // it was just encoded
	}
	for name, value := range fields {
		out[name] = string(value)
	}
	return out
}
