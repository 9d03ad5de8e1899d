// SPDX-License-Identifier: GPL-3.0-or-later

package leasemodel

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Found is what a search has come to.
type Found struct {
	States int    // that can be reached, of which those are one that differ in which daemon is which alone
	Depth  int    // the longest of the shortest ways to a state
	Bad    string // what must not be; empty: nothing is wrong
	Way    []string
}

// String is for a test's output.
func (f Found) String() string {
	if f.Bad == "" {
		return fmt.Sprintf("%d states, at most %d steps from the first one", f.States, f.Depth)
	}
	return fmt.Sprintf("%s, after %d states:\n  %s", f.Bad, f.States, strings.Join(f.Way, "\n  "))
}

type visit struct {
	from int32
	at   int16
}

// Explore goes through all states that can be reached, the nearest first. It stops at the first that must not be, with a shortest way to it. At most limit
// states are looked at. Behind that it looks whether each state with a task has a way to one in which the task has ended.
func (m Model) Explore(limit int) Found {
	first := State{}.canonical()
	index := map[State]int32{first: 0}
	all := []State{first}
	visits := []visit{{from: -1}}
	var back [][2]int32 // of each step: to, from
	for i := int32(0); int(i) < len(all); i++ {
		var bad Found
		m.Next(all[i], func(s Step) {
			if bad.Bad != "" {
				return
			}
			if s.Bad != "" {
				bad = Found{States: len(all), Depth: int(visits[i].at) + 1, Bad: s.Bad, Way: m.way(all, visits, i, s)}
				return
			}
			to := s.To.canonical()
			n, known := index[to]
			if !known {
				n = int32(len(all))
				index[to] = n
				all = append(all, to)
				visits = append(visits, visit{i, visits[i].at + 1})
			}
			back = append(back, [2]int32{n, i})
		})
		if bad.Bad != "" {
			return bad
		}
		if len(all) > limit {
			return Found{States: len(all), Bad: "more states than the limit"}
		}
	}
	found := Found{States: len(all), Depth: int(visits[len(visits)-1].at)}
	if i := stuck(all, back); i >= 0 {
		found.Bad, found.Way = "a task that nobody can end any more", m.way(all, visits, int32(i), Step{Daemon: -1, What: "and nothing leads to the task's end"})
	}
	return found
}

// way tells the steps to a state, and a last one. The states that are kept have lost which daemon is which, so it goes the way once more.
func (m Model) way(all []State, visits []visit, to int32, last Step) []string {
	var path []State
	for i := to; visits[i].from >= 0; i = visits[i].from {
		path = append(path, all[i])
	}
	slices.Reverse(path)
	at, told := State{}, []string{}
	for _, next := range path {
		found := false
		m.Next(at, func(s Step) {
			if !found && s.To.canonical() == next {
				found, at = true, s.To
				told = append(told, s.String())
			}
		})
	}
	m.Next(at, func(s Step) {
		if s.Bad == last.Bad && s.What == last.What {
			last = s
		}
	})
	return append(told, last.String())
}

// String is a line of a way.
func (s Step) String() string {
	if s.Daemon < 0 {
		return s.What
	}
	return fmt.Sprintf("%c %s", 'A'+s.Daemon, s.What)
}

// stuck is a state with a task that has no way to the task's end; -1: there is none.
func stuck(all []State, back [][2]int32) int {
	starts := make([]int32, len(all)+1)
	for _, b := range back {
		starts[b[0]+1]++
	}
	for i := range all {
		starts[i+1] += starts[i]
	}
	from, at := make([]int32, len(back)), append([]int32(nil), starts...)
	for _, b := range back {
		from[at[b[0]]] = b[1]
		at[b[0]]++
	}
	ends := make([]bool, len(all))
	var todo []int32
	for i := range all {
		if all[i].task == ended {
			ends[i] = true
			todo = append(todo, int32(i))
		}
	}
	for len(todo) > 0 {
		i := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, f := range from[starts[i]:starts[i+1]] {
			if !ends[f] {
				ends[f] = true
				todo = append(todo, f)
			}
		}
	}
	for i := range all {
		if all[i].task == live && !ends[i] {
			return i
		}
	}
	return -1
}

// canonical is one of the states that are the same: it does not matter which daemon is which, nor which number a claim has.
func (s State) canonical() State {
	s.forget()
	var best State
	first := true
	for _, p := range orders {
		t := s.renamed(p)
		if t.daemons[0].rough() > t.daemons[1].rough() || t.daemons[1].rough() > t.daemons[2].rough() {
			continue // another order is before it, whatever the numbers of the claims
		}
		if t = t.sorted(); first || less(&t, &best) {
			best, first = t, false
		}
	}
	return best
}

// forget leaves out what nothing depends on any more.
func (s *State) forget() {
	for i := range s.daemons {
		d := &s.daemons[i]
		if !d.holds {
			d.left = 0
		}
		if d.fence != noFence && s.row(d.fence) == nil {
			d.fence = gone
		}
		if d.op.fence != noFence && s.row(d.op.fence) == nil {
			d.op.fence = gone
		}
	}
	if s.row(s.pool) == nil {
		s.pool = noFence
	}
	if s.row(s.of) == nil {
		s.of = noFence
	}
	for n := range s.rows { // a claim that holds nothing, and that nobody knows of
		if f := s.rows[n].fence; f != noFence && s.references(n) == 0 {
			s.rows[n] = row{}
		}
	}
}

// references are what a row stands for, as bits.
func (s *State) references(n int) (bits uint32) {
	f := s.rows[n].fence
	flag := func(is bool) { bits = bits<<1 | uint32(bit(is)) }
	flag(s.pool == f)
	flag(s.of == f)
	for i := range s.daemons {
		flag(s.daemons[i].fence == f)
		flag(s.daemons[i].op.fence == f)
		flag(s.daemons[i].op.picks&(1<<n) != 0)
	}
	return bits
}

// orders are all in which the daemons can be.
var orders = [][Daemons]uint8{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}}

// renamed has daemon i as daemon p[i].
func (s State) renamed(p [Daemons]uint8) State {
	t := s
	for i := range s.daemons {
		t.daemons[p[i]] = s.daemons[i]
	}
	for i := range t.rows {
		if t.rows[i].fence != noFence {
			t.rows[i].owner = p[s.rows[i].owner]
		}
	}
	return t
}

// sorted has the claims in an order that what they are and who knows them gives, with numbers from 1 on.
func (s State) sorted() State {
	var keys [claims]uint64
	var order [claims]int
	for n := range s.rows {
		order[n] = n
		if r := s.rows[n]; r.fence != noFence {
			keys[n] = 1<<63 | uint64(r.owner)<<40 | uint64(r.left)<<32 | uint64(s.references(n))
		}
	}
	slices.SortFunc(order[:], func(a, b int) int { return cmp.Compare(keys[b], keys[a]) })
	t := s
	number := [gone + 1]fence{gone: gone}
	for to, from := range order {
		t.rows[to] = s.rows[from]
		if f := s.rows[from].fence; f != noFence {
			number[f] = fence(to + 1)
			t.rows[to].fence = fence(to + 1)
		}
	}
	t.pool, t.of = number[s.pool], number[s.of]
	for i := range t.daemons {
		d := &t.daemons[i]
		d.fence, d.op.fence, d.op.picks = number[d.fence], number[d.op.fence], 0
		for to, from := range order {
			if s.daemons[i].op.picks&(1<<from) != 0 && s.rows[from].fence != noFence {
				d.op.picks |= 1 << to
			}
		}
	}
	return t
}

func bit(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}

// rough is what a daemon is, without which claims it knows.
func (d *daemon) rough() uint64 {
	key := uint64(d.status)
	for _, v := range [...]uint8{d.left, bit(d.late)<<2 | bit(d.holds)<<1 | bit(d.runs), uint8(d.op.kind), uint8(d.op.phase), d.op.left, bit(d.op.kept)<<1 | bit(d.op.runs)} {
		key = key<<5 | uint64(v)
	}
	return key
}

// key is all of it.
func (d *daemon) key() uint64 {
	return d.rough()<<15 | uint64(d.fence)<<10 | uint64(d.op.fence)<<5 | uint64(d.op.picks)
}

func less(a, b *State) bool {
	for i := range a.daemons {
		if x, y := a.daemons[i].key(), b.daemons[i].key(); x != y {
			return x < y
		}
	}
	for i := range a.rows {
		if x, y := a.rows[i].owner, b.rows[i].owner; x != y {
			return x < y
		}
		if x, y := a.rows[i].left, b.rows[i].left; x != y {
			return x < y
		}
	}
	return a.pool < b.pool || a.pool == b.pool && a.of < b.of
}
