// SPDX-License-Identifier: GPL-3.0-or-later

package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/llama-orch/llama-orch/internal/nearest"
	"github.com/llama-orch/llama-orch/service/task"
)

// maxQuote is how many bytes of what the client sent a message repeats.
const maxQuote = 64

// explainBody says what is wrong with a JSON body that gen's decoder refused, in the contract's terms: which field, what is
// allowed, what was sent. It is empty where it finds nothing.
func (c *contract) explainBody(s schema, body []byte) string {
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return ""
	}
	return c.violation(s, v, "")
}

// violation describes the first way, in a fixed order, in which v breaks s.
func (c *contract) violation(s schema, v any, at string) string {
	s = c.resolve(s)
	wrong := func(got string) string {
		return fmt.Sprintf("%s must be %s, not %s", place(at), c.describe(s), got)
	}
	if alternatives, ok := s["oneOf"].([]any); ok { // of which each has a type of its own
		for _, a := range alternatives {
			if a, _ := a.(schema); c.typed(c.resolve(a), v) {
				return c.violation(a, v, at)
			}
		}
		return wrong(kind(v))
	}
	if !c.typed(s, v) {
		return wrong(kind(v))
	}
	switch v := v.(type) {
	case json.Number:
		f, _ := strconv.ParseFloat(v.String(), 64) // out of range gives ±Inf, which compares as it should
		low, hasLow := number(s["minimum"])
		high, hasHigh := number(s["maximum"])
		if hasLow && f < low || hasHigh && f > high {
			return wrong(task.Clip(v.String(), maxQuote))
		}
	case string:
		return c.badString(s, v, wrong)
	case []any:
		low, hasLow := number(s["minItems"])
		high, hasHigh := number(s["maxItems"])
		if n := float64(len(v)); hasLow && n < low || hasHigh && n > high {
			return wrong(fmt.Sprintf("%d items", len(v)))
		}
		items, _ := s["items"].(schema)
		for i, item := range v {
			if why := c.violation(items, item, fmt.Sprintf("%s[%d]", at, i)); why != "" {
				return why
			}
		}
	case map[string]any:
		return c.badObject(s, v, at)
	}
	return ""
}

func (c *contract) badString(s schema, v string, wrong func(string) string) string {
	quoted := strconv.Quote(task.Clip(v, maxQuote))
	if enum, ok := s["enum"].([]any); ok && !slices.Contains(enum, any(v)) {
		return wrong(quoted)
	}
	n := float64(utf8.RuneCountInString(v))
	low, hasLow := number(s["minLength"])
	high, hasHigh := number(s["maxLength"])
	if hasLow && n < low || hasHigh && n > high {
		return wrong(fmt.Sprintf("%.0f characters", n))
	}
	if pattern, ok := s["pattern"].(string); ok {
		if re, err := regexp.Compile(pattern); err == nil && !re.MatchString(v) {
			return wrong(quoted)
		}
	}
	if s["format"] == "uuid" {
		if _, err := uuid.Parse(v); err != nil {
			return wrong(quoted)
		}
	}
	return ""
}

func (c *contract) badObject(s schema, v map[string]any, at string) string {
	known, _ := s["properties"].(map[string]any)
	names := slices.Sorted(maps.Keys(known))
	for _, name := range slices.Sorted(maps.Keys(v)) {
		if _, ok := known[name]; !ok && s["additionalProperties"] == false {
			return unknown("field", join(at, task.Clip(name, maxQuote)), name, names)
		}
	}
	required, _ := s["required"].([]any)
	for _, r := range required {
		name, _ := r.(string)
		if _, ok := v[name]; !ok {
			field, _ := known[name].(schema)
			return fmt.Sprintf("%s is missing: give %s", place(join(at, name)), c.describe(c.resolve(field)))
		}
	}
	if high, ok := number(s["maxProperties"]); ok && float64(len(v)) > high {
		return fmt.Sprintf("%s must have at most %.0f fields, not %d", place(at), high, len(v))
	}
	others, _ := s["additionalProperties"].(schema)
	for _, name := range slices.Sorted(maps.Keys(v)) {
		field, ok := known[name].(schema)
		if !ok {
			field = others
		}
		if why := c.violation(field, v[name], join(at, name)); why != "" {
			return why
		}
	}
	return ""
}

// typed reports whether v is of s's type. gen reads integers written as integers only.
func (c *contract) typed(s schema, v any) bool {
	switch s["type"] {
	case "object":
		_, ok := v.(map[string]any)
		return ok
	case "array":
		_, ok := v.([]any)
		return ok
	case "string":
		_, ok := v.(string)
		return ok
	case "boolean":
		_, ok := v.(bool)
		return ok
	case "number":
		_, ok := v.(json.Number)
		return ok
	case "integer":
		n, ok := v.(json.Number)
		return ok && !strings.ContainsAny(n.String(), ".eE")
	}
	return true
}

// describe says in words what a schema allows.
func (c *contract) describe(s schema) string {
	if enum, ok := s["enum"].([]any); ok {
		words := make([]string, len(enum))
		for i, e := range enum {
			words[i] = fmt.Sprint(e)
		}
		if len(words) == 1 {
			return "`" + words[0] + "`"
		}
		return "one of " + strings.Join(words, ", ")
	}
	if alternatives, ok := s["oneOf"].([]any); ok {
		words := make([]string, len(alternatives))
		for i, a := range alternatives {
			a, _ := a.(schema)
			words[i] = c.describe(c.resolve(a))
		}
		return strings.Join(words, ", or ")
	}
	switch s["type"] {
	case "integer":
		return "an integer" + bounds(s, "minimum", "maximum", "")
	case "number":
		return "a number" + bounds(s, "minimum", "maximum", "")
	case "boolean":
		return "true or false"
	case "array":
		return "a list" + bounds(s, "minItems", "maxItems", " items")
	case "object":
		return "an object"
	case "string":
		if s["format"] == "uuid" {
			return "a UUID"
		}
		if pattern, ok := s["pattern"].(string); ok {
			return "a string that matches " + pattern
		}
		return "a string" + bounds(s, "minLength", "maxLength", " characters")
	}
	return "another value"
}

func bounds(s schema, low, high, unit string) string {
	l, hasLow := number(s[low])
	h, hasHigh := number(s[high])
	format := func(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }
	link := " "
	if unit != "" {
		link = " of "
	}
	switch {
	case hasLow && hasHigh && unit == "":
		return " from " + format(l) + " to " + format(h)
	case hasLow && hasHigh:
		return link + format(l) + " to " + format(h) + unit
	case hasHigh:
		return link + "at most " + format(h) + unit
	case hasLow:
		return link + "at least " + format(l) + unit
	}
	return ""
}

// number reads a figure of the YAML document.
func number(v any) (float64, bool) {
	switch v := v.(type) {
	case uint64:
		return float64(v), true
	case int64:
		return float64(v), true
	case int:
		return float64(v), true
	case float64:
		return v, true
	}
	return 0, false
}

func kind(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case json.Number:
		return task.Clip(v.String(), maxQuote)
	case string:
		return "a string"
	case bool:
		return strconv.FormatBool(v)
	case []any:
		return "a list"
	default:
		return "an object"
	}
}

func place(at string) string {
	if at == "" {
		return "the body"
	}
	return "`" + at + "`"
}

func join(at, name string) string {
	if at == "" {
		return name
	}
	return at + "." + name
}

// unknown words the refusal of a name that the contract does not have, and suggests the nearest one that it has.
func unknown(what, shown, name string, known []string) string {
	if len(known) == 0 {
		return fmt.Sprintf("unknown %s %q: there are none here", what, shown)
	}
	if n := nearest.Name(name, known); n != "" {
		return fmt.Sprintf("unknown %s %q: did you mean %q?", what, shown, n)
	}
	return fmt.Sprintf("unknown %s %q: known are %s", what, shown, strings.Join(known, ", "))
}
