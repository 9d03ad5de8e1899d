// SPDX-License-Identifier: GPL-3.0-or-later

// Package metrics compares /metrics with its contract (ORCH-3028): the table of .specs/metrics/otel-prom.md, which ci/metrics.lint.json repeats. Its
// sub-package live does that with a real daemon.
package metrics

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Where the contract is, relative to the repository.
const (
	SpecPath = ".specs/metrics/otel-prom.md"
	LintPath = "ci/metrics.lint.json"
)

// Contract has all series that /metrics may have.
type Contract struct {
	Ignored []string // prefixes of series that are not ours
	Remarks []string // promtool's remarks that are known and accepted
	Series  []Series
}

// Series is one row.
type Series struct {
	Name     string              `json:"name"`
	Type     string              `json:"type"`
	Unit     string              `json:"unit"`
	Labels   []string            `json:"labels"`
	Buckets  []float64           `json:"buckets"`    // upper bounds without +Inf
	Values   map[string][]string `json:"values"`     // of closed labels
	Most     int                 `json:"max_series"` // combinations of label values
	Stage    int                 `json:"stage"`
	WaitsFor string              `json:"waits_for"` // the requirement that will bring the series; empty once it is there
	Moves    string              `json:"moves"`
}

// ReadLint reads ci/metrics.lint.json.
func ReadLint(path string) (Contract, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Contract{}, fmt.Errorf("reading the metrics contract: %w", err)
	}
	var file struct {
		Comment string   `json:"comment"`
		Own     string   `json:"prefix_own"` // of our own series, for readers
		Ignored []string `json:"ignored_prefixes"`
		Remarks []string `json:"promtool_remarks"`
		Series  []Series `json:"metrics"`
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&file); err != nil {
		return Contract{}, fmt.Errorf("reading %s: %w", path, err)
	}
	return Contract{Ignored: file.Ignored, Remarks: file.Remarks, Series: file.Series}, nil
}

var (
	code     = regexp.MustCompile("`([^`]*)`")
	general  = regexp.MustCompile("(?s)- `engine` is one of (.*?), and `priority` one of (.*?), unless a row says otherwise")
	header   = "| name | type | unit | labels | buckets | closed label values | at most | stage | waits for | moves when |"
	nothing  = "none"
	noValues = "none of its own"
	noWait   = "–"
)

// ReadSpec reads the tables of .specs/metrics/otel-prom.md.
func ReadSpec(path string) ([]Series, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the metrics contract: %w", err)
	}
	usual := general.FindSubmatch(text)
	if usual == nil {
		return nil, fmt.Errorf("%s doesn't say the usual values of `engine` and `priority`", path)
	}
	defaults := map[string][]string{"engine": codes(string(usual[1])), "priority": codes(string(usual[2]))}
	var all []Series
	inTable := false
	for n, line := range strings.Split(string(text), "\n") {
		switch {
		case line == header:
			inTable = true
		case !strings.HasPrefix(line, "|"):
			inTable = false
		case inTable && !strings.HasPrefix(line, "|---"):
			s, err := parseRow(line, defaults)
			if err != nil {
				return nil, fmt.Errorf("%s:%d: %w", path, n+1, err)
			}
			all = append(all, s)
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s has no table with the head %s", path, header)
	}
	return all, nil
}

func parseRow(line string, defaults map[string][]string) (s Series, err error) {
	cells := strings.Split(strings.Trim(line, "| "), " | ")
	if len(cells) != strings.Count(header, "|")-1 {
		return s, fmt.Errorf("the row has %d cells: %s", len(cells), line)
	}
	name := codes(cells[0])
	if len(name) != 1 {
		return s, fmt.Errorf("the row has no name: %s", line)
	}
	s = Series{Name: name[0], Type: cells[1], Unit: cells[2], Labels: codes(cells[3]), Values: map[string][]string{}, Moves: cells[9]}
	if cells[4] != nothing {
		for word := range strings.FieldsSeq(cells[4]) {
			bound, err := strconv.ParseFloat(word, 64)
			if err != nil {
				return s, fmt.Errorf("the buckets of %s: %w", s.Name, err)
			}
			s.Buckets = append(s.Buckets, bound)
		}
	}
	for _, label := range s.Labels {
		if values, usual := defaults[label]; usual {
			s.Values[label] = values
		}
	}
	if cells[5] != noValues {
		for part := range strings.SplitSeq(cells[5], "; ") {
			label, values, _ := strings.Cut(part, ": ")
			s.Values[label] = codes(values)
		}
	}
	if s.Most, err = strconv.Atoi(cells[6]); err != nil {
		return s, fmt.Errorf("the budget of %s: %w", s.Name, err)
	}
	if s.Stage, err = strconv.Atoi(cells[7]); err != nil {
		return s, fmt.Errorf("the stage of %s: %w", s.Name, err)
	}
	if cells[8] != noWait {
		s.WaitsFor = cells[8]
	}
	return s, nil
}

func codes(text string) []string {
	var all []string
	for _, m := range code.FindAllStringSubmatch(text, -1) {
		all = append(all, m[1])
	}
	return all
}

// Differences says where two lists of series differ, by series and field.
func Differences(spec, lint []Series) []string {
	var wrong []string
	at := func(all []Series, name string) int {
		return slices.IndexFunc(all, func(s Series) bool { return s.Name == name })
	}
	for i, want := range spec {
		j := at(lint, want.Name)
		if j < 0 {
			wrong = append(wrong, want.Name+" is in the spec only")
			continue
		}
		if at(spec, want.Name) != i {
			wrong = append(wrong, want.Name+" is in the spec twice")
		}
		a, b := reflect.ValueOf(want), reflect.ValueOf(lint[j])
		for f := range a.NumField() {
			if x, y := a.Field(f), b.Field(f); !same(x, y) {
				wrong = append(wrong, fmt.Sprintf("%s: %s is %v in the spec and %v in the lint", want.Name, a.Type().Field(f).Tag.Get("json"), x, y))
			}
		}
	}
	for j, have := range lint {
		if at(spec, have.Name) < 0 {
			wrong = append(wrong, have.Name+" is in the lint only")
		}
		if at(lint, have.Name) != j {
			wrong = append(wrong, have.Name+" is in the lint twice")
		}
	}
	return wrong
}

// same compares two fields. An empty list or table equals none.
func same(a, b reflect.Value) bool {
	if k := a.Kind(); (k == reflect.Slice || k == reflect.Map) && a.Len() == 0 && b.Len() == 0 {
		return true
	}
	return reflect.DeepEqual(a.Interface(), b.Interface())
}
