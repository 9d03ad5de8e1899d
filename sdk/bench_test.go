// SPDX-License-Identifier: GPL-3.0-or-later

package sdk

import (
	"strings"
	"testing"
)

// What a token costs from the wire to the caller, with its checks.
func BenchmarkToken(b *testing.B) {
	s := newScript()
	for range 1000 {
		s.tokens("word ")
	}
	text := s.end().String()
	var frames []Frame
	for frame := range strings.SplitSeq(strings.TrimSuffix(text, "\n\n"), "\n\n") {
		lines := strings.Split(frame, "\n")
		frames = append(frames, Frame{ID: lines[0][4:], Name: lines[1][7:], Data: []byte(lines[2][6:])})
	}
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		for _, err := range Replay("t", frames) {
			if err != nil {
				b.Fatal(err)
			}
			n++
		}
		if n != len(frames) {
			b.Fatalf("%d of %d events", n, len(frames))
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1002, "ns/event")
}
