// SPDX-License-Identifier: GPL-3.0-or-later

package bdd

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/cucumber/godog"
)

func (w *world) metricsSteps(step define) {
	step(`^I note the metrics$`, w.iNoteTheMetrics)
	step(`^the metrics have moved by$`, w.theMetricsMovedBy)
	step(`^the metrics have$`, w.theMetricsHave)
	step(`^every series is in the metrics contract, with its labels and values$`, w.theMetricsFollowTheContract)
}

// sample is one line of the exposition.
type sample struct {
	name   string
	labels map[string]string
	value  float64
}

// series is a scrape.
type series struct {
	samples []sample
	types   map[string]string
}

var (
	sampleLine = regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? ([^ ]+)$`)
	labelPair  = regexp.MustCompile(`([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"`)
)

// scrape reads /metrics in the text format.
func (w *world) scrape() (series, error) {
	if err := w.call(http.MethodGet, "/metrics", nil, nil); err != nil {
		return series{}, err
	}
	if w.last.status != http.StatusOK {
		return series{}, w.settled()
	}
	s := series{types: map[string]string{}}
	for line := range strings.Lines(string(w.last.body)) {
		line = strings.TrimSuffix(line, "\n")
		if name, ok := strings.CutPrefix(line, "# TYPE "); ok {
			name, kind, _ := strings.Cut(name, " ")
			s.types[name] = kind
		}
		if line == "" || line[0] == '#' {
			continue
		}
		m := sampleLine.FindStringSubmatch(line)
		if m == nil {
			return s, fmt.Errorf("a line of the metrics is malformed: %q", line)
		}
		value, err := strconv.ParseFloat(m[3], 64)
		if err != nil {
			return s, fmt.Errorf("a value of the metrics is malformed: %q", line)
		}
		s.samples = append(s.samples, sample{m[1], labelsOf(m[2]), value})
	}
	return s, nil
}

func labelsOf(text string) map[string]string {
	labels := map[string]string{}
	for _, pair := range labelPair.FindAllStringSubmatch(text, -1) {
		labels[pair[1]] = pair[2]
	}
	return labels
}

// sum adds up the series that a selector like name{label="value"} matches, and says whether there are any.
func (s series) sum(selector string) (total float64, found bool) {
	name, rest, _ := strings.Cut(selector, "{")
	want := labelsOf(rest)
	for _, sample := range s.samples {
		if sample.name != name {
			continue
		}
		matches := true
		for label, value := range want {
			matches = matches && sample.labels[label] == value
		}
		if matches {
			total, found = total+sample.value, true
		}
	}
	return total, found
}

func (w *world) iNoteTheMetrics() (err error) {
	w.metrics, err = w.scrape()
	return err
}

// figure returns the number that a cell means: the number itself, or one that is counted from a stream, such as `tokens of a`.
func (w *world) figure(text string) (float64, error) {
	kind, name, counted := strings.Cut(text, " of ")
	if !counted {
		n, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return 0, fmt.Errorf("the step's figure: %w", err)
		}
		return n, nil
	}
	s, last, err := w.ended(name)
	if err != nil {
		return 0, err
	}
	events, err := s.all()
	if err != nil || kind == "tokens" {
		return float64(countTokens(events)), err
	}
	data, err := decode([]byte(last.Data))
	if err != nil {
		return 0, err
	}
	n, ok := dig(data, kind).(json.Number)
	if !ok {
		return 0, fmt.Errorf("the end of stream %q has no %s", name, kind)
	}
	return n.Float64()
}

// theMetricsMovedBy asks until the metrics fit: a counter moves just after the event that it counts.
func (w *world) theMetricsMovedBy(t *godog.Table) error { return w.metricsAre(t, w.metrics) }

func (w *world) theMetricsHave(t *godog.Table) error { return w.metricsAre(t, series{}) }

func (w *world) metricsAre(t *godog.Table, since series) error {
	rows, err := w.rows(t)
	if err != nil {
		return err
	}
	return poll("the metrics", func() error {
		now, err := w.scrape()
		if err != nil {
			return err
		}
		var wrong error
		for _, r := range rows {
			want, err := w.figure(r.value)
			if err != nil {
				return err
			}
			before, _ := since.sum(r.name)
			after, found := now.sum(r.name)
			if !found {
				wrong = errors.Join(wrong, fmt.Errorf("%s is not there", r.name))
			} else if after-before != want {
				wrong = errors.Join(wrong, fmt.Errorf("%s: %v, and should be %v", r.name, after-before, want))
			}
		}
		return wrong
	})
}

// contract is ci/metrics.lint.json.
type contract struct {
	Own     string   `json:"prefix_own"`
	Ignored []string `json:"ignored_prefixes"`
	Metrics []struct {
		Name   string              `json:"name"`
		Type   string              `json:"type"`
		Labels []string            `json:"labels"`
		Values map[string][]string `json:"values"`
	} `json:"metrics"`
}

func (w *world) theMetricsFollowTheContract() error {
	data, err := os.ReadFile(filepath.Join(w.lab.Root, "ci", "metrics.lint.json"))
	if err != nil {
		return fmt.Errorf("read the metrics contract: %w", err)
	}
	var c contract
	if err := json.Unmarshal(data, &c); err != nil {
		return fmt.Errorf("read the metrics contract: %w", err)
	}
	now, err := w.scrape()
	if err != nil {
		return err
	}
	for _, s := range now.samples {
		if !slices.ContainsFunc(c.Ignored, func(prefix string) bool { return strings.HasPrefix(s.name, prefix) }) {
			err = errors.Join(err, c.check(s, now.types))
		}
	}
	return err
}

func (c contract) check(s sample, types map[string]string) error {
	name := s.name
	if _, plain := types[name]; !plain { // the series of a histogram have its name and a suffix
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			if base := strings.TrimSuffix(s.name, suffix); types[base] == "histogram" {
				name = base
				delete(s.labels, "le")
			}
		}
	}
	for _, m := range c.Metrics {
		if m.Name != name {
			continue
		}
		labels := slices.Sorted(maps.Keys(s.labels))
		if slices.Sort(m.Labels); !slices.Equal(labels, m.Labels) {
			return fmt.Errorf("%s has the labels %v and should have %v", name, labels, m.Labels)
		}
		if types[name] != m.Type {
			return fmt.Errorf("%s is a %s and should be a %s", name, types[name], m.Type)
		}
		for label, values := range m.Values {
			if !slices.Contains(values, s.labels[label]) {
				return fmt.Errorf("%s has %s=%q, which is not in the contract", name, label, s.labels[label])
			}
		}
		return nil
	}
	return fmt.Errorf("%s is not in the contract", name)
}
