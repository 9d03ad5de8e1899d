// SPDX-License-Identifier: GPL-3.0-or-later

package energy

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/llama-orch/llama-orch/service/task"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// at is a time so many milliseconds after the epoch.
func at(ms int) time.Time { return epoch.Add(time.Duration(ms) * time.Millisecond) }

// quiet is a meter that nobody reads for: the test gives it the readings.
func quiet(t Tariff) *Meter { return New(Options{Look: func() {}, Tariff: t, Within: time.Nanosecond}) }

// read has the meter read card 0, and further cards.
func read(m *Meter, ms int, joules ...float64) {
	var all []Reading
	for i, j := range joules {
		all = append(all, Reading{Card: i, UUID: fmt.Sprint("GPU-", i), At: at(ms), Joules: j})
	}
	m.Take(all)
}

func taken(t *testing.T, u *Use) float64 {
	t.Helper()
	e, known := u.Taken()
	require.True(t, known)
	return e.Joules
}

func unknown(t *testing.T, u *Use) {
	t.Helper()
	e, known := u.Taken()
	require.False(t, known)
	require.Zero(t, e)
}

// LO-504: what a card takes while one slot is busy is that slot's task's; the rest is idle energy.
func TestOneSlot(t *testing.T) {
	m := quiet(Tariff{})
	read(m, 0, 100)
	read(m, 1000, 120)
	u := m.Begin([]int{0}, at(1000))
	read(m, 2000, 320)
	u.End(at(3000))
	u.End(at(9000))
	unknown(t, u) // nobody has looked since
	read(m, 3000, 520)

	u = m.Begin([]int{0}, at(3500))
	u.End(at(3750))
	read(m, 4000, 620)
	require.InDelta(t, 25, taken(t, u), 1e-9, "a quarter of the second's 100 J")
	require.InDelta(t, 25, taken(t, u), 1e-9)
	require.InDeltaMapValues(t, map[int]float64{0: 20 + 75}, m.Idle(), 1e-9)
}

// LO-504: slots that are busy at the same instant share it evenly.
func TestSlotsShareACard(t *testing.T) {
	m := quiet(Tariff{})
	read(m, 0, 1000)
	a, b := m.Begin([]int{0}, at(0)), m.Begin([]int{0}, at(500))
	a.End(at(750))
	read(m, 1000, 1100) // 100 W: a alone for 500 ms, both for 250 ms, b alone for 250 ms
	b.End(at(1500))
	read(m, 1500, 1100) // the card took nothing more
	require.InDelta(t, 50+12.5, taken(t, a), 1e-9)
	require.InDelta(t, 12.5+25, taken(t, b), 1e-9)
	require.InDelta(t, 0, m.Idle()[0], 1e-9)
}

// LO-504: a worker on two cards takes its share of each, and a worker beside it on one of them takes its own.
func TestAWorkerOnTwoCards(t *testing.T) {
	m := quiet(Tariff{})
	read(m, 0, 100, 200)
	wide, narrow := m.Begin([]int{0, 1}, at(0)), m.Begin([]int{1}, at(0))
	wide.End(at(1000))
	narrow.End(at(1000))
	read(m, 1000, 130, 240)
	require.InDelta(t, 30+20, taken(t, wide), 1e-9)
	require.InDelta(t, 20, taken(t, narrow), 1e-9)
}

// LO-504: what a task took is left out where a counter does not tell it, and the next task is told its own.
func TestWhatIsNotKnownIsLeftOut(t *testing.T) {
	gap := map[string]func(m *Meter){
		"the counter went back":    func(m *Meter) { read(m, 500, 5, 5) },
		"the driver was lost":      func(m *Meter) { m.Take(nil) },
		"the card does not answer": func(m *Meter) { read(m, 500, 0, 230) },
		"the card was lost": func(m *Meter) {
			m.Take([]Reading{{Card: 1, UUID: "GPU-1", At: at(500), Joules: 230}})
		},
		"it is another card": func(m *Meter) {
			m.Take([]Reading{{Card: 0, UUID: "GPU-9", At: at(500), Joules: 150}, {Card: 1, UUID: "GPU-1", At: at(500), Joules: 230}})
		},
	}
	for name, happens := range gap {
		t.Run(name, func(t *testing.T) {
			m := quiet(Tariff{})
			read(m, 0, 100, 200)
			u, wide, over := m.Begin([]int{0}, at(0)), m.Begin([]int{0, 1}, at(0)), m.Begin([]int{0}, at(0))
			over.End(at(100))
			happens(m)
			read(m, 1000, 160, 260)
			u.End(at(1500))
			wide.End(at(1500))
			read(m, 1500, 200, 300)
			for _, one := range []*Use{u, wide, over} {
				unknown(t, one)
			}
			next := m.Begin([]int{0}, at(1500))
			next.End(at(2000))
			read(m, 2000, 210, 310)
			require.InDelta(t, 10, taken(t, next), 1e-9)
		})
	}
}

// LO-504: a slot that got busy while its card could not be read takes its part of what the others are told.
func TestABusySlotCountsThoughNobodyKnowsWhatItTakes(t *testing.T) {
	m := quiet(Tariff{})
	read(m, 0, 100)
	m.Take(nil)
	old := m.Begin([]int{0}, at(100))
	read(m, 1000, 200)
	next := m.Begin([]int{0}, at(1000))
	next.End(at(2000))
	read(m, 2000, 300)
	require.InDelta(t, 50, taken(t, next), 1e-9)
	old.End(at(2000))
	read(m, 3000, 400)
	unknown(t, old)
	require.InDelta(t, 100, m.Idle()[0], 1e-9)
}

// LO-504: nothing is told of a card without a counter, and nothing is kept of its uses.
func TestACardWithoutACounter(t *testing.T) {
	m := quiet(Tariff{})
	read(m, 0, 0, 100)
	u, wide, ends := m.Begin([]int{0}, at(0)), m.Begin([]int{0, 1}, at(0)), m.Begin([]int{0}, at(0))
	ends.End(at(10))
	read(m, 1000, 0, 150)
	u.End(at(1000))
	wide.End(at(1000))
	read(m, 2000, 0, 200)
	unknown(t, u)
	unknown(t, wide)
	require.InDeltaMapValues(t, map[int]float64{1: 50}, m.Idle(), 1e-9)
	for i, c := range m.cards {
		require.Empty(t, c.uses, "card %d", i)
	}
	require.Nil(t, m.Begin(nil, at(0)), "it is on no card")
	var none *Use
	none.End(at(0))
	unknown(t, none)
}

// lab is a meter on a virtual clock, whose card takes 100 W and is read after a while.
func lab(reads time.Duration) *Meter {
	began := time.Now()
	var m *Meter
	m = New(Options{Look: func() {
		time.AfterFunc(reads, func() {
			now := time.Now()
			m.Take([]Reading{{Card: 0, UUID: "GPU-0", At: now, Joules: 1 + 100*now.Sub(began).Seconds()}})
		})
	}})
	m.o.Look()
	time.Sleep(time.Second)
	return m
}

// LO-504: a short task lies between readings of its own. Its end waits for the second.
func TestAShortTaskHasReadingsOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := lab(time.Millisecond)
		u := m.Begin([]int{0}, time.Now())
		time.Sleep(30 * time.Millisecond)
		began := time.Now()
		u.End(began)
		require.InDelta(t, 3, taken(t, u), 1e-6)
		require.Equal(t, time.Millisecond, time.Since(began))
		require.InDelta(t, 99.9+0.1, m.Idle()[0], 1e-6, "from the first reading to its begin, and from its end to the reading")
	})
}

// LO-504: an end does not wait long for a driver that hangs, and only once.
func TestADriverThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := lab(time.Millisecond)
		look := m.o.Look
		m.o.Look = func() {}
		began := time.Now()
		for range 5 {
			u := m.Begin([]int{0}, time.Now())
			time.Sleep(time.Second)
			u.End(time.Now())
			unknown(t, u)
		}
		require.Equal(t, 5*time.Second+500*time.Millisecond, time.Since(began))
		m.o.Look = look
		look()
		time.Sleep(time.Second)
		u := m.Begin([]int{0}, time.Now())
		time.Sleep(time.Second)
		u.End(time.Now())
		require.InDelta(t, 100, taken(t, u), 1e-6, "it answers again")
	})
}

// LO-504: whatever tasks come and go, what they are told and what is idle add up to what the card took.
func TestNothingIsLostOrTakenTwice(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m, now, joules := quiet(Tariff{PerKWh: 0.25}), 0, 1000.0
		read(m, now, joules)
		var busy, over []*Use
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			now += rapid.IntRange(0, 300).Draw(rt, "ms")
			switch step := rapid.IntRange(0, 2).Draw(rt, "step"); {
			case step == 0:
				busy = append(busy, m.Begin([]int{0}, at(now)))
			case step == 1 && len(busy) > 0:
				i := rapid.IntRange(0, len(busy)-1).Draw(rt, "which")
				busy[i].End(at(now))
				over = append(over, busy[i])
				busy = append(busy[:i], busy[i+1:]...)
			default:
				joules += rapid.Float64Range(0, 500).Draw(rt, "joules")
				read(m, now, joules)
			}
		}
		for _, u := range busy {
			u.End(at(now))
		}
		now++
		joules++
		read(m, now, joules)
		var sum task.Energy
		for _, u := range append(over, busy...) {
			e, known := u.Taken()
			if !known || e.Joules < -1e-9 || !e.Priced {
				rt.Fatalf("a use was told %+v, %v", e, known)
			}
			sum.Joules += e.Joules
			sum.Cost += e.Cost
		}
		if off := sum.Joules + m.Idle()[0] - (joules - 1000); off > 1e-6 || off < -1e-6 {
			rt.Fatalf("%f J too many", off)
		}
		if off := sum.Cost - sum.Joules*0.25/3.6e6; off > 1e-9 || off < -1e-9 {
			rt.Fatalf("the cost is off by %g", off)
		}
		if left := len(m.cards[0].uses); left != 0 {
			rt.Fatalf("%d uses are kept", left)
		}
	})
}

// LO-626: electricity has another price at night, and what it costs is that of the time at which it was taken.
func TestNightPrice(t *testing.T) {
	night := Tariff{PerKWh: 0.36, NightPerKWh: 0.18, NightFrom: 22 * time.Hour, NightTo: 6 * time.Hour, Zone: time.UTC}
	for clock, price := range map[string]float64{
		"21:59:59": 0.36, "22:00:00": 0.18, "23:59:59": 0.18, "00:00:00": 0.18, "05:59:59": 0.18, "06:00:00": 0.36, "12:00:00": 0.36,
	} {
		when, err := time.Parse(time.TimeOnly, clock)
		require.NoError(t, err)
		require.InDelta(t, price/3.6e6, night.At(when), 1e-15, clock)
	}
	noon := Tariff{PerKWh: 0.36, NightPerKWh: 0.1, NightFrom: 11 * time.Hour, NightTo: 13 * time.Hour, Zone: time.UTC}
	require.InDelta(t, 0.1/3.6e6, noon.At(time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)), 1e-15)
	require.InDelta(t, 0.36/3.6e6, noon.At(time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)), 1e-15)
	require.InDelta(t, 0.36/3.6e6, night.At(time.Date(2026, 1, 2, 23, 0, 0, 0, time.FixedZone("east", 2*3600))), 1e-15, "it is 21:00 there")
	require.False(t, Tariff{}.Set())
	require.True(t, Tariff{NightPerKWh: 1}.Set())

	m := quiet(Tariff{PerKWh: 0.36, NightPerKWh: 0.18, NightFrom: 3*time.Hour + 4*time.Minute + 6*time.Second, NightTo: 6 * time.Hour, Zone: time.UTC})
	read(m, 0, 100)
	u := m.Begin([]int{0}, at(0))
	read(m, 500, 1_000_100)
	u.End(at(2000))
	read(m, 2000, 2_000_100) // the second million came in the night
	e, known := u.Taken()
	require.True(t, known)
	require.InDelta(t, 0.1+0.05, e.Cost, 1e-9)
	require.True(t, e.Priced)
}
