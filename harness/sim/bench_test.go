// SPDX-License-Identifier: GPL-3.0-or-later

package sim

import (
	"fmt"
	"testing"
)

func bench(b *testing.B, box Box, load []Task, p Policy) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Run(box, load, p, false); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(load))*float64(b.N)/b.Elapsed().Seconds(), "tasks/s")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(len(load))/float64(b.N), "ns/task")
}

// BenchmarkReferenceBox is a day on a 3090 and a 3060.
func BenchmarkReferenceBox(b *testing.B) {
	load := Day(0)
	for _, p := range Policies() {
		b.Run(p.Name, func(b *testing.B) { bench(b, Reference(), load, p) })
	}
}

// BenchmarkPinnedBox is a stream of tasks for one model pinned on a 3090 and a 3060.
func BenchmarkPinnedBox(b *testing.B) {
	box := Rack(2)
	bench(b, box, Stream(0, &box, 200_000, 0.9), Ours(DefaultRules))
}

// BenchmarkReplicas is a million tasks on more and more replicas at nine tenths of what they can do.
func BenchmarkReplicas(b *testing.B) {
	for _, n := range []int{8, 30, 100, 300, 1000} {
		box := Rack(n)
		load := Stream(0, &box, 1_000_000, 0.9)
		b.Run(fmt.Sprintf("replicas=%d", n), func(b *testing.B) { bench(b, box, load, Ours(DefaultRules)) })
	}
}
