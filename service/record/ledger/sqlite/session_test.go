// SPDX-License-Identifier: GPL-3.0-or-later

package sqlite

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

func session(id string) task.Session {
	return task.Session{
		ID: id, CreatedAt: epoch, TTL: time.Minute, MaxTurns: 8, Budget: task.Amount{Tokens: 100, Time: time.Second, Cost: 5},
	}
}

func sessions(t *testing.T, l *SQLite) []task.Session {
	t.Helper()
	found, err := l.Sessions(t.Context())
	require.NoError(t, err)
	return found
}

// A session is recorded with its turns, charged once for each, and comes back after a restart.
// ORCH-3021, ORCH-3099
func TestSessionsAndTheirChargesAreKept(t *testing.T) {
	l := open(t, Options{})
	s := session("s")
	require.NoError(t, l.KeepSession(t.Context(), s))
	require.Equal(t, []task.Session{s}, sessions(t, l))

	turn := sample(1)
	s.Turns = 1
	turn.Session = &s
	require.NoError(t, l.Accept(t.Context(), turn))
	require.NoError(t, l.Accept(t.Context(), turn)) // repeated, as after a retry
	require.Equal(t, []task.Session{s}, sessions(t, l))

	window := epoch.Truncate(24 * time.Hour)
	r := ended(turn, task.Completed, "a", "b")
	r.ReplicaID = "default-1"
	r.Charge = &task.Charge{SessionID: "s", Account: "localhost", Window: window, Amount: task.Amount{Tokens: 7, Time: 30 * time.Millisecond, Cost: 3}}
	for range 3 { // an outcome may be recorded again, and is not charged again
		require.NoError(t, l.Finish(t.Context(), r))
	}
	l = reopen(t, l)
	s.Spent, s.PoolID, s.ReplicaID = r.Charge.Amount, turn.PoolID, "default-1"
	require.Equal(t, []task.Session{s}, sessions(t, l))
	spent, err := l.Spent(t.Context(), window)
	require.NoError(t, err)
	require.Equal(t, map[string]task.Amount{"localhost": r.Charge.Amount}, spent)

	next := ended(sample(2), task.Completed, "c")
	next.Charge = &task.Charge{Account: "localhost", Window: window.Add(24 * time.Hour), Amount: task.Amount{Tokens: 1}}
	require.NoError(t, l.Finish(t.Context(), next))
	spent, err = l.Spent(t.Context(), window)
	require.NoError(t, err)
	require.Empty(t, spent, "what was charged to a budget that was renewed since is forgotten")

	renewed := session("s")
	renewed.CreatedAt = epoch.Add(time.Hour)
	require.NoError(t, l.KeepSession(t.Context(), renewed), "the id is another session's since")
	require.NoError(t, l.DropSessions(t.Context(), []task.Session{s, session("unknown")}))
	require.Equal(t, []task.Session{renewed}, sessions(t, l))
	require.NoError(t, l.DropSessions(t.Context(), []task.Session{renewed}))
	require.Empty(t, sessions(t, l))
}

// A ledger from before sessions gets their tables.
// ORCH-3021, LO-202
func TestLedgerFromBeforeSessions(t *testing.T) {
	path := file(t)
	require.NoError(t, create(t.Context(), path, steps[:1]))
	l := open(t, Options{Path: path})
	require.NoError(t, l.KeepSession(t.Context(), session("s")))
	require.Len(t, sessions(t, l), 1)
}
