// SPDX-License-Identifier: GPL-3.0-or-later

package engine

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// ORCH-3056, ORCH-3057
func TestSeries(t *testing.T) {
	const text = "# HELP queue requests that wait\n# TYPE queue gauge\nqueue 3 1717\nqueue_size 5\n" +
		"run{model=\"a b}\",type=\"active\"} 2\nrun{model=\"b\",type=\"active\"} 1e0\nrun{model=\"b\",type=\"max\"} 64\nodd{x 7\nnone NaN\n"
	for _, c := range []struct {
		name   string
		labels []string
		sum    float64
		told   bool
	}{
		{"queue", nil, 3, true},
		{"queue_size", nil, 5, true},
		{"run", []string{`type="active"`}, 3, true},
		{"run", []string{`type="active"`, `model="b"`}, 1, true},
		{"run", []string{`type="idle"`}, 0, false},
		{"odd", nil, 0, false},
		{"none", nil, 0, false},
		{"ru", nil, 0, false},
	} {
		sum, told := Series([]byte(text), c.name, c.labels...)
		require.InDelta(t, c.sum, sum, 0, c.name)
		require.Equal(t, c.told, told, c.name)
	}
}
