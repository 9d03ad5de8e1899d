// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

// contract has the series that /metrics may have, by name.
type contract map[string]series

type series struct {
	Name     string              `json:"name"`
	Type     string              `json:"type"`
	Labels   []string            `json:"labels"`
	Values   map[string][]string `json:"values"`
	WaitsFor string              `json:"waits_for"`
}

// given are the series that every daemon has beside those of the contract: Prometheus's own, and the process's.
var given = []string{"up", "process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds", "process_start_time_seconds"}

// scraped are the labels that Prometheus adds to each series.
var scraped = []string{"instance", "job"}

func readContract(path string) (contract, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the metrics contract: %w", err)
	}
	var file struct {
		Series []series `json:"metrics"`
	}
	if err := json.Unmarshal(text, &file); err != nil {
		return nil, fmt.Errorf("read the metrics contract: %w", err)
	}
	c := contract{}
	for _, name := range given {
		c[name] = series{Name: name, Type: "gauge"}
	}
	for _, s := range file.Series {
		if s.WaitsFor == "" {
			c[s.Name] = s
		}
	}
	return c, nil
}

// variables stand for what Grafana fills in.
var variables = strings.NewReplacer("$__rate_interval", "5m", "$__range", "1h", "$pool", ".*")

// check says what is wrong with a query: it cannot be parsed, or names a series, a label or a label's value that the contract does not have. wanted are labels
// that the result should have, by one of its series.
func (c contract) check(query string, wanted []string) error {
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(variables.Replace(query))
	if err != nil {
		return fmt.Errorf("%s: %w", query, err)
	}
	known, err := c.labels(expr)
	if err != nil {
		return fmt.Errorf("%s: %w", query, err)
	}
	for _, name := range wanted {
		if !slices.Contains(known, name) {
			return fmt.Errorf("%s: no series of it has the label %s", query, name)
		}
	}
	return nil
}

// labels are those of an expression's series. Each part that groups by labels, or joins on them, has to find them in its own series.
func (c contract) labels(node parser.Node) ([]string, error) {
	if s, ok := node.(*parser.VectorSelector); ok {
		return c.selector(s)
	}
	var known []string
	for child := range parser.ChildrenIter(node) {
		more, err := c.labels(child)
		if err != nil {
			return nil, err
		}
		known = append(known, more...)
	}
	var named []string
	switch e := node.(type) {
	case *parser.AggregateExpr:
		named = e.Grouping
	case *parser.BinaryExpr:
		if e.VectorMatching != nil {
			named = append(named, e.VectorMatching.MatchingLabels...)
			named = append(named, e.VectorMatching.Include...)
		}
	}
	for _, name := range named {
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("no series has the label %s in %s", name, node)
		}
	}
	if e, ok := node.(*parser.AggregateExpr); ok && !e.Without {
		return e.Grouping, nil
	}
	return known, nil
}

var suffix = regexp.MustCompile(`_(bucket|sum|count)$`)

func (c contract) selector(v *parser.VectorSelector) ([]string, error) {
	name, bucket := v.Name, false
	s, ok := c[name]
	if base := suffix.ReplaceAllString(name, ""); !ok && c[base].Type == "histogram" {
		s, ok, bucket = c[base], true, strings.HasSuffix(name, "_bucket")
	} else if ok && s.Type == "histogram" {
		return nil, fmt.Errorf("%s is a histogram: name its _bucket, _sum or _count", name)
	}
	if !ok {
		return nil, fmt.Errorf("%s is not in the metrics contract", name)
	}
	known := slices.Concat(s.Labels, scraped)
	if bucket {
		known = append(known, "le")
	}
	for _, m := range v.LabelMatchers {
		if m.Name == labels.MetricName {
			continue
		}
		if !slices.Contains(known, m.Name) {
			return nil, fmt.Errorf("%s has no label %s", name, m.Name)
		}
		closed, ok := s.Values[m.Name]
		for value := range strings.SplitSeq(m.Value, "|") {
			if ok && value != ".*" && !slices.Contains(closed, value) {
				return nil, fmt.Errorf("%s never has %s=%q", name, m.Name, value)
			}
		}
	}
	return known, nil
}
