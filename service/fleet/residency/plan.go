// SPDX-License-Identifier: GPL-3.0-or-later

package residency

import (
	"cmp"
	"slices"
	"time"

	"github.com/llama-orch/llama-orch/service/fleet/vram"
)

// Want is what one replica needs to load: shares of the cards that it has to go on, or so many bytes on any one card.
type Want struct {
	Shares []vram.Share
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
	Holds []vram.Share // given back when it is unloaded
	Wants []Want       // of each of its replicas, when it is not loaded; one that waits for something else than memory wants none
	Busy  int          // tasks that run

	Interactive time.Time     // when the oldest queued interactive task came
	Batch       time.Time     // and the oldest queued batch task
	Since       time.Time     // when it was loaded, or had to go
	IdleSince   time.Time     // when its last task ended, for a loaded pool without tasks
	IdleTTL     time.Duration // a loaded pool without tasks is unloaded after so long; 0: only to make room
}

// Rules bound how long tasks wait because another model is in memory (LO-503).
type Rules struct {
	MaxWait            time.Duration // of an interactive task
	MaxWaitBehindBatch time.Duration // of an interactive task, for the memory of pools that have batch tasks only
	MaxWaitBatch       time.Duration // of a batch task
	MinTurn            time.Duration // that a pool with tasks stays, once loaded
	Linger             time.Duration // that an idle pool stays before it makes room for batch tasks
}

// Plan is what is to be done now. The pools in Hold start no further task, because another pool is to have their memory. In those of them that are in
// MakeWay too, lines of batches do not run to their end, because an interactive task waits (LO-444).
type Plan struct {
	Load, Unload, Hold, MakeWay []string
}

// Decide says which on-demand pools load, and which make room for them (LO-503). It is a pure function of the snapshot, to be
// asked again whenever that changes, and now and then.
//
// First come the pools whose tasks wait longer than the rules allow, then those with interactive tasks, then those whose oldest
// task is the older. Idle pools make room for them. A pool with tasks makes room only for one that waits too long, and only once
// it had its turn. As few pools go as possible, and of equally many those that were idle for longest.
func Decide(now time.Time, cards []vram.Room, tenants []Tenant, rules Rules) Plan {
	var plan Plan
	free := rooms(slices.Clone(cards))
	tenants = free.promised(tenants)
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
		if free.fit(w.Wants) {
			plan.Load = append(plan.Load, w.ID)
			continue
		}
		if leaving { // there will be more room soon
			break
		}
		out := evict(now, free, tenants, w, rules)
		if out == nil {
			if w.overdue(now, rules) && roomWithout(free, tenants, w) {
				break // otherwise smaller pools, which always fit, would go first for ever
			}
			continue
		}
		for _, t := range out {
			if t.Busy == 0 {
				continue
			}
			plan.Hold = append(plan.Hold, t.ID)
			if !w.Interactive.IsZero() {
				plan.MakeWay = append(plan.MakeWay, t.ID)
			}
		}
		for _, t := range out {
			// A pool that is done stays until the others are, so that it does not leave in vain. It starts no further task.
			if len(plan.Hold) == 0 {
				plan.Unload = append(plan.Unload, t.ID)
			} else if t.Busy == 0 && !t.idle() {
				plan.Hold = append(plan.Hold, t.ID)
			}
		}
		break // the next pool has to wait until this one is loaded
	}
	return plan
}

// rooms are the cards' memory that nobody holds or was promised.
type rooms []vram.Room

// promised takes what the pools want that are on their way and hold nothing yet, since a pool behind them must not get it first. It returns the tenants as if
// they held it.
func (r rooms) promised(tenants []Tenant) []Tenant {
	held := slices.Clone(tenants)
	for i := range held {
		if t := &held[i]; t.State == Loading && len(t.Holds) == 0 {
			t.Holds, _ = r.take(t.Wants)
		}
	}
	return held
}

// fit takes what the replicas want out of the rooms, and reports whether there was enough. If not, the rooms stay as they were.
func (r rooms) fit(wants []Want) bool {
	_, ok := r.take(wants)
	return ok
}

func (r rooms) take(wants []Want) (taken []vram.Share, enough bool) {
	for _, w := range wants {
		shares := w.Shares
		if len(shares) == 0 {
			at := vram.Smallest(r, w.Bytes)
			if at < 0 {
				r.add(taken, 1)
				return nil, false
			}
			shares = []vram.Share{{Card: r[at].Card, Bytes: w.Bytes}}
		}
		taken = append(taken, shares...)
		if !r.add(shares, -1) {
			r.add(taken, 1)
			return nil, false
		}
	}
	return taken, true
}

// add gives shares back, by a sign of 1, or takes them, by -1. It reports whether no card has less than nothing now.
func (r rooms) add(shares []vram.Share, sign int64) (enough bool) {
	enough = true
	for _, s := range shares {
		at := slices.IndexFunc(r, func(room vram.Room) bool { return room.Card == s.Card })
		if at < 0 {
			enough = false
			continue
		}
		r[at].Free += sign * s.Bytes
		enough = enough && r[at].Free >= 0
	}
	return enough
}

// evict finds the pools that make room for w; none where there is no way now. It looks at the idle ones first. Where w waits too
// long, it looks at those that had their turn too, and first at those of them that have batch tasks only.
func evict(now time.Time, free rooms, tenants []Tenant, w *Tenant, rules Rules) []*Tenant {
	var idle, all []*Tenant
	for i := range tenants {
		t := &tenants[i]
		switch {
		case t.State != Loaded:
		case t.idle() && w.Interactive.IsZero() && now.Sub(t.IdleSince) < rules.Linger && !w.overdue(now, rules): // whoever used it is likely to come back
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
func roomWithout(free rooms, tenants []Tenant, w *Tenant) bool {
	all := slices.Clone(free)
	for i := range tenants {
		all.add(tenants[i].Holds, 1)
	}
	return all.fit(w.Wants)
}

// Possible reports whether each replica that a pool wants would fit, by itself, if all on-demand pools were gone.
func Possible(cards []vram.Room, tenants []Tenant, wants []Want) bool {
	all := rooms(slices.Clone(cards))
	for i := range tenants {
		all.add(tenants[i].Holds, 1)
	}
	return !slices.ContainsFunc(wants, func(w Want) bool { return !slices.Clone(all).fit([]Want{w}) })
}

// most bounds the search: of more pools, those that were used last are not looked at.
const most = 12

// smallest is the smallest set of pools whose memory makes room. Of equally small sets it is the one that was used the longest ago. It
// is nil if no set makes room.
func smallest(free rooms, from []*Tenant, wants []Want) []*Tenant {
	slices.SortFunc(from, func(a, b *Tenant) int { // idle pools first, the longest idle before all; then those with tasks, by when their turn began
		return cmp.Or(trueFirst(a.idle(), b.idle()), a.quietSince().Compare(b.quietSince()), cmp.Compare(a.ID, b.ID))
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
		with := slices.Clone(free)
		for _, t := range set {
			with.add(t.Holds, 1)
		}
		if with.fit(wants) {
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
	if t.Since.After(came) { // the pool had a turn since then
		came = t.Since
	}
	return now.Sub(came) >= bound
}

// quietSince is the time by which the pools that may go are sorted: the one with the earliest goes first. For a pool with tasks it must
// not change when one of them starts or ends. Otherwise the choice would go to and fro between two such pools: each would start tasks
// while the other is held, and neither would ever be free to go.
func (t *Tenant) quietSince() time.Time {
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
