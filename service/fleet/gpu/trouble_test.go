// SPDX-License-Identifier: GPL-3.0-or-later

package gpu

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func (t *trouble) problem(since time.Time, cards ...int) string {
	text, _ := t.Problems(cards, since)
	return text
}

// ORCH-3053: what happened is remembered before anybody is told of it, and what another program did alone is not critical.
func TestTroubleIsThereWhenItIsTold(t *testing.T) {
	l, told := newLab(t), 0
	l.o.OnEvent = func(e Event) {
		told++
		text, critical := l.Problems([]int{e.Card}, epoch)
		require.Equal(t, e.Text, text)
		require.Equal(t, e.Critical, critical)
	}
	l.start()
	l.state.XID(1, 13)
	l.refresh()
	require.Equal(t, 1, told)
	l.state.XID(0, 79)
	l.refresh()
	require.GreaterOrEqual(t, told, 2)
}

// ORCH-3053: trouble is that of the worker's own cards, and of its own time.
func TestProblemsOfCards(t *testing.T) {
	m, born := &trouble{}, epoch
	m.remember(Event{At: born.Add(-time.Second), Kind: XID, Card: 0, Text: "before it was born"})
	require.Empty(t, m.problem(born, 0))
	m.remember(Event{At: born.Add(time.Second), Kind: XID, Card: 1, Text: "fell off the bus"})
	m.remember(Event{At: born.Add(2 * time.Second), Kind: CardBack, Card: 1, Text: "is back"})
	require.Empty(t, m.problem(born, 0))
	require.Equal(t, "fell off the bus", m.problem(born, 0, 1))
	m.remember(Event{At: born.Add(3 * time.Second), Kind: DriverLost, Card: -1, Text: "the driver is gone"})
	require.Equal(t, "the driver is gone", m.problem(born, 0))
	for range 2 * troubleKept {
		m.remember(Event{At: born, Kind: XID, Card: 5, Text: "more"})
	}
	require.Len(t, m.events, troubleKept)
}

// ORCH-3053: the number that the driver gave says more than that the card is gone.
func TestTheDriversNumberComesFirst(t *testing.T) {
	m, born := &trouble{}, epoch
	m.remember(Event{At: born, Kind: XID, XID: 79, Card: 0, Critical: true, Text: "XID 79"})
	m.remember(Event{At: born, Kind: CardLost, Card: 0, Critical: true, Text: "does not answer"})
	require.Equal(t, "XID 79", m.problem(born, 0))
}
