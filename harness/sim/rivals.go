// SPDX-License-Identifier: GPL-3.0-or-later

package sim

import (
	"cmp"
	"slices"
	"time"
)

// byCard is for policies that give each task a card when it arrives. Each card runs its tasks one after the other in the order in which they came. If
// the first task needs a model that is not loaded, the card's models that were used longest ago make room.
type byCard struct {
	choose func(b *byCard, model int32) int
	m      *machine
	homes  []int // of each model, for round-robin
	next   int
	cards  []cardLine
}

type cardLine struct {
	line   []int32
	active int
}

// roundRobin gives each model, in turn, to the next card that can hold it. There the model stays.
func roundRobin(b *byCard, model int32) int { return b.homes[model] }

// leastConnections takes the card with the fewest tasks among the cards that can hold the model.
func leastConnections(b *byCard, model int32) int {
	best := -1
	for i := range b.cards {
		if b.m.fits(int(model), i) && (best < 0 || b.cards[i].load() < b.cards[best].load()) {
			best = i
		}
	}
	return best
}

func (c *cardLine) load() int { return len(c.line) + c.active }

// fits reports whether the card could hold the model if it were empty.
func (m *machine) fits(model, card int) bool {
	_, ok := m.box.Models[model].Rates[m.box.Cards[card].Class]
	return ok && m.box.Models[model].Bytes <= m.box.Cards[card].Bytes
}

func (b *byCard) begin(m *machine) {
	b.m, b.cards = m, make([]cardLine, len(m.box.Cards))
	for model := range m.box.Models {
		for !m.fits(model, b.next%len(b.cards)) {
			b.next++
		}
		b.homes = append(b.homes, b.next%len(b.cards))
		b.next++
	}
	m.pin()
}

// pin makes the pinned models' workers.
func (m *machine) pin() {
	for i := range m.box.Models {
		for _, at := range m.box.Models[i].Pinned {
			w := m.place(i, at)
			m.cards[at].loads++
			m.becomesReady(w)
		}
	}
}

func (b *byCard) arrives(i int32) {
	t := &b.m.tasks[i]
	at := b.choose(b, t.Model)
	t.card = int32(at)
	b.cards[at].line = append(b.cards[at].line, i)
}

func (b *byCard) withdrawn(i int32) {
	c := &b.cards[b.m.tasks[i].card]
	c.line = slices.DeleteFunc(c.line, func(t int32) bool { return t == i })
}

func (b *byCard) changed(*worker) {}
func (b *byCard) ticks()          {}

func (b *byCard) act() {
	for at := range b.cards {
		c := &b.cards[at]
		for len(c.line) > 0 && b.first(at, c.line[0]) {
			c.line = c.line[1:]
		}
		c.active = len(b.m.cards[at].runs)
	}
}

// first starts the card's first task, or does what the task waits for.
func (b *byCard) first(at int, i int32) bool {
	model := int(b.m.tasks[i].Model)
	var idle []*worker
	for _, id := range b.m.cards[at].ids {
		w := b.m.workers[id]
		switch {
		case w.model == model && w.free():
			b.m.start(i, w)
			return true
		case w.model == model, w.state == leaving:
			return false
		case w.state == ready && w.active == 0:
			idle = append(idle, w)
		}
	}
	if b.m.cards[at].free >= b.m.box.Models[model].Bytes {
		b.m.load(model, at)
		return false
	}
	if len(idle) > 0 {
		b.m.unload(slices.MinFunc(idle, longestUnused))
	}
	return false
}

func longestUnused(a, b *worker) int {
	return cmp.Or(cmp.Compare(a.used, b.used), cmp.Compare(a.index, b.index))
}

// swapEach swaps on every request, in the order in which requests came. A request takes the card that has its model. If there is none, the models that
// were used longest ago make room as soon as their running tasks are done. A loaded model stays until one task has used it.
type swapEach struct {
	orderly bool // a model that an earlier task waits for stays until that task has used it
	m       *machine
	lines   [][]int32 // by model
	order   []int     // models with tasks, by the first of them
	needed  []bool    // models that an earlier task waits for
	closed  []bool    // cards whose memory an earlier task waits for
}

func (s *swapEach) begin(m *machine) {
	s.m, s.lines = m, make([][]int32, len(m.box.Models))
	s.needed, s.closed = make([]bool, len(m.box.Models)), make([]bool, len(m.box.Cards))
	m.pin()
}

func (s *swapEach) arrives(i int32) {
	t := &s.m.tasks[i]
	s.lines[t.Model] = append(s.lines[t.Model], i)
}

func (s *swapEach) withdrawn(i int32) {
	line := &s.lines[s.m.tasks[i].Model]
	*line = slices.DeleteFunc(*line, func(t int32) bool { return t == i })
}

func (s *swapEach) changed(*worker) {}
func (s *swapEach) ticks()          {}

func (s *swapEach) act() {
	for s.round() {
	}
}

// round tries the first task of each model, in the order in which they came. It reports whether one started.
func (s *swapEach) round() bool {
	s.order = s.order[:0]
	for model := range s.lines {
		if len(s.lines[model]) > 0 {
			s.order = append(s.order, model)
		}
	}
	came := func(model int) time.Duration { return s.m.tasks[s.lines[model][0]].Came }
	slices.SortFunc(s.order, func(a, b int) int { return cmp.Or(cmp.Compare(came(a), came(b)), cmp.Compare(a, b)) })
	for c := range s.m.cards {
		for _, id := range s.m.cards[c].ids {
			s.m.workers[id].claimed = false
		}
	}
	clear(s.needed)
	clear(s.closed)
	for _, model := range s.order {
		if s.take(model) {
			return true
		}
		s.needed[model] = true
	}
	return false
}

// take starts the model's first task, or does what the task waits for.
func (s *swapEach) take(model int) bool {
	here := false
	for c := range s.m.cards {
		for _, id := range s.m.cards[c].ids {
			switch w := s.m.workers[id]; {
			case w.model != model || w.state == leaving || w.claimed:
			case w.free():
				s.m.start(s.lines[model][0], w)
				s.lines[model] = s.lines[model][1:]
				return true
			default:
				here = true
			}
		}
	}
	if here {
		return false
	}
	bytes := s.m.box.Models[model].Bytes
	best, unused := -1, time.Duration(0)
	var out []*worker
	for c := range s.m.cards {
		if s.closed[c] || !s.m.fits(model, c) {
			continue
		}
		goes, last, ok := s.room(c, bytes)
		if ok && (best < 0 || last < unused || last == unused && s.m.cards[c].free > s.m.cards[best].free) {
			best, unused, out = c, last, goes
		}
	}
	if best < 0 {
		return false
	}
	if s.m.cards[best].free >= bytes {
		s.m.load(model, best)
		return false
	}
	s.closed[best] = true
	for _, w := range out {
		w.claimed = true
		if w.active == 0 && w.state == ready {
			s.m.unload(w)
		}
	}
	return false
}

// room returns which of a card's workers would have to go for so many bytes, and when the last of them was used.
func (s *swapEach) room(card int, bytes int64) (out []*worker, last time.Duration, ok bool) {
	free := s.m.cards[card].free
	var may []*worker
	for _, id := range s.m.cards[card].ids {
		w := s.m.workers[id]
		switch {
		case w.state == leaving:
			free += s.m.box.Models[w.model].Bytes
		case w.state == ready && !w.claimed && (!s.orderly || !s.needed[w.model]) && (w.used > w.since || len(s.lines[w.model]) == 0):
			may = append(may, w)
		}
	}
	slices.SortFunc(may, longestUnused)
	for _, w := range may {
		if free >= bytes {
			break
		}
		free += s.m.box.Models[w.model].Bytes
		out, last = append(out, w), w.used
	}
	return out, last, free >= bytes
}
