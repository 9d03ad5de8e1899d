// SPDX-License-Identifier: GPL-3.0-or-later

package energy

import (
	"slices"
	"time"
)

// card is what is known of one card's counter. Times are the readings'.
type card struct {
	uuid   string
	at     time.Time
	joules float64
	counts bool   // it has a counter, and the last reading is good
	uses   []*Use // that are not over, or that ended since the last reading
	idle   float64
}

// take splits what the card took since the reading before. PerJoule is what a joule costs.
func (c *card) take(r Reading, perJoule float64) {
	switch {
	case r.Joules <= 0: // it has none
		c.lose()
		return
	case !c.counts || r.UUID != c.uuid || r.Joules < c.joules: // whatever came between the two, nobody knows what was taken
		c.lose()
	case !r.At.After(c.at):
		return // the next reading has it
	default:
		c.split(r.At, r.Joules-c.joules, perJoule)
	}
	c.uuid, c.at, c.joules, c.counts = r.UUID, r.At, r.Joules, true
	c.uses = slices.DeleteFunc(c.uses, func(u *Use) bool {
		over := !u.to.IsZero() && !u.to.After(r.At)
		if over {
			u.open--
		}
		return over
	})
}

// lose says that it is not known what the uses take. Those that are not over stay, and take their part of what others are told.
func (c *card) lose() {
	for _, u := range c.uses {
		u.unknown = true
	}
	c.uses = slices.DeleteFunc(c.uses, func(u *Use) bool { return !u.to.IsZero() })
	c.counts = false
}

// edge is where a use begins or ends.
type edge struct {
	at     time.Time
	use    int
	begins bool
}

// split shares out what was taken until now. It flowed evenly, and those who were busy at an instant have equal parts of it.
func (c *card) split(now time.Time, joules, perJoule float64) {
	var edges []edge
	for i, u := range c.uses {
		from, to := u.from, u.to
		if from.Before(c.at) {
			from = c.at
		}
		if to.IsZero() || to.After(now) {
			to = now
		}
		if from.Before(to) {
			edges = append(edges, edge{from, i, true}, edge{to, i, false})
		}
	}
	slices.SortStableFunc(edges, func(a, b edge) int { return a.at.Compare(b.at) })
	var busy, each float64 // how many slots are busy, and what one that always was has had
	last, whole := c.at, float64(now.Sub(c.at))
	until := func(at time.Time) {
		part := joules * float64(at.Sub(last)) / whole
		if busy > 0 {
			each += part / busy
		} else {
			c.idle += part
		}
		last = at
	}
	had := make([]float64, len(c.uses))
	for _, e := range edges {
		until(e.at)
		if e.begins {
			busy++
			had[e.use] = each
			continue
		}
		busy--
		share := each - had[e.use]
		c.uses[e.use].energy.Joules += share
		c.uses[e.use].energy.Cost += share * perJoule
	}
	until(now)
}
