// SPDX-License-Identifier: GPL-3.0-or-later

package httpsse

import "testing"

// FuzzMetrics: whatever an engine answers as its metrics, it is read or refused.
//
// LO-454, LO-861
func FuzzMetrics(f *testing.F) {
	f.Add([]byte("# TYPE a counter\na{b=\"c\"} 1\na 2\n"), "a", "b=c")
	f.Add([]byte("a{b=\"\xff\"} NaN 99999999999999999999\n"), "a", "=")
	f.Add([]byte("# TYPE a histogram\na_bucket{le=\"+Inf\"} 1\na_sum -1\na_count 1\n"), "a", "le")
	f.Fuzz(func(_ *testing.T, text []byte, name, label string) {
		m, err := readMetrics(text)
		if err != nil {
			return
		}
		_, _ = m.Sum(name, label)
		_, _ = m.Most(name)
	})
}
