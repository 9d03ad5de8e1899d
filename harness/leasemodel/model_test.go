// SPDX-License-Identifier: GPL-3.0-or-later

package leasemodel

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Three daemons, two transactions under way at a time, and a lease of one tick and of two: in no order of their steps does a daemon write or send what another one has taken, and
// each task that was accepted can still come to its end, wherever things stand.
//
// LO-749, LO-702, LO-711, LO-714, LO-718
func TestNoOrderOfStepsHasTwoWriters(t *testing.T) {
	for _, m := range []Model{{Lease: 1, Busy: 2}, {Lease: 2, Busy: 1}} {
		found := m.Explore(2_000_000)
		t.Logf("lease %d, transactions at a time %d: %s", m.Lease, m.Busy, found)
		require.Empty(t, found.Bad, found.String())
		require.Greater(t, found.States, 20_000, "the search is broken")
	}
}

// Each mistake that the protocol avoids is found, so the search can find one.
//
// LO-749.1
func TestEachMistakeIsFound(t *testing.T) {
	for name, c := range map[string]struct {
		fault Fault
		bad   string
	}{
		"a write does not look at its claim":   {NoFence, "a write of a claim that another daemon has ended"},
		"tokens without a look at the lease":   {NoLook, "a token of a daemon whose task another one has"},
		"a lease by a clock that is set back":  {WallClock, "a token of a daemon whose task another one has"},
		"a take-over that waits for no commit": {NoWait, "a write of a claim that another daemon has ended"},
		"a lease from the answer on":           {FromTheAnswer, "a token of a daemon whose task another one has"},
		"a take-over of what was renewed":      {NoSecondLook, "a token of a daemon whose task another one has"},
		"a take-over without the tasks":        {LeaveTheTasks, "a task that nobody can end any more"},
	} {
		t.Run(name, func(t *testing.T) {
			found := Model{Lease: 1, Busy: 2, Faults: c.fault}.Explore(2_000_000)
			t.Log(found)
			require.Equal(t, c.bad, found.Bad)
		})
	}
}
