// SPDX-License-Identifier: GPL-3.0-or-later

package gpu

import (
	"slices"
	"sync"
	"time"
)

// troubleKept is how many of the last events are remembered.
const troubleKept = 64

// trouble is what the driver reported last.
type trouble struct {
	mu     sync.Mutex
	events []Event // the newest last
}

func (t *trouble) remember(e Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.events = append(t.events, e)
	if over := len(t.events) - troubleKept; over > 0 {
		t.events = slices.Delete(t.events, 0, over)
	}
}

// Problems says what the driver has reported of the cards since then; empty: nothing (ORCH-3053). It prefers an event with an XID, because
// the others follow from that. Critical means that no worker on the cards can be relied upon any more.
func (t *trouble) Problems(cards []int, since time.Time) (text string, critical bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	numbered := false
	for _, e := range slices.Backward(t.events) {
		if e.Back() || e.At.Before(since) || e.Card >= 0 && !slices.Contains(cards, e.Card) {
			continue
		}
		critical = critical || e.Critical
		if text == "" || e.XID != 0 && !numbered {
			text, numbered = e.Text, e.XID != 0
		}
	}
	return text, critical
}
