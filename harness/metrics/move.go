// SPDX-License-Identifier: GPL-3.0-or-later

package metrics

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	dto "github.com/prometheus/client_model/go"
)

// Kind says what a move's figure means.
type Kind int

// By: the counters moved by exactly the figure. AtLeast: by the figure or more. Is: the gauges now have that value.
const (
	By Kind = iota
	AtLeast
	Is
)

// Move says what an action does to the series that a selector name{label="value",…} matches, whatever their other labels. For a histogram it counts
// the observations.
type Move struct {
	Series string
	Kind   Kind
	Figure float64
}

// point is one series of a scrape.
type point struct {
	name   string
	labels map[string]string
	gauge  bool
	value  float64
}

func (p point) String() string {
	var pairs []string
	for _, name := range slices.Sorted(maps.Keys(p.labels)) {
		pairs = append(pairs, fmt.Sprintf("%s=%q", name, p.labels[name]))
	}
	return p.name + "{" + strings.Join(pairs, ",") + "}"
}

// points returns the contract's series of a scrape, by their written form.
func (c Contract) points(scrape Scrape) map[string]point {
	all := map[string]point{}
	for name, family := range scrape {
		if c.ignores(name) {
			continue
		}
		for _, m := range family.GetMetric() {
			p := point{name: name, labels: map[string]string{}}
			for _, l := range m.GetLabel() {
				p.labels[l.GetName()] = l.GetValue()
			}
			switch family.GetType() {
			case dto.MetricType_GAUGE:
				p.gauge, p.value = true, m.GetGauge().GetValue()
			case dto.MetricType_HISTOGRAM:
				p.value = float64(m.GetHistogram().GetSampleCount())
			default:
				p.value = m.GetCounter().GetValue()
			}
			all[p.String()] = p
		}
	}
	return all
}

var pair = regexp.MustCompile(`([a-z_]+)="([^"]*)"`)

func (m Move) matches(p point) bool {
	name, labels, _ := strings.Cut(m.Series, "{")
	if name != p.name {
		return false
	}
	for _, l := range pair.FindAllStringSubmatch(labels, -1) {
		if value, ok := p.labels[l[1]]; !ok || value != l[2] {
			return false
		}
	}
	return true
}

// Unmoved says where the change between two scrapes is not what an action should do: a move is missing or has another size, or a counter moved
// although no move names it. loose selects counters that move by themselves.
func (c Contract) Unmoved(before, after Scrape, moves, loose []Move) []string {
	was, is := c.points(before), c.points(after)
	sums := make([]float64, len(moves))
	found := make([]bool, len(moves))
	var wrong []string
	for _, key := range slices.Sorted(maps.Keys(is)) {
		p := is[key]
		delta, named := p.value-was[key].value, false
		for i, m := range moves {
			if !m.matches(p) {
				continue
			}
			named, found[i] = true, true
			if m.Kind == Is {
				sums[i] += p.value
			} else {
				sums[i] += delta
			}
		}
		if !p.gauge && !named && delta != 0 && !slices.ContainsFunc(loose, func(m Move) bool { return m.matches(p) }) {
			wrong = append(wrong, fmt.Sprintf("%s moved by %g, and nothing should have moved it", p, delta))
		}
	}
	for i, m := range moves {
		switch {
		case !found[i]:
			wrong = append(wrong, m.Series+" is not there")
		case m.Kind == AtLeast && sums[i] < m.Figure:
			wrong = append(wrong, fmt.Sprintf("%s moved by %g, and should by %g or more", m.Series, sums[i], m.Figure))
		case m.Kind == By && sums[i] != m.Figure:
			wrong = append(wrong, fmt.Sprintf("%s moved by %g, and should by %g", m.Series, sums[i], m.Figure))
		case m.Kind == Is && sums[i] != m.Figure:
			wrong = append(wrong, fmt.Sprintf("%s is %g, and should be %g", m.Series, sums[i], m.Figure))
		}
	}
	return wrong
}
