// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

// All of these are conflicts. The log tells which it was, without an id.
//
// ORCH-3300
func TestTheLogTellsWhyASessionTakesNoTask(t *testing.T) {
	w := open(t)
	refused := func(session string) string {
		t.Helper()
		_, err := w.admit(turn("new", session))
		require.Equal(t, task.Conflict, code(err))
		return task.AsError(err).Narrated
	}
	one, err := w.admit(turn("t1", "s"))
	require.NoError(t, err)
	require.Equal(t, "another turn of its session is on", refused("s"))
	w.end(one)
	for _, id := range []string{"t2", "t3"} {
		next, err := w.admit(turn(id, "s"))
		require.NoError(t, err)
		w.end(next)
	}
	require.Equal(t, "its session has had all of its turns", refused("s"))
	short, err := w.m.Create(t.Context(), task.SessionRequest{TTL: time.Minute, MaxTurns: 9})
	require.NoError(t, err)
	w.now = w.now.Add(time.Minute)
	require.Equal(t, "its session is over", refused(short.ID))
}
