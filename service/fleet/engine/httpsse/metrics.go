// SPDX-License-Identifier: GPL-3.0-or-later

package httpsse

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"strings"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// Metrics are an engine's own, by their names.
type Metrics map[string]*dto.MetricFamily

// Metrics reads the answer of a GET in Prometheus' text format.
func (c *Client) Metrics(ctx context.Context, path string) (Metrics, error) {
	text, err := c.Text(ctx, path)
	if err != nil {
		return nil, err
	}
	m, err := readMetrics(text)
	if err != nil {
		return nil, c.Reset(err)
	}
	return m, nil
}

func readMetrics(text []byte) (Metrics, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	all, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("reading the engine's metrics: %w", err)
	}
	return all, nil
}

// Sum is that of the series of a name that have all of these labels, each as name=value. Told is false where there is none.
func (m Metrics) Sum(name string, labels ...string) (sum float64, told bool) {
	for _, v := range m.values(name, labels) {
		sum, told = sum+v, true
	}
	return sum, told
}

// Most is the largest of them.
func (m Metrics) Most(name string, labels ...string) (most float64, told bool) {
	for _, v := range m.values(name, labels) {
		if !told || v > most {
			most, told = v, true
		}
	}
	return most, told
}

func (m Metrics) values(name string, labels []string) (all []float64) {
	for _, s := range m[name].GetMetric() {
		v := s.GetGauge().GetValue() + s.GetCounter().GetValue() + s.GetUntyped().GetValue() // it is one of them
		if hasAll(s.GetLabel(), labels) && !math.IsNaN(v) {
			all = append(all, v)
		}
	}
	return all
}

func hasAll(given []*dto.LabelPair, labels []string) bool {
	for _, label := range labels {
		name, value, _ := strings.Cut(label, "=")
		has := false
		for _, g := range given {
			has = has || g.GetName() == name && g.GetValue() == value
		}
		if !has {
			return false
		}
	}
	return true
}
