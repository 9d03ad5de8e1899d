// SPDX-License-Identifier: GPL-3.0-or-later

package energy

import (
	"fmt"
	"testing"
)

// BenchmarkTake is a reading of a card on which so many slots are busy, one of which changes with each reading.
//
// LO-504
func BenchmarkTake(b *testing.B) {
	for _, slots := range []int{1, 16, 256} {
		b.Run(fmt.Sprintf("slots=%d", slots), func(b *testing.B) {
			m, now := quiet(Tariff{}), 0
			read(m, now, 1)
			var busy []*Use
			for range slots {
				busy = append(busy, m.Begin([]int{0}, at(now)))
			}
			for n := 0; b.Loop(); n++ {
				now += 2
				busy[n%slots].End(at(now - 1))
				busy[n%slots] = m.Begin([]int{0}, at(now-1))
				read(m, now, float64(1+n))
			}
		})
	}
}
