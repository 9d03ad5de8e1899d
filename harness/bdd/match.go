// SPDX-License-Identifier: GPL-3.0-or-later

package bdd

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
)

// decode reads JSON with its numbers as they are written.
func decode(data []byte) (v any, err error) {
	decoder := json.NewDecoder(strings.NewReader(string(data)))
	decoder.UseNumber()
	if err := decoder.Decode(&v); err != nil {
		return nil, fmt.Errorf("it is no JSON: %w: %.200s", err, data)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("more follows the JSON: %.200s", data)
	}
	return v, nil
}

// absent stands for a value that is not there.
type absent struct{}

// dig follows a path such as pools.0.queue.depth. The path `.` is the value itself.
func dig(v any, path string) any {
	if path == "." {
		return v
	}
	for key := range strings.SplitSeq(path, ".") {
		switch node := v.(type) {
		case map[string]any:
			inner, ok := node[key]
			if !ok {
				return absent{}
			}
			v = inner
		case []any:
			i, err := strconv.Atoi(key)
			if err != nil || i < 0 || i >= len(node) {
				return absent{}
			}
			v = node[i]
		default:
			return absent{}
		}
	}
	return v
}

var comparison = regexp.MustCompile(`^(>=|<=|>|<) (-?[0-9.]+)$`)

// match compares a JSON value with a cell of a table. The cell is `absent`, `present`, `/a regular expression/`, a comparison such as `>= 1`, or
// the value itself, as JSON or as plain text.
func match(got any, want string) error {
	_, missing := got.(absent)
	wrong := func() error { return fmt.Errorf("it is %s and should be %s", show(got), want) }
	switch {
	case want == "absent":
		if !missing {
			return wrong()
		}
		return nil
	case missing:
		return fmt.Errorf("it is not there and should be %s", want)
	case want == "present":
		return nil
	case len(want) > 1 && want[0] == '/' && want[len(want)-1] == '/':
		re, err := regexp.Compile(want[1 : len(want)-1])
		if err != nil {
			return fmt.Errorf("the step's regular expression: %w", err)
		}
		if !re.MatchString(plain(got)) {
			return wrong()
		}
		return nil
	}
	if c := comparison.FindStringSubmatch(want); c != nil {
		return compare(got, c[1], c[2], wrong)
	}
	if plain(got) == want {
		return nil
	}
	wanted, err := decode([]byte(want))
	if err != nil || show(wanted) != show(got) {
		return wrong()
	}
	return nil
}

func compare(got any, operator, bound string, wrong func() error) error {
	n, ok := got.(json.Number)
	if !ok {
		return wrong()
	}
	a, err1 := n.Float64()
	b, err2 := strconv.ParseFloat(bound, 64)
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("compare numbers: %w", err)
	}
	if holds := map[string]bool{">=": a >= b, "<=": a <= b, ">": a > b, "<": a < b}[operator]; !holds {
		return wrong()
	}
	return nil
}

// plain returns a text as it is, and anything else as JSON.
func plain(v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	return show(v)
}

func show(v any) string {
	if _, ok := v.(absent); ok {
		return "absent"
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(b)
}
