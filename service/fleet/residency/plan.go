// SPDX-License-Identifier: GPL-3.0-or-later

package residency

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// Share is a part of one card's memory, in bytes.
type Share struct {
	Card  int
	Bytes int64
}

// Card is a card's memory that nobody holds or was promised, in bytes.
type Card struct {
	Index int
	Free  int64
}

// Want is what one replica needs to load: its shares, where its cards are given, else so many bytes on any one card.
type Want struct {
	Shares []Share
	Bytes  int64
}

// State is where an on-demand pool's model is.
type State int

// The residencies. A pool that is Leaving gives its memory back soon.
const (
	Absent State = iota
	Loading
	Loaded
	Leaving
)

// Tenant is an on-demand pool as Decide knows it. Times are zero where there is none.
type Tenant struct {
	ID    string
	State State
	Holds []Share // given back when it is unloaded
	Wants []Want  // of each of its replicas, when it is not loaded
	Busy  int     // tasks that run

	Interactive time.Time // when the oldest queued interactive task came
	Batch       time.Time // and the oldest queued batch task
	Since       time.Time // when it was loaded, or had to go
	IdleSince   time.Time // when its last task ended; loaded pools without tasks only
	IdleTTL     time.Duration
}

// Rules bound how long tasks wait because another model is in memory (LO-503).
type Rules struct {
	MaxWait            time.Duration // of an interactive task
	MaxWaitBehindBatch time.Duration // of an interactive task, for the memory of pools that have batch tasks only
	MaxWaitBatch       time.Duration // of a batch task
	MinTurn            time.Duration // that a pool with tasks stays, once loaded
	Linger             time.Duration // that an idle pool stays before it makes room for batch tasks
}

// Plan is what is to be done now. Held pools dispatch no further task: others wait for their memory, or for them to end.
type Plan struct {
	Load, Unload, Hold []string
}

// Decide decides which on-demand pools load and which make room for them (LO-503). It is a pure function of the
// snapshot: to be asked again whenever that changed, and now and then.
//
// The pool whose tasks are the most urgent comes first: one that waits longer than the rules allow, then interactive before
// batch, then the oldest task. Room is made by idle pools; by pools that have tasks only where the one that waits is over its
// bound and they had their turn. The fewest pools go, and of equally many those that were idle longest.
func Decide(now time.Time, cards []Card, tenants []Tenant, rules Rules) Plan {
	var plan Plan
	free := make(map[int]int64, len(cards))
	for _, c := range cards {
		free[c.Index] = c.Free
	}
	var waiting []*Tenant
	leaving := false
	for i := range tenants {
		t := &tenants[i]
		switch {
		case t.State == Leaving:
			leaving = true
		case t.State == Absent && t.queued():
			waiting = append(waiting, t)
		case t.State == Loaded && t.idle() && t.IdleTTL > 0 && now.Sub(t.IdleSince) >= t.IdleTTL:
			plan.Unload = append(plan.Unload, t.ID)
			leaving = true
		}
	}
	slices.SortFunc(waiting, func(a, b *Tenant) int {
		return cmp.Or(trueFirst(a.overdue(now, rules), b.overdue(now, rules)), trueFirst(!a.Interactive.IsZero(), !b.Interactive.IsZero()),
			a.oldest().Compare(b.oldest()), cmp.Compare(a.ID, b.ID))
	})
	for _, w := range waiting {
		if fits(free, w.Wants) {
			plan.Load = append(plan.Load, w.ID)
			continue
		}
		if leaving { // there will be more room soon
			break
		}
		out := evict(now, free, tenants, w, rules)
		if out == nil {
			if w.overdue(now, rules) && roomWithout(free, tenants, w) {
				break // it must not starve behind smaller ones that always fit
			}
			continue
		}
		for _, t := range out {
			if t.Busy > 0 {
				plan.Hold = append(plan.Hold, t.ID)
			}
		}
		for _, t := range out {
			// One that is done waits for the others, so that it does not leave in vain; but it takes no further task.
			if len(plan.Hold) == 0 {
				plan.Unload = append(plan.Unload, t.ID)
			} else if t.Busy == 0 && !t.idle() {
				plan.Hold = append(plan.Hold, t.ID)
			}
		}
		break // the next one's turn comes when this one is in
	}
	return plan
}

// fits takes what the replicas want out of the free memory, and reports whether all of it was there. If not, free is as it was.
func fits(free map[int]int64, wants []Want) bool {
	var taken []Share
	for _, w := range wants {
		shares := w.Shares
		if len(shares) == 0 {
			card, ok := ChooseCard(free, w.Bytes)
			if !ok {
				giveBack(free, taken)
				return false
			}
			shares = []Share{{Card: card, Bytes: w.Bytes}}
		}
		for _, s := range shares {
			free[s.Card] -= s.Bytes
			taken = append(taken, s)
			if free[s.Card] < 0 {
				giveBack(free, taken)
				return false
			}
		}
	}
	return true
}

func giveBack(free map[int]int64, shares []Share) {
	for _, s := range shares {
		free[s.Card] += s.Bytes
	}
}

// ChooseCard picks the card for a worker that goes on any one: of those that hold it that with the least free memory, then
// the lowest index, so that large cards stay free for large models (LO-501). An index below 0 is no card, but the host.
func ChooseCard(free map[int]int64, bytes int64) (card int, ok bool) {
	for index, room := range free {
		if index >= 0 && room >= bytes && (!ok || room < free[card] || room == free[card] && index < card) {
			card, ok = index, true
		}
	}
	return card, ok
}

// evict finds the pools that make room for w, none where that cannot be now. It looks at the idle ones first; then, where w is
// over its bound, at those that had their turn: first at those with batch tasks alone.
func evict(now time.Time, free map[int]int64, tenants []Tenant, w *Tenant, rules Rules) []*Tenant {
	var idle, all []*Tenant
	for i := range tenants {
		t := &tenants[i]
		switch {
		case t.State != Loaded:
		case t.idle() && w.Interactive.IsZero() && now.Sub(t.IdleSince) < rules.Linger && !w.overdue(now, rules): // its user is likely to be back
		case t.idle():
			idle, all = append(idle, t), append(all, t)
		case now.Sub(t.Since) >= rules.MinTurn:
			all = append(all, t)
		}
	}
	if out := smallest(free, idle, w.Wants); out != nil {
		return out
	}
	if w.late(now, w.Interactive, rules.MaxWaitBehindBatch) || w.overdue(now, rules) {
		batch := slices.DeleteFunc(slices.Clone(all), func(t *Tenant) bool { return !t.Interactive.IsZero() })
		if out := smallest(free, batch, w.Wants); out != nil {
			return out
		}
	}
	if !w.overdue(now, rules) {
		return nil
	}
	return smallest(free, all, w.Wants)
}

// roomWithout reports whether w would fit if every other on-demand pool were gone.
func roomWithout(free map[int]int64, tenants []Tenant, w *Tenant) bool {
	all := maps.Clone(free)
	for i := range tenants {
		giveBack(all, tenants[i].Holds)
	}
	return fits(all, w.Wants)
}

// most bounds the search: of more pools only those used the longest ago are looked at.
const most = 12

// smallest is the smallest set of pools whose memory makes room, of equal ones that which was used the longest ago; nil: none.
func smallest(free map[int]int64, from []*Tenant, wants []Want) []*Tenant {
	slices.SortFunc(from, func(a, b *Tenant) int { // the longest idle first, pools with tasks last, by when their turn began
		return cmp.Or(trueFirst(a.idle(), b.idle()), a.rests().Compare(b.rests()), cmp.Compare(a.ID, b.ID))
	})
	if len(from) > most {
		from = from[:most]
	}
	var best []*Tenant
	for mask := uint(1); mask < 1<<len(from); mask++ {
		var set []*Tenant
		for i, t := range from {
			if mask&(1<<i) != 0 {
				set = append(set, t)
			}
		}
		if best != nil && len(set) >= len(best) {
			continue
		}
		with := maps.Clone(free)
		for _, t := range set {
			giveBack(with, t.Holds)
		}
		if fits(with, wants) {
			best = set
		}
	}
	return best
}

func (t *Tenant) queued() bool { return !t.Interactive.IsZero() || !t.Batch.IsZero() }

func (t *Tenant) idle() bool { return t.Busy == 0 && !t.queued() }

func (t *Tenant) oldest() time.Time {
	if t.Interactive.IsZero() || !t.Batch.IsZero() && t.Batch.Before(t.Interactive) {
		return t.Batch
	}
	return t.Interactive
}

// overdue reports whether a task of a pool that is not loaded waits longer than the rules allow.
func (t *Tenant) overdue(now time.Time, rules Rules) bool {
	return t.late(now, t.Interactive, rules.MaxWait) || t.late(now, t.Batch, rules.MaxWaitBatch)
}

func (t *Tenant) late(now, came time.Time, bound time.Duration) bool {
	if came.IsZero() {
		return false
	}
	if t.Since.After(came) { // it had its turn meanwhile
		came = t.Since
	}
	return now.Sub(came) >= bound
}

// rests is since when a pool may be missed the least. Of one with tasks it must not move while these start and end: else the
// choice would go to and fro between two such pools, each would dispatch while the other is held, and neither would ever go.
func (t *Tenant) rests() time.Time {
	if t.idle() {
		return t.IdleSince
	}
	return t.Since
}

func trueFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}
