// SPDX-License-Identifier: GPL-3.0-or-later

package vram

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/llama-orch/llama-orch/service/fleet/gpu"
	"github.com/llama-orch/llama-orch/service/task"
)

// world is the truth that a ledger sees through samples only, and late: cards, what others hold of them, and workers that
// take up to what was promised to them, settle, crash, and are torn down piece by piece.
type world struct {
	*Ledger
	now     time.Time
	inv     gpu.Inventory  // the last sample
	pending *gpu.Inventory // a sample that was begun, and is not there yet
	total   []int64
	foreign []int64
	workers []*worker
	lost    bool // the driver
	pid     int
}

type worker struct {
	owner string
	want  map[int]int64
	has   map[int]int64
	pid   int // 0: not started. Its memory belongs to its child, pid+1, if child
	child bool
	phase Phase // Leaving: it is dead, and its memory not yet given back
}

func newWorld(t *rapid.T) *world {
	w := &world{now: epoch, pid: 10}
	for i := range rapid.IntRange(1, 3).Draw(t, "cards") {
		w.total = append(w.total, rapid.Int64Range(50, 200).Draw(t, fmt.Sprint("total ", i)))
		w.foreign = append(w.foreign, rapid.Int64Range(0, 20).Draw(t, fmt.Sprint("foreign ", i)))
	}
	w.Ledger = NewLedger(LedgerOptions{
		Snapshot: func() gpu.Inventory { return w.inv },
		Now:      func() time.Time { w.now = w.now.Add(time.Microsecond); return w.now },
		Group: func(pid int) (int, bool) {
			at := slices.IndexFunc(w.workers, func(x *worker) bool { return x.pid+1 == pid && x.phase != Leaving })
			if at < 0 {
				return 0, false
			}
			return w.workers[at].pid, true
		},
	})
	w.sample()
	return w
}

// sample takes a whole one.
func (w *world) sample() {
	w.inv, w.pending = w.read(), nil
}

// read is what the driver tells: who has memory, and what is left.
func (w *world) read() gpu.Inventory {
	w.now = w.now.Add(time.Microsecond)
	defer func() { w.now = w.now.Add(time.Microsecond) }()
	inv := gpu.Inventory{Seq: w.inv.Seq + 1, At: w.now}
	if w.lost {
		inv.Err = "lost"
		return inv
	}
	for i := range w.total {
		c := gpu.Card{Index: i, Total: w.total[i], Used: w.foreign[i], Healthy: true, Processes: []gpu.Process{{PID: 1, Bytes: w.foreign[i]}}}
		for _, x := range w.workers {
			if bytes, ok := x.has[i]; ok && x.pid > 0 {
				c.Used += bytes
				if x.child {
					c.Processes = append(c.Processes, gpu.Process{PID: x.pid}, gpu.Process{PID: x.pid + 1, Bytes: bytes})
				} else {
					c.Processes = append(c.Processes, gpu.Process{PID: x.pid, Bytes: bytes})
				}
			}
		}
		c.Free = c.Total - c.Used
		inv.Cards = append(inv.Cards, c)
	}
	return inv
}

// room is what nobody has, and nobody may still take, of a card. It is the truth, which the ledger does not know.
func (w *world) room(card int) int64 {
	room := w.total[card] - w.foreign[card]
	for _, x := range w.workers {
		if x.phase == Starting {
			room -= x.want[card]
		} else {
			room -= x.has[card]
		}
	}
	return room
}

func (w *world) pick(t *rapid.T, phases ...Phase) *worker {
	var fit []*worker
	for _, x := range w.workers {
		if slices.Contains(phases, x.phase) {
			fit = append(fit, x)
		}
	}
	if len(fit) == 0 {
		return nil
	}
	return fit[rapid.IntRange(0, len(fit)-1).Draw(t, "worker")]
}

// reserve asks for memory, and holds the answer against what the ledger says is free.
func (w *world) reserve(t *rapid.T) {
	owner := fmt.Sprint("r", rapid.IntRange(0, 4).Draw(t, "owner"))
	taken := slices.ContainsFunc(w.workers, func(x *worker) bool { return x.owner == owner && x.phase != Leaving })
	want, free := map[int]int64{}, make([]int64, len(w.total))
	for i := range free {
		free[i] = w.Free(i)
	}
	var err error
	if rapid.Bool().Draw(t, "auto") {
		bytes := rapid.Int64Range(1, 120).Draw(t, "bytes")
		var card int
		card, err = w.reserveAuto(owner, bytes)
		best := -1
		for i, f := range free {
			if f >= bytes && (best < 0 || f < free[best]) {
				best = i
			}
		}
		if err == nil {
			require.Equal(t, best, card, "SmallestThatHolds")
			want[card] = bytes
		} else {
			require.True(t, taken || w.lost || w.stale() || best < 0, "NoNeedlessRefusal: %v", err)
			require.Equal(t, -1, card)
		}
		require.Equal(t, NeverFits(err), !taken && w.inv.Err == "" && !w.stale() && bytes > slices.Max(w.total), "NeverMeansNever")
	} else {
		var shares []Share
		fits := true
		for i := range rapid.IntRange(1, len(w.total)).Draw(t, "shares") {
			bytes := rapid.Int64Range(1, 120).Draw(t, "bytes")
			shares = append(shares, Share{i, bytes})
			want[i] = bytes
			fits = fits && bytes <= free[i]
		}
		err = w.Ledger.reserve(owner, shares)
		require.Equal(t, err == nil, fits && !taken, "NoNeedlessRefusal: %v", err)
	}
	if err != nil {
		var refusal *task.Error
		require.ErrorAs(t, err, &refusal, "TypedRefusals")
		return
	}
	w.workers = append(w.workers, &worker{owner: owner, want: want, has: map[int]int64{}, phase: Starting, child: rapid.Bool().Draw(t, "child")})
}

func (w *world) stale() bool { return w.now.Sub(w.inv.At) > 30*time.Second }

// step does one thing that may happen.
func (w *world) step(t *rapid.T) {
	w.now = w.now.Add(time.Microsecond)
	switch op := rapid.SampledFrom([]string{
		"reserve", "reserve", "spawn", "grow", "grow", "settle", "end", "tear down", "sample", "begin", "publish", "others", "driver", "time",
	}).Draw(t, "op"); op {
	case "reserve":
		w.reserve(t)
	case "spawn":
		if x := w.pick(t, Starting); x != nil && x.pid == 0 {
			w.pid += 2
			x.pid = w.pid
			w.Spawned(x.owner, x.pid)
		}
	case "grow":
		if x := w.pick(t, Starting); x != nil && x.pid > 0 {
			x.grow(t)
		}
	case "settle":
		if x := w.pick(t, Starting); x != nil && x.pid > 0 {
			x.grow(t) // with the last it takes
			x.phase = Running
			w.Settle(x.owner)
		}
	case "end": // stopped, crashed, or never started
		if x := w.pick(t, Starting, Running); x != nil {
			x.phase = Leaving
			w.Release(x.owner)
			if x.pid == 0 {
				w.bury(x)
			}
		}
	case "tear down":
		if x := w.pick(t, Leaving); x != nil {
			if rapid.Bool().Draw(t, "all") {
				w.bury(x)
				return
			}
			for card := range w.total { // in order, so that a failure can be shrunk
				if has := x.has[card]; has > 0 {
					x.has[card] = rapid.Int64Range(0, has).Draw(t, "left")
				}
			}
		}
	case "sample":
		w.sample()
	case "begin":
		inv := w.read()
		w.pending = &inv
	case "publish":
		if w.pending != nil {
			w.inv, w.pending = *w.pending, nil
		}
	case "others": // take what is really free, and are seen at once; what they give back is seen later
		card := rapid.IntRange(0, len(w.total)-1).Draw(t, "card")
		grown := rapid.Int64Range(-w.foreign[card], max(0, w.room(card))).Draw(t, "grown")
		w.foreign[card] += grown
		if grown > 0 {
			w.sample()
		}
	case "driver":
		w.lost = rapid.Bool().Draw(t, "lost")
		w.sample()
	case "time":
		w.now = w.now.Add(time.Duration(rapid.IntRange(0, 40).Draw(t, "seconds")) * time.Second)
	}
}

func (x *worker) grow(t *rapid.T) {
	for card := range 3 {
		if most := x.want[card]; most > 0 {
			x.has[card] = rapid.Int64Range(x.has[card], most).Draw(t, "has")
		}
	}
}

func (w *world) bury(x *worker) {
	w.workers = slices.DeleteFunc(w.workers, func(y *worker) bool { return x == y })
}

// Whatever workers, other programs and the driver do, and however late the samples come:
//   - NeverPromisedTwice: what was promised and what is held never exceed a card
//   - NeverNegative, and the account of each card adds up
//   - SmallestThatHolds, NeverMeansNever, TypedRefusals: answers are what the rule says of what was free
//   - NoNeedlessRefusal: what the ledger says is free can be had
//   - NothingIsLost: when all have ended and the driver shows it, everything is free again and nothing is remembered
//
// LO-501
func TestLedgerOverHistories(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			w.step(t)
			for card := range w.total {
				require.GreaterOrEqual(t, w.room(card), int64(0), "NeverPromisedTwice: card %d", card)
			}
			addsUp(t, w.Ledger)
		}
		for len(w.workers) > 0 {
			x := w.workers[0]
			if x.phase != Leaving {
				w.Release(x.owner)
			}
			w.bury(x)
		}
		w.lost = false
		w.sample()
		for card := range w.total {
			require.Equal(t, w.total[card]-w.foreign[card], w.Free(card), "NothingIsLost")
			require.Equal(t, w.foreign[card], w.View().Cards[card].Foreign, "NothingIsLost")
		}
		require.Empty(t, w.active)
		require.Empty(t, w.leaving)
		require.Empty(t, w.pids)
		require.Empty(t, w.leaders)
	})
}

func addsUp(t *rapid.T, l *Ledger) {
	v := l.View()
	for _, c := range v.Cards {
		require.GreaterOrEqual(t, c.Free, int64(0), "NeverNegative")
		require.GreaterOrEqual(t, c.Promised, int64(0), "NeverNegative")
		require.GreaterOrEqual(t, c.Leaving, int64(0), "NeverNegative")
		require.GreaterOrEqual(t, c.Foreign, int64(0), "NeverNegative")
		require.LessOrEqual(t, c.Free, c.Total)
		if v.Err == "" && c.Healthy {
			require.Equal(t, max(0, c.DriverFree-c.Promised-c.Leaving), c.Free, "AddsUp")
		} else {
			require.Zero(t, c.Free, "AddsUp")
		}
		var promised, leaving int64
		for _, h := range c.Holders {
			if h.Phase == Leaving {
				leaving += h.Kept
			} else {
				promised += h.Kept
			}
		}
		require.Equal(t, []int64{promised, leaving}, []int64{c.Promised, c.Leaving}, "AddsUp")
		require.Equal(t, c.Free, l.Free(c.Index), "AddsUp")
	}
}

// A driver that tells nonsense, and workers that take more than was promised, make no figure negative.
// LO-501
func TestLedgerOverNonsense(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now, inv := epoch, gpu.Inventory{}
		l := NewLedger(LedgerOptions{
			Snapshot: func() gpu.Inventory { return inv }, Now: func() time.Time { return now },
			Group: func(pid int) (int, bool) { return pid / 2, pid%2 == 0 },
		})
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 2e10).Draw(t, "time")))
			owner := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "owner")
			switch rapid.IntRange(0, 5).Draw(t, "op") {
			case 0:
				_ = l.reserve(owner, []Share{{rapid.IntRange(0, 3).Draw(t, "card"), rapid.Int64Range(-5, 120).Draw(t, "bytes")}})
			case 1:
				_, _ = l.reserveAuto(owner, rapid.Int64Range(-5, 120).Draw(t, "bytes"))
			case 2:
				l.Spawned(owner, rapid.IntRange(-1, 9).Draw(t, "pid"))
			case 3:
				l.Settle(owner)
			case 4:
				l.Release(owner)
			case 5:
				inv = gpu.Inventory{Seq: inv.Seq + 1, At: now}
				for i := range rapid.IntRange(0, 3).Draw(t, "cards") {
					total := rapid.Int64Range(0, 100).Draw(t, "total")
					c := gpu.Card{Index: i, Total: total, Free: rapid.Int64Range(0, total).Draw(t, "free"), Used: rapid.Int64Range(0, 100).Draw(t, "used"), Healthy: rapid.Bool().Draw(t, "healthy")}
					for range rapid.IntRange(0, 4).Draw(t, "processes") {
						c.Processes = append(c.Processes, gpu.Process{PID: rapid.IntRange(0, 20).Draw(t, "pid"), Bytes: rapid.Int64Range(0, 200).Draw(t, "bytes")})
					}
					inv.Cards = append(inv.Cards, c)
				}
			}
			addsUp(t, l)
		}
	})
}
