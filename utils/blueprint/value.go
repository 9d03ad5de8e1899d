// SPDX-License-Identifier: GPL-3.0-or-later

package blueprint

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/llama-orch/llama-orch/internal/plainjson"
)

var condition = regexp.MustCompile(`^\s*(!?)\s*(\$\{[^}]*\})\s*(?:(==|!=)\s*(.+?)\s*)?$`)

// roots are what a reference may begin with.
var roots = []string{"inputs", "steps", "item", "index", "last"}

// find returns where the first ${…} of a text begins and ends. One with a further $ before it stands for itself. Without any, begin is below 0.
func find(text string) (begin, end int) {
	begin = strings.Index(text, "${")
	if begin < 0 {
		return -1, 0
	}
	n := strings.IndexByte(text[begin:], '}')
	if n < 0 {
		return -1, 0
	}
	end = begin + n + 1
	if begin > 0 && text[begin-1] == '$' {
		begin--
	}
	return begin, end
}

// ref is a reference: where it begins, and what it picks then: names, numbers of a list, or all of it.
type ref struct {
	text  string // as it stands between the braces
	root  string
	parts []string
}

// name is the first that it picks: of an input, or of a step.
func (r ref) name() string {
	if len(r.parts) == 0 {
		return ""
	}
	return strings.TrimPrefix(r.parts[0], ".")
}

// parseRef reads what stands between ${ and }.
func parseRef(text string) (ref, error) {
	rest := strings.TrimSpace(text)
	root := rest
	if i := strings.IndexAny(rest, ".["); i >= 0 {
		root = rest[:i]
	}
	r := ref{text: text, root: root}
	if rest = rest[len(root):]; !slices.Contains(roots, root) || !r.pick(rest) {
		return ref{}, fmt.Errorf("${%s} is no reference: write ${inputs.NAME}, ${steps.ID.FIELD}, ${item}, ${index} or ${last}, and $${ for a plain ${", text)
	}
	if (r.root == "inputs" || r.root == "steps") && (len(r.parts) == 0 || r.parts[0][0] == '[') {
		return r, fmt.Errorf("${%s} names nothing: write ${%s.NAME}", text, r.root)
	}
	return r, nil
}

// pick reads what a reference picks: .NAME, [NUMBER] or [*], as often as one likes.
func (r *ref) pick(rest string) bool {
	for rest != "" {
		end := 1
		switch rest[0] {
		case '.':
			for end < len(rest) && (isDigit(rest[end]) || 'A' <= rest[end] && rest[end] <= 'Z' || 'a' <= rest[end] && rest[end] <= 'z' || rest[end] == '_' || rest[end] == '-') {
				end++
			}
			if end == 1 {
				return false
			}
		case '[':
			for end < len(rest) && end <= 6 && isDigit(rest[end]) {
				end++
			}
			if end == 1 && strings.HasPrefix(rest, "[*") {
				end = 2
			}
			if end == 1 || end >= len(rest) || rest[end] != ']' {
				return false
			}
			end++
		default:
			return false
		}
		r.parts, rest = append(r.parts, rest[:end]), rest[end:]
	}
	return true
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// refs lists the references in a value, and what is wrong with others.
func refs(value any) (all []ref, wrong []error) {
	switch v := value.(type) {
	case string:
		for begin, end := find(v); begin >= 0; begin, end = find(v) {
			found := v[begin:end]
			v = v[end:]
			if strings.HasPrefix(found, "$$") {
				continue
			}
			r, err := parseRef(found[2 : len(found)-1])
			if err != nil {
				wrong = append(wrong, err)
				continue
			}
			all = append(all, r)
		}
	case []any:
		for _, one := range v {
			a, w := refs(one)
			all, wrong = append(all, a...), append(wrong, w...)
		}
	case map[string]any:
		for _, one := range v {
			a, w := refs(one)
			all, wrong = append(all, a...), append(wrong, w...)
		}
	}
	return all, wrong
}

// scope is what references mean at one place. It does not change, but for results, which are written before those who refer to them begin.
type scope struct {
	parent *scope
	inputs map[string]any
	result map[string]*any // by the id of the steps of this graph
	vars   map[string]any  // item, index and last
	salt   string          // tells tries of a loop apart
	path   string          // of the steps around
}

func (s *scope) lookup(r ref) any {
	for at := s; at != nil; at = at.parent {
		switch r.root {
		case "inputs":
			if at.inputs != nil {
				return pick(at.inputs[r.name()], r.parts[1:])
			}
		case "steps":
			if result, ok := at.result[r.name()]; ok {
				return pick(*result, r.parts[1:])
			}
		default:
			if value, ok := at.vars[r.root]; ok {
				return pick(value, r.parts)
			}
		}
	}
	return nil
}

// pick goes into a value. What is not there is null.
func pick(value any, parts []string) any {
	for i, p := range parts {
		if p == "[*]" {
			list, ok := value.([]any)
			if !ok {
				return nil
			}
			all := make([]any, len(list))
			for n, one := range list {
				all[n] = pick(one, parts[i+1:])
			}
			return all
		}
		if p[0] == '[' {
			list, ok := value.([]any)
			n, err := strconv.Atoi(p[1 : len(p)-1])
			if !ok || err != nil || n >= len(list) {
				return nil
			}
			value = list[n]
			continue
		}
		object, ok := value.(map[string]any)
		if !ok {
			return nil
		}
		value = object[p[1:]]
	}
	return value
}

// meant is the text of what a reference within a text means.
func (s *scope) meant(found string) string {
	if strings.HasPrefix(found, "$$") {
		return found[1:]
	}
	r, err := parseRef(found[2 : len(found)-1])
	if err != nil { // the check has refused it
		return found
	}
	return text(s.lookup(r))
}

// fill puts what references mean into a value.
func (s *scope) fill(value any) any {
	switch v := value.(type) {
	case string:
		begin, end := find(v)
		if begin < 0 {
			return v
		}
		if begin == 0 && end == len(v) && !strings.HasPrefix(v, "$$") {
			if r, err := parseRef(v[2 : len(v)-1]); err == nil {
				return s.lookup(r)
			}
		}
		var b strings.Builder
		for ; begin >= 0; begin, end = find(v) {
			b.WriteString(v[:begin])
			b.WriteString(s.meant(v[begin:end]))
			v = v[end:]
		}
		return b.String() + v
	case []any:
		all := make([]any, len(v))
		for i, one := range v {
			all[i] = s.fill(one)
		}
		return all
	case map[string]any:
		all := make(map[string]any, len(v))
		for name, one := range v {
			all[name] = s.fill(one)
		}
		return all
	}
	return value
}

// text is how a value stands inside of a text.
func text(value any) string {
	switch v := value.(type) {
	case nil:
		return ""
	case string:
		return v
	}
	raw, err := plainjson.Encode(value)
	if err != nil {
		return fmt.Sprint(value)
	}
	return string(raw)
}

// decode reads JSON, and leaves numbers as they are written.
func decode(raw []byte) (value any, err error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	err = d.Decode(&value)
	return value, err
}

// test is a condition.
type test struct {
	not   bool
	of    ref
	op    string // "", == or !=
	value string // JSON
}

// parseTest reads a condition.
func parseTest(text string) (test, error) {
	found := condition.FindStringSubmatch(text)
	if found == nil || found[1] != "" && found[3] != "" {
		return test{}, fmt.Errorf("%q is no condition: write ${steps.ID.FIELD}, !${…}, ${…} == JSON or ${…} != JSON, with texts in double quotes", text)
	}
	r, err := parseRef(found[2][2 : len(found[2])-1])
	if err != nil {
		return test{}, err
	}
	t := test{not: found[1] != "", of: r, op: found[3]}
	if t.op != "" {
		value, err := decode([]byte(found[4]))
		if err != nil {
			return test{}, fmt.Errorf("%s in a condition is not JSON: put a text into double quotes", found[4])
		}
		raw, err := plainjson.Encode(value)
		if err != nil {
			return test{}, err
		}
		t.value = string(raw)
	}
	return t, nil
}

// holds says whether a condition is true. Without a comparison, what is missing, false, 0, and empty is not.
func (t test) holds(s *scope) bool {
	value := s.lookup(t.of)
	if t.op != "" {
		raw, err := plainjson.Encode(value)
		return err == nil && (string(raw) == t.value) == (t.op == "==")
	}
	full := true
	switch v := value.(type) {
	case nil:
		full = false
	case bool:
		full = v
	case string:
		full = v != ""
	case json.Number:
		f, err := v.Float64()
		full = err != nil || f != 0
	case []any:
		full = len(v) > 0
	case map[string]any:
		full = len(v) > 0
	}
	return full != t.not
}
