// SPDX-License-Identifier: GPL-3.0-or-later

package metrics

import (
	"bytes"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// Scrape is one answer of /metrics. Its keys are names.
type Scrape map[string]*dto.MetricFamily

// Parse reads the text format.
func Parse(text []byte) (Scrape, error) {
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("reading /metrics: %w", err)
	}
	return families, nil
}

func (c Contract) series(name string) (Series, bool) {
	i := slices.IndexFunc(c.Series, func(s Series) bool { return s.Name == name })
	if i < 0 {
		return Series{}, false
	}
	return c.Series[i], true
}

func (c Contract) ignores(name string) bool {
	return slices.ContainsFunc(c.Ignored, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
}

// Lint says how a scrape breaks the contract. configured has the values that the configuration gives to labels without a closed list. A label that is
// not in it is not checked.
func (c Contract) Lint(scrape Scrape, configured map[string][]string) []string {
	var wrong []string
	for _, name := range slices.Sorted(maps.Keys(scrape)) {
		if c.ignores(name) {
			continue
		}
		s, known := c.series(name)
		switch {
		case !known:
			wrong = append(wrong, name+" is not in the contract")
		case s.WaitsFor != "":
			wrong = append(wrong, fmt.Sprintf("%s is there, and the contract says that it waits for %s", name, s.WaitsFor))
		default:
			wrong = append(wrong, s.lint(scrape[name], configured)...)
		}
	}
	return wrong
}

func (s Series) lint(family *dto.MetricFamily, configured map[string][]string) (wrong []string) {
	say := func(format string, args ...any) {
		wrong = append(wrong, s.Name+fmt.Sprintf(format, args...))
	}
	if kind := strings.ToLower(family.GetType().String()); kind != s.Type {
		say(" is a %s and should be a %s", kind, s.Type)
		return wrong
	}
	if family.GetHelp() == "" {
		say(" has no help text")
	}
	if n := len(family.GetMetric()); n > s.Most {
		say(" has %d combinations of labels, over its budget of %d", n, s.Most)
	}
	want := slices.Sorted(slices.Values(s.Labels))
	for _, m := range family.GetMetric() {
		var names []string
		for _, l := range m.GetLabel() {
			names = append(names, l.GetName())
			values, closed := s.Values[l.GetName()]
			if !closed {
				values, closed = configured[l.GetName()]
			}
			if closed && !slices.Contains(values, l.GetValue()) {
				say(" has %s=%q, which is not one of %s", l.GetName(), l.GetValue(), strings.Join(values, ", "))
			}
		}
		if slices.Sort(names); !slices.Equal(names, want) {
			say(" has the labels %v and should have %v", names, want)
		}
		if s.Type != "histogram" {
			continue
		}
		var bounds []float64
		for _, b := range m.GetHistogram().GetBucket() {
			if !math.IsInf(b.GetUpperBound(), 1) {
				bounds = append(bounds, b.GetUpperBound())
			}
		}
		if !slices.Equal(bounds, s.Buckets) {
			say(" has the buckets %v and should have %v", bounds, s.Buckets)
		}
	}
	return wrong
}

// Missing returns the series that should be there and are not.
func (c Contract) Missing(scrape Scrape) []string {
	var missing []string
	for _, s := range c.Series {
		if s.WaitsFor == "" && len(scrape[s.Name].GetMetric()) == 0 {
			missing = append(missing, s.Name+" never showed up")
		}
	}
	return missing
}

// StaleWaits returns the series that wait for something that is not open: a requirement that is done, or that does not exist.
func (c Contract) StaleWaits(open func(requirement string) bool) []string {
	var stale []string
	for _, s := range c.Series {
		if s.WaitsFor != "" && !open(s.WaitsFor) {
			stale = append(stale, fmt.Sprintf("%s waits for %s, which is not an open requirement", s.Name, s.WaitsFor))
		}
	}
	return stale
}
