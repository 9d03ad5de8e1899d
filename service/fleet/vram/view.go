// SPDX-License-Identifier: GPL-3.0-or-later

package vram

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	"github.com/llama-orch/llama-orch/service/fleet/gpu"
	"github.com/llama-orch/llama-orch/service/task"
)

// View is the ledger as it stands.
type View struct {
	At    time.Time // of the sample it rests on
	Err   string    // why nothing can be reserved now; empty: it can
	Cards []CardView
}

// CardView is the account of one card, in bytes. Free is what can be promised: DriverFree less Promised and Leaving, never below
// 0, and 0 while the card is unhealthy or nothing can be reserved.
type CardView struct {
	Index      int
	UUID       string
	Name       string
	Total      int64
	DriverFree int64
	Promised   int64 // to workers that start, as far as the driver does not show it
	Leaving    int64 // held by workers that ended, as far as the driver does not show it
	Free       int64
	Foreign    int64 // what others use, with what the driver keeps for itself
	Healthy    bool
	Problem    string
	Holders    []Holder // by owner; the one that runs before the ones that leave
}

// Holder is one worker's part of a card, in bytes.
type Holder struct {
	Owner string
	Phase Phase
	Due   int64 // promised, or held when it ended
	Shown int64 // by the driver
	Kept  int64 // counted beside what the driver shows
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
	v.At = l.seen.At
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
