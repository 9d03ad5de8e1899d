// SPDX-License-Identifier: GPL-3.0-or-later

package httpsse

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// ORCH-3056, ORCH-3057, LO-454
func TestMetricsOfAnEngine(t *testing.T) {
	m, err := readMetrics([]byte("# HELP queue requests that wait\n# TYPE queue gauge\nqueue 3 1717\nqueue_size 5\n" +
		"run{model=\"a b}\",type=\"active\"} 2\nrun{model=\"b\",type=\"active\"} 1e0\nrun{model=\"b\",type=\"max\"} 64\nnone NaN\n" +
		"# TYPE took histogram\ntook_bucket{le=\"+Inf\"} 4\ntook_sum 9\ntook_count 4\n# TYPE asked_total counter\nasked_total{model=\"b\"} 7\n"))
	require.NoError(t, err)
	for _, c := range []struct {
		name      string
		labels    []string
		sum, most float64
		told      bool
	}{
		{"queue", nil, 3, 3, true},
		{"queue_size", nil, 5, 5, true},
		{"run", []string{"type=active"}, 3, 2, true},
		{"run", []string{"type=active", "model=b"}, 1, 1, true},
		{"run", []string{"type=idle"}, 0, 0, false},
		{"asked_total", nil, 7, 7, true},
		{"none", nil, 0, 0, false},
		{"ru", nil, 0, 0, false},
	} {
		sum, told := m.Sum(c.name, c.labels...)
		require.InDelta(t, c.sum, sum, 0, c.name)
		require.Equal(t, c.told, told, c.name)
		most, told := m.Most(c.name, c.labels...)
		require.InDelta(t, c.most, most, 0, c.name)
		require.Equal(t, c.told, told, c.name)
	}
	_, err = readMetrics([]byte("odd{x 7\n"))
	require.Error(t, err)
}
