// SPDX-License-Identifier: GPL-3.0-or-later

package vram

import (
	"cmp"
	"slices"
	"strconv"

	"github.com/llama-orch/llama-orch/service/fleet/gpu"
	"github.com/llama-orch/llama-orch/service/task"
)

// View shows the whole ledger.
type View struct {
	Err   string // why nothing can be reserved now; empty: it can
	Cards []CardView
}

// CardView is the account of one card, in bytes. Free is what can be promised: DriverFree less Promised and Leaving, but not below 0. It
// is 0 while the card is unhealthy, or nothing can be reserved at all.
type CardView struct {
	Index      int
	Name       string
	Total      int64
	DriverFree int64
	Promised   int64 // to starting workers, less what the driver shows of it
	Leaving    int64 // held by workers that have ended, less what the driver shows of it
	Free       int64
	Foreign    int64 // used by others, and by the driver itself
	Healthy    bool
	Problem    string
	Holders    []Holder // by owner; of one owner, the worker that runs before those that leave
}

// Holder is one worker's part of a card, in bytes.
type Holder struct {
	Owner string
	Phase Phase
	Due   int64 // what was promised, or held at the end
	Shown int64 // what the driver shows
	Kept  int64 // what counts beside that
}

func (c CardView) name() string {
	index := "card " + strconv.Itoa(c.Index)
	if c.Name == "" {
		return index
	}
	return index + " (" + gpu.Card{Name: c.Name}.Short() + ")"
}

// View shows who holds what.
func (l *Ledger) View() View {
	l.mu.Lock()
	defer l.mu.Unlock()
	v := View{}
	if err := l.usable(); err != nil {
		v.Err = task.AsError(err).Message
	}
	for i := range l.seen.Cards {
		c := l.card(i)
		if v.Err != "" {
			c.Free = 0
		}
		for _, h := range l.active {
			c.hold(h)
		}
		for _, h := range l.leaving {
			c.hold(h)
		}
		slices.SortStableFunc(c.Holders, func(a, b Holder) int {
			return cmp.Or(cmp.Compare(a.Owner, b.Owner), cmp.Compare(rank(a.Phase), rank(b.Phase)))
		})
		v.Cards = append(v.Cards, c)
	}
	return v
}

func rank(p Phase) int {
	if p == Leaving {
		return 1
	}
	return 0
}

func (c *CardView) hold(h *holding) {
	held := Holder{Owner: h.owner, Phase: h.phase, Due: h.due[c.Index], Shown: h.shown[c.Index], Kept: h.kept(c.Index)}
	if held.Due > 0 || held.Shown > 0 {
		c.Holders = append(c.Holders, held)
	}
}
