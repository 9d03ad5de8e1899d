// SPDX-License-Identifier: GPL-3.0-or-later

package engine

import (
	"bytes"
	"math"
	"strconv"
)

// Series sums what metrics in Prometheus' text format tell under a name, of the series that have all of these labels, each written name="value". Told is
// false where there is none.
func Series(metrics []byte, name string, labels ...string) (sum float64, told bool) {
	each(metrics, name, labels, func(v float64) { sum, told = sum+v, true })
	return sum, told
}

// Most is the largest value of the same series.
func Most(metrics []byte, name string, labels ...string) (most float64, told bool) {
	most = math.Inf(-1)
	each(metrics, name, labels, func(v float64) { most, told = max(most, v), true })
	return most, told
}

func each(metrics []byte, name string, labels []string, take func(v float64)) {
	for line := range bytes.Lines(metrics) {
		rest, is := bytes.CutPrefix(line, []byte(name))
		if !is || len(rest) == 0 || rest[0] != ' ' && rest[0] != '{' {
			continue // it is another, whose name begins alike
		}
		var given []byte
		if rest[0] == '{' {
			end := bytes.LastIndexByte(rest, '}')
			if end < 0 {
				continue
			}
			given, rest = rest[:end], rest[end+1:]
		}
		if v, ok := value(rest); ok && hasAll(given, labels) {
			take(v)
		}
	}
}

// value is what stands behind a series' name and labels; a time may follow.
func value(rest []byte) (float64, bool) {
	fields := bytes.Fields(rest)
	if len(fields) == 0 {
		return 0, false
	}
	v, err := strconv.ParseFloat(string(fields[0]), 64)
	return v, err == nil && !math.IsNaN(v)
}

func hasAll(given []byte, labels []string) bool {
	for _, label := range labels {
		if !bytes.Contains(given, []byte(label)) {
			return false
		}
	}
	return true
}
