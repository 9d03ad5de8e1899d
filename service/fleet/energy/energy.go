// SPDX-License-Identifier: GPL-3.0-or-later

// Package energy says what the cards take for each task: it splits what their own counters show over the slots that are busy on them (LO-504).
package energy

import (
	"slices"
	"sync"
	"time"

	"github.com/llama-orch/llama-orch/service/task"
)

// fresh is how old a reading may be for a slot that gets busy. A driver renews its counter no more often than this.
const fresh = 20 * time.Millisecond

// Reading is what a card's counter says.
type Reading struct {
	Card   int // its index
	UUID   string
	At     time.Time
	Joules float64 // since the driver was loaded; 0: the card has no counter
}

// Options are what a Meter is made from.
type Options struct {
	Look   func()        // asks for readings soon, and returns at once
	Tariff Tariff        // what electricity costs
	Within time.Duration // how long the end of a use waits for a reading; 0: 500 ms
}

// Meter counts. Its methods may be called from several goroutines.
type Meter struct {
	o Options

	mu    sync.Mutex
	cards map[int]*card
	taken chan struct{} // closed with the next readings
	late  bool          // the last one who waited for readings got none, and none have come since
}

// New makes a meter that has no readings yet.
func New(o Options) *Meter {
	if o.Within <= 0 {
		o.Within = 500 * time.Millisecond
	}
	return &Meter{o: o, cards: map[int]*card{}, taken: make(chan struct{})}
}

// Use is the time in which a slot is busy. A nil Use is that of a slot on no card.
type Use struct {
	m        *Meter
	cards    []*card
	from, to time.Time // to is zero while the slot is busy; this and what follows are guarded by the meter's lock
	open     int       // cards that have not been read since the use ended
	unknown  bool      // a counter did not tell what was taken in a part of it
	energy   task.Energy
}

// Begin says that a slot of a worker on these cards is busy from now on.
func (m *Meter) Begin(cards []int, now time.Time) *Use {
	if len(cards) == 0 {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	u := &Use{m: m, from: now, energy: task.Energy{Priced: m.o.Tariff.Set()}}
	look := false
	for _, i := range cards {
		c := m.card(i)
		c.uses, u.cards = append(c.uses, u), append(u.cards, c)
		u.open++
		u.unknown = u.unknown || !c.counts
		look = look || c.counts && now.Sub(c.at) >= fresh
	}
	if look { // so that what the card took while it was idle is not the task's
		m.o.Look()
	}
	return u
}

// End says that the slot is idle. Only the first call counts.
func (u *Use) End(now time.Time) {
	if u == nil {
		return
	}
	u.m.mu.Lock()
	defer u.m.mu.Unlock()
	if !u.to.IsZero() {
		return
	}
	u.to = now
	for _, c := range u.cards {
		if !c.counts { // no reading may come that takes it out
			c.uses = slices.DeleteFunc(c.uses, func(other *Use) bool { return other == u })
		}
	}
}

// Taken is what the cards took for a use that has ended. It waits a moment for the counters, and returns false where they do not tell.
func (u *Use) Taken() (task.Energy, bool) {
	if u == nil {
		return task.Energy{}, false
	}
	m := u.m
	enough := time.NewTimer(m.o.Within)
	defer enough.Stop()
	m.mu.Lock()
	defer m.mu.Unlock()
	for u.open > 0 && !u.unknown && !m.late {
		taken := m.taken
		m.mu.Unlock()
		m.o.Look()
		select {
		case <-taken:
			m.mu.Lock()
		case <-enough.C:
			m.mu.Lock()
			m.late = taken == m.taken
			u.unknown = u.unknown || u.open > 0 // whatever comes later, nobody will have waited for it
		}
	}
	if u.unknown || u.open > 0 {
		return task.Energy{}, false
	}
	return u.energy, true
}

// Take has the readings of all cards. A card that is not among them is lost.
func (m *Meter) Take(readings []Reading) {
	m.mu.Lock()
	defer m.mu.Unlock()
	read := map[int]bool{}
	for _, r := range readings {
		m.card(r.Card).take(r, m.o.Tariff.At(r.At))
		read[r.Card] = true
	}
	for i, c := range m.cards {
		if !read[i] {
			c.lose()
		}
	}
	m.late = false
	close(m.taken)
	m.taken = make(chan struct{})
}

// card is what is known of a card. The caller holds mu.
func (m *Meter) card(index int) *card {
	c := m.cards[index]
	if c == nil {
		c = &card{}
		m.cards[index] = c
	}
	return c
}

// Idle is what each card with a counter has taken while no slot was busy on it, in joules since this process began to look.
func (m *Meter) Idle() map[int]float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := map[int]float64{}
	for i, c := range m.cards {
		if c.counts {
			all[i] = c.idle
		}
	}
	return all
}
