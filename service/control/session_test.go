// SPDX-License-Identifier: GPL-3.0-or-later

package control

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/config"
	"github.com/llama-orch/llama-orch/service/flow/scheduler"
	"github.com/llama-orch/llama-orch/service/front/api"
	"github.com/llama-orch/llama-orch/service/lifecycle"
	"github.com/llama-orch/llama-orch/service/record/ledger/sqlite"
	"github.com/llama-orch/llama-orch/service/task"
)

var (
	_ scheduler.Sessions = (*Sessions)(nil)
	_ api.Sessions       = (*Sessions)(nil)
	_ lifecycle.Service  = (*Sessions)(nil)
)

// sessionsOf are those of a configuration, over an empty ledger.
func sessionsOf(t testing.TB, b config.Budgets) *Sessions {
	book, err := sqlite.Open(sqlite.Options{Path: filepath.Join(t.TempDir(), sqlite.FileName)})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, book.Close()) })
	c := config.Config{
		Budgets:  b,
		Sessions: config.Sessions{TTL: 10 * time.Minute, MaxTurns: 1 << 30, MaxSessions: 2000},
		Pools:    []config.Pool{{ID: "default", Price: config.Price{In: 0.01, Out: 0.02}}},
	}
	s, err := OpenSessions(NewFleet(NewSetup(c), nil, nil, nil, time.Now), book, prometheus.NewRegistry(), zap.NewNop())
	require.NoError(t, err)
	return s
}

// turnOf may take 100 tokens, 40 of them its prompt's.
func turnOf(id, session string) task.Task {
	return task.Task{
		ID: id, PoolID: "default", PromptTokens: 40, MostTokens: 100, Determinism: task.BestEffort, Request: task.Request{SessionID: session, Actor: "me"},
	}
}

func (s *Sessions) end(r task.Record) {
	r.Charge = s.Charge(r, 0, nil)
	s.Settle(r)
}

// A task that a budget refuses is no turn, and begins no session. The turn behind one that has ended finds what is left.
// ORCH-3021, ORCH-3099
func TestABudgetsRefusalIsNoTurn(t *testing.T) {
	s := sessionsOf(t, config.Budgets{Session: config.Budget{Tokens: 190}})
	large := turnOf("large", "s")
	large.MostTokens = 191
	require.True(t, task.HasCode(s.Admit(&large), task.BudgetExceeded))
	_, err := s.Get(t.Context(), "s", "me")
	require.True(t, task.HasCode(err, task.NotFound), "%v", err)

	one := turnOf("t1", "s")
	require.NoError(t, s.Admit(&one))
	require.Equal(t, 1, one.Session.Turns)
	require.Equal(t, int64(90), s.Rests("s", "me").Tokens.Left, "all that it may take is reserved")
	two := turnOf("t2", "s")
	require.True(t, task.HasCode(s.Admit(&two), task.Conflict))
	now := time.Now()
	s.end(task.Record{Task: one, StartedAt: now, FinishedAt: now, ReplicaID: "default-0", End: &task.End{TokensIn: 40, TokensOut: 10}})
	status, err := s.Get(t.Context(), "s", "me")
	require.NoError(t, err)
	require.Equal(t, int64(140), status.Rests.Tokens.Left)
	require.Equal(t, []any{1, "default-0"}, []any{status.Turns, status.ReplicaID})

	require.NoError(t, s.Admit(&two))
	s.Withdraw(two)
	require.Equal(t, int64(140), s.Rests("s", "me").Tokens.Left)
	s.Recover(two)
	require.Equal(t, int64(40), s.Rests("s", "me").Tokens.Left)
	require.True(t, task.HasCode(s.Delete(t.Context(), "s"), task.Conflict), "its turn is on")
	s.end(task.Record{Task: two, FinishedAt: now})
	require.NoError(t, s.Delete(t.Context(), "s"))
}

// What admission and a task's end pay for sessions and budgets, in a server that keeps a thousand sessions; without, it is a task of
// no session where no budget is configured.
// ORCH-3099
func BenchmarkAdmission(b *testing.B) {
	for _, on := range []bool{false, true} {
		b.Run(fmt.Sprintf("on=%v", on), func(b *testing.B) {
			id, budgets := "", config.Budgets{}
			if on {
				id, budgets.Session = "s7", config.Budget{Tokens: 1 << 50, TimeMS: 1 << 40, Cost: 1 << 30}
				budgets.Token.Tokens, budgets.Token.Renew = 1<<50, 24*time.Hour
			}
			s, now := sessionsOf(b, budgets), time.Now()
			end := &task.End{TokensIn: 40, TokensOut: 5}
			for i := range 1000 {
				one := turnOf(fmt.Sprint("t", i), fmt.Sprint("s", i))
				require.NoError(b, s.Admit(&one))
				s.end(task.Record{Task: one, StartedAt: now, FinishedAt: now, End: end})
			}
			r := task.Record{FinishedAt: now, StartedAt: now, End: end}
			b.ReportAllocs()
			for b.Loop() {
				r.Task = turnOf("t", id)
				if err := s.Admit(&r.Task); err != nil {
					b.Fatal(err)
				}
				s.Home(id)
				s.Warm(id)
				s.Rests(id, "me")
				r.Charge = s.Charge(r, 0, nil)
				s.Settle(r)
			}
		})
	}
}
