// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/llama-orch/llama-orch/service/task"
)

// ORCH-3099, ORCH-3014
func TestBudgetOfASessionRunsOut(t *testing.T) {
	w := open(t, func(o *Options) { o.Budget, o.MaxTurns = task.Amount{Tokens: 240}, 100 })
	one, err := w.admit(turnOf("t1", "s"))
	require.NoError(t, err)
	require.Equal(t, int64(140), w.m.Rests("s", "me").Tokens.Left, "all that it may take is reserved")
	w.end(one, 10)
	require.Equal(t, int64(190), w.m.Rests("s", "me").Tokens.Left, "and what it took is charged")
	two, err := w.admit(turnOf("t2", "s"))
	require.NoError(t, err)
	w.end(two, 60)

	w.now = w.now.Add(time.Minute)
	_, err = w.admit(turnOf("t3", "s"))
	e := task.AsError(err)
	require.Equal(t, task.BudgetExceeded, e.Code)
	require.Contains(t, e.Message, "of the budget of 240 tokens 90 are left, and this task may take 100")
	require.Equal(t, 9*time.Minute, e.RetryAfter, "when the session ends: its budget does not renew")
	require.False(t, e.Retriable)
	require.Equal(t, 2, w.get("s").Turns, "a refused task is no turn")
	small := turnOf("t4", "s")
	small.MostTokens = 90
	_, err = w.admit(small)
	require.NoError(t, err)
	other, err := w.admit(turnOf("t5", "other"))
	require.NoError(t, err, "each session has its own")
	require.NotNil(t, other.Session)
}

// ORCH-3099
func TestBudgetOfATokenRenews(t *testing.T) {
	w := open(t, func(o *Options) { o.Token = task.Amount{Tokens: 150} })
	one, err := w.admit(turnOf("t1", ""))
	require.NoError(t, err)
	require.Nil(t, one.Session)
	_, err = w.admit(turnOf("t2", ""))
	require.Equal(t, task.BudgetExceeded, code(err), "what runs is reserved: together they cannot overdraw")
	another := turnOf("t3", "")
	another.Request.Actor = "somebody else"
	_, err = w.admit(another)
	require.NoError(t, err)
	w.end(one, 60)
	for range 5 {
		own := turnOf("self-test", "")
		own.Request.Actor = ""
		_, err = w.admit(own)
		require.NoError(t, err, "the server's own tasks are nobody's")
	}

	_, err = w.admit(turnOf("t4", ""))
	e := task.AsError(err)
	require.Contains(t, e.Message, "50 are left, and this task may take 100")
	require.Contains(t, e.Message, "at 2026-01-03T00:00:00Z")
	require.Equal(t, w.now.Truncate(24*time.Hour).Add(24*time.Hour).Sub(w.now), e.RetryAfter)
	require.True(t, e.Retriable)

	w.restart()
	require.Equal(t, int64(50), w.m.Rests("", "me").Tokens.Left, "what was spent survives")
	w.now = w.now.Add(e.RetryAfter)
	require.Equal(t, int64(150), w.m.Rests("", "me").Tokens.Left)
	_, err = w.admit(turnOf("t5", ""))
	require.NoError(t, err)
}

// ORCH-3099
func TestBudgetsOfTimeAndCost(t *testing.T) {
	w := open(t, func(o *Options) {
		o.Budget, o.MaxTurns = task.Amount{Time: 100 * time.Millisecond, Cost: 4000}, 100
		o.Token = task.Amount{Time: 90 * time.Millisecond}
	})
	one, err := w.admit(turnOf("t1", "s")) // 40 at 10 and 60 at 30.5
	require.NoError(t, err)
	rests := w.m.Rests("s", "me")
	require.Equal(t, task.Budgets{
		TimeMS: task.Rest[int64]{Left: 90, Bounded: true}, Cost: task.Rest[float64]{Left: 0.00177, Bounded: true},
	}, rests, "the smaller one of each")
	w.end(one, 3) // 40 at 10 and 3 at 30.5, rounded up
	require.InDelta(t, 0.003508, w.m.Rests("s", "me").Cost.Left, 1e-12)
	require.Equal(t, int64(84), w.m.Rests("s", "me").TimeMS.Left)

	dear := turnOf("t2", "s")
	dear.MostTokens = 1000
	_, err = w.admit(dear)
	require.ErrorContains(t, err, "of the budget of 0.004 in cost 0.003508 is left, and this task may cost 0.02968")
	two, err := w.admit(turnOf("t3", "s"))
	require.NoError(t, err)
	w.end(two, 43)
	require.Zero(t, w.m.Rests("s", "me").TimeMS.Left, "never below nothing")
	_, err = w.admit(turnOf("t4", ""))
	require.ErrorContains(t, err, "of the budget of 90 ms of decoding nothing is left")
}

// What was decoded is charged, however the task ended; one that never ran costs nothing.
// ORCH-3099
func TestTasksThatBreakOffAreCharged(t *testing.T) {
	w := open(t, func(o *Options) { o.Budget = task.Amount{Tokens: 1000, Time: time.Second} })
	one, err := w.admit(turnOf("t1", "s"))
	require.NoError(t, err)
	w.settle(task.Record{Task: one, State: task.StateCanceled, FinishedAt: w.now}, 0)
	require.Equal(t, int64(1000), w.m.Rests("s", "me").Tokens.Left)
	two, err := w.admit(turnOf("t2", "s"))
	require.NoError(t, err)
	canceled := task.Record{Task: two, State: task.StateCanceled, StartedAt: w.now, FinishedAt: w.now, Transcript: task.Transcript{Text: "ab", Ends: []int{1, 2}}}
	w.settle(canceled, 30*time.Millisecond)
	require.Equal(t, int64(958), w.m.Rests("s", "me").Tokens.Left)
	require.Equal(t, int64(970), w.m.Rests("s", "me").TimeMS.Left)
	w.m.Settle(canceled)
	require.Equal(t, int64(958), w.m.Rests("s", "me").Tokens.Left, "once")
	require.Nil(t, w.m.Charge(canceled, 0))
}

// Whatever tasks come, run, break off or are found after a crash: nobody overdraws tokens or cost, what is charged is what
// was taken, and nothing stays reserved.
// ORCH-3099
func TestNobodyOverdraws(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := open(t, func(o *Options) {
			o.Max, o.MaxTurns = 100, 1000
			o.Budget = task.Amount{Tokens: 500, Cost: 9000}
			o.Token = task.Amount{Tokens: 1200}
		})
		running := map[string]task.Task{}
		var order []string
		taken := map[string]int64{}
		for i := range rapid.IntRange(1, 60).Draw(rt, "steps") {
			if len(order) > 0 && rapid.Bool().Draw(rt, "end") {
				at := rapid.IntRange(0, len(order)-1).Draw(rt, "which")
				one := running[order[at]]
				order = append(order[:at], order[at+1:]...)
				out := rapid.IntRange(0, one.MostTokens-one.PromptTokens).Draw(rt, "out")
				w.end(one, out)
				taken[one.Request.SessionID] += int64(40 + out)
				continue
			}
			if rapid.IntRange(0, 9).Draw(rt, "crash") == 0 {
				w.restart()
				for _, id := range order {
					w.m.Recover(running[id])
				}
			}
			one := turnOf(fmt.Sprint("t", i), rapid.SampledFrom([]string{"", "a", "b"}).Draw(rt, "session"))
			one.MostTokens = rapid.IntRange(40, 300).Draw(rt, "most")
			if one, err := w.admit(one); err == nil {
				running[one.ID] = one
				order = append(order, one.ID)
			} else if c := code(err); c != task.BudgetExceeded && c != task.Conflict {
				rt.Fatalf("refused with %v", err)
			}
			if all := taken[""] + taken["a"] + taken["b"]; all > 1200 || taken["a"] > 500 || taken["b"] > 500 {
				rt.Fatalf("overdrawn: %v", taken)
			}
		}
		for _, id := range order {
			w.end(running[id], 0)
			taken[running[id].Request.SessionID] += 40
		}
		if left := w.m.Rests("", "me").Tokens.Left; left != 1200-taken[""]-taken["a"]-taken["b"] {
			rt.Fatalf("%d left after %v", left, taken)
		}
		for _, id := range []string{"a", "b"} {
			if s := w.kept[id]; s.Spent.Tokens != taken[id] || w.m.Rests(id, "me").Tokens.Left > 500-taken[id] && s.ID != "" {
				rt.Fatalf("session %s spent %d, and took %d", id, s.Spent.Tokens, taken[id])
			}
		}
	})
}

// What admission and a task's end pay for sessions and budgets, in a server that keeps a thousand sessions; without, it is a task of
// no session where no budget is configured.
// ORCH-3099
func BenchmarkAdmission(b *testing.B) {
	for _, on := range []bool{false, true} {
		b.Run(fmt.Sprintf("on=%v", on), func(b *testing.B) {
			id := ""
			w := open(b, func(o *Options) {
				o.Max, o.MaxTurns = 2000, 1<<30
				if on {
					o.Budget, o.Token = task.Amount{Tokens: 1 << 50, Time: 1 << 60, Cost: 1 << 50}, task.Amount{Tokens: 1 << 50, Time: 1 << 60, Cost: 1 << 50}
					id = "s7"
				}
			})
			for i := range 1000 {
				one, err := w.admit(turnOf(fmt.Sprint("t", i), fmt.Sprint("s", i)))
				require.NoError(b, err)
				w.end(one, 1)
			}
			r := task.Record{FinishedAt: w.now, StartedAt: w.now, End: &task.End{TokensIn: 40, TokensOut: 5}}
			b.ReportAllocs()
			for b.Loop() {
				r.Task = turnOf("t", id)
				if err := w.m.Admit(&r.Task); err != nil {
					b.Fatal(err)
				}
				w.m.Home(id)
				w.m.Warm(id)
				w.m.Rests(id, "me")
				r.Charge = w.m.Charge(r, 0)
				w.m.Settle(r)
			}
		})
	}
}
