// SPDX-License-Identifier: GPL-3.0-or-later

package budget

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/llama-orch/llama-orch/service/task"
)

// world is the ledger and the sessions around a book, and its clock.
type world struct {
	t       testing.TB
	b       *Book
	o       Options
	budget  task.Amount // of each session
	now     time.Time
	charged map[string]task.Amount            // by session
	spent   map[string]map[string]task.Amount // by window, then by actor
	energy  *task.Energy                      // that tasks took
	broken  error
}

// open makes a book in which the sessions "s", "a" and "b" have accounts that end in ten minutes.
func open(t testing.TB, session, token task.Amount) *world {
	w := &world{
		t: t, budget: session, now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), charged: map[string]task.Amount{}, spent: map[string]map[string]task.Amount{},
	}
	w.o = Options{
		Token: token, Renew: 24 * time.Hour, Price: func(string) Price { return Price{In: 10, Out: 30.5} }, Ledger: w, Now: func() time.Time { return w.now },
	}
	w.restart()
	return w
}

// restart makes a book of what is recorded.
func (w *world) restart() {
	b, err := New(context.Background(), w.o)
	require.NoError(w.t, err)
	w.b = b
	for _, id := range []string{"s", "a", "b"} {
		b.Open(id, w.budget, w.charged[id], w.now.Add(10*time.Minute))
	}
}

func (w *world) Spent(_ context.Context, window time.Time) (map[string]task.Amount, error) {
	return w.spent[window.String()], w.broken
}

// taskOf may take 100 tokens, 40 of them its prompt's.
func taskOf(id, session string) task.Task {
	return task.Task{ID: id, PoolID: "default", PromptTokens: 40, MostTokens: 100, Request: task.Request{SessionID: session, Actor: "me"}}
}

func (w *world) admit(t task.Task) (task.Task, error) { return t, w.b.Reserve(&t) }

// end ends a task that ran, with 40 tokens in and so many out in 2 ms each, and has the ledger record that.
func (w *world) end(t task.Task, out int) {
	w.settle(task.Record{
		Task: t, State: task.Completed, StartedAt: w.now, FinishedAt: w.now,
		End: &task.End{TokensIn: 40, TokensOut: out, DecodeTimeMS: int64(2 * out)},
	}, 0)
}

func (w *world) settle(r task.Record, decode time.Duration) {
	r.Charge = w.b.Charge(&r, decode, w.energy)
	if c := r.Charge; c != nil {
		w.charged[c.SessionID] = w.charged[c.SessionID].Plus(c.Amount)
		if c.Account != "" {
			key := c.Window.String()
			if w.spent[key] == nil {
				w.spent[key] = map[string]task.Amount{}
			}
			w.spent[key][c.Account] = w.spent[key][c.Account].Plus(c.Amount)
		}
	}
	w.b.Settle(&r)
}

func code(err error) task.Code {
	if err == nil {
		return ""
	}
	return task.AsError(err).Code
}

// ORCH-3099, ORCH-3014
func TestBudgetOfASessionRunsOut(t *testing.T) {
	w := open(t, task.Amount{Tokens: 240}, task.Amount{})
	one, err := w.admit(taskOf("t1", "s"))
	require.NoError(t, err)
	require.Equal(t, int64(140), w.b.Rests("s", "me").Tokens.Left, "all that it may take is reserved")
	w.end(one, 10)
	require.Equal(t, int64(190), w.b.Rests("s", "me").Tokens.Left, "and what it took is charged")
	two, err := w.admit(taskOf("t2", "s"))
	require.NoError(t, err)
	w.end(two, 60)

	w.now = w.now.Add(time.Minute)
	_, err = w.admit(taskOf("t3", "s"))
	e := task.AsError(err)
	require.Equal(t, task.BudgetExceeded, e.Code)
	require.Contains(t, e.Message, "of the budget of 240 tokens 90 are left, and this task may take 100")
	require.Equal(t, 9*time.Minute, e.RetryAfter, "when the session ends: its budget does not renew")
	require.False(t, e.Retriable)
	require.Equal(t, int64(90), w.b.Rests("s", "me").Tokens.Left, "a refused task reserves nothing")
	small := taskOf("t4", "s")
	small.MostTokens = 90
	_, err = w.admit(small)
	require.NoError(t, err)
	_, err = w.admit(taskOf("t5", "a"))
	require.NoError(t, err, "each session has its own")
	w.b.Close("s")
	_, err = w.admit(taskOf("t6", "s"))
	require.NoError(t, err, "a session without an account has no budget")
}

// ORCH-3099
func TestBudgetOfATokenRenews(t *testing.T) {
	w := open(t, task.Amount{}, task.Amount{Tokens: 150})
	one, err := w.admit(taskOf("t1", ""))
	require.NoError(t, err)
	_, err = w.admit(taskOf("t2", ""))
	require.Equal(t, task.BudgetExceeded, code(err), "what runs is reserved: together they cannot overdraw")
	another := taskOf("t3", "")
	another.Request.Actor = "somebody else"
	_, err = w.admit(another)
	require.NoError(t, err)
	w.end(one, 60)
	for range 5 {
		own := taskOf("self-test", "")
		own.Request.Actor = ""
		_, err = w.admit(own)
		require.NoError(t, err, "the server's own tasks are nobody's")
	}

	_, err = w.admit(taskOf("t4", ""))
	e := task.AsError(err)
	require.Contains(t, e.Message, "50 are left, and this task may take 100")
	require.Contains(t, e.Message, "at 2026-01-03T00:00:00Z")
	require.Equal(t, w.now.Truncate(24*time.Hour).Add(24*time.Hour).Sub(w.now), e.RetryAfter)
	require.True(t, e.Retriable)

	w.restart()
	require.Equal(t, int64(50), w.b.Rests("", "me").Tokens.Left, "what was spent survives")
	w.now = w.now.Add(e.RetryAfter)
	require.Equal(t, int64(150), w.b.Rests("", "me").Tokens.Left)
	_, err = w.admit(taskOf("t5", ""))
	require.NoError(t, err)
}

// ORCH-3099
func TestBudgetsOfTimeAndCost(t *testing.T) {
	w := open(t, task.Amount{Time: 100 * time.Millisecond, Cost: 4000}, task.Amount{Time: 90 * time.Millisecond})
	one, err := w.admit(taskOf("t1", "s")) // 40 at 10 and 60 at 30.5
	require.NoError(t, err)
	rests := w.b.Rests("s", "me")
	require.Equal(t, task.Budgets{
		TimeMS: task.Rest[int64]{Left: 90, Bounded: true}, Cost: task.Rest[float64]{Left: 0.00177, Bounded: true},
	}, rests, "the smaller one of each")
	w.end(one, 3) // 40 at 10 and 3 at 30.5, rounded up
	require.InDelta(t, 0.003508, w.b.Rests("s", "me").Cost.Left, 1e-12)
	require.Equal(t, int64(84), w.b.Rests("s", "me").TimeMS.Left)

	dear := taskOf("t2", "s")
	dear.MostTokens = 1000
	_, err = w.admit(dear)
	require.ErrorContains(t, err, "of the budget of 0.004 in cost 0.003508 is left, and this task may cost 0.02968")
	two, err := w.admit(taskOf("t3", "s"))
	require.NoError(t, err)
	w.end(two, 43)
	require.Zero(t, w.b.Rests("s", "me").TimeMS.Left, "never below nothing")
	_, err = w.admit(taskOf("t4", ""))
	require.ErrorContains(t, err, "of the budget of 90 ms of decoding nothing is left")
}

// LO-627, LO-626: joules are charged once they are known, together with what they cost, and a task is refused when none are left.
func TestBudgetsOfJoules(t *testing.T) {
	w := open(t, task.Amount{Energy: 90_500, Cost: 10_000_000}, task.Amount{Energy: 200_000})
	one, err := w.admit(taskOf("t1", "s"))
	require.NoError(t, err)
	require.Equal(t, task.Rest[float64]{Left: 90.5, Bounded: true}, w.b.Rests("s", "me").Joules, "nobody knows yet what it will take")
	w.energy = &task.Energy{Joules: 60.2504, Cost: 0.25, Priced: true}
	w.end(one, 60)
	require.InDelta(t, 30.25, w.b.Rests("s", "me").Joules.Left, 1e-9, "as exact as the counters")
	require.InDelta(t, 10-0.25-0.00223, w.b.Rests("s", "me").Cost.Left, 1e-9, "its tokens, and its electricity")

	two, err := w.admit(taskOf("t2", "s"))
	require.NoError(t, err)
	w.energy = nil
	w.end(two, 60)
	require.InDelta(t, 30.25, w.b.Rests("s", "me").Joules.Left, 1e-9, "what is not known is not charged")

	three, err := w.admit(taskOf("t3", "s"))
	require.NoError(t, err)
	w.energy = &task.Energy{Joules: 60}
	w.settle(task.Record{Task: three, State: task.StateCanceled, StartedAt: w.now, FinishedAt: w.now}, 0)
	require.Zero(t, w.b.Rests("s", "me").Joules.Left, "never below nothing")
	_, err = w.admit(taskOf("t4", "s"))
	require.Equal(t, task.BudgetExceeded, code(err))
	require.ErrorContains(t, err, "of the budget of 90.5 joules nothing is left")
	require.InDelta(t, 120.2504/200, w.b.Used()["me"]["joules"], 1e-5)
	w.restart()
	_, err = w.admit(taskOf("t5", "s"))
	require.Equal(t, task.BudgetExceeded, code(err), "what was spent survives")
	_, err = w.admit(taskOf("t6", "a"))
	require.NoError(t, err)
}

// What was decoded is charged, however the task ended; one that never ran costs nothing.
// ORCH-3099
func TestTasksThatBreakOffAreCharged(t *testing.T) {
	w := open(t, task.Amount{Tokens: 1000, Time: time.Second}, task.Amount{})
	one, err := w.admit(taskOf("t1", "s"))
	require.NoError(t, err)
	w.settle(task.Record{Task: one, State: task.StateCanceled, FinishedAt: w.now}, 0)
	require.Equal(t, int64(1000), w.b.Rests("s", "me").Tokens.Left)
	two, err := w.admit(taskOf("t2", "s"))
	require.NoError(t, err)
	canceled := task.Record{Task: two, State: task.StateCanceled, StartedAt: w.now, FinishedAt: w.now, Transcript: task.Transcript{Text: "ab", Ends: []int{1, 2}}}
	w.settle(canceled, 30*time.Millisecond)
	require.Equal(t, int64(958), w.b.Rests("s", "me").Tokens.Left)
	require.Equal(t, int64(970), w.b.Rests("s", "me").TimeMS.Left)
	w.b.Settle(&canceled)
	require.Equal(t, int64(958), w.b.Rests("s", "me").Tokens.Left, "once")
	require.Nil(t, w.b.Charge(&canceled, 0, nil))
}

// A task that is not accepted leaves nothing reserved.
// ORCH-3099
func TestAReleasedTaskReservesNothing(t *testing.T) {
	w := open(t, task.Amount{Tokens: 200}, task.Amount{Tokens: 150})
	one, err := w.admit(taskOf("t1", "s"))
	require.NoError(t, err)
	require.Equal(t, int64(50), w.b.Rests("s", "me").Tokens.Left)
	w.b.Release(one.ID)
	w.b.Release(one.ID)
	require.Equal(t, int64(150), w.b.Rests("s", "me").Tokens.Left)
	require.Equal(t, int64(200), w.b.Rests("s", "").Tokens.Left)
	_, err = w.admit(taskOf("t2", "s"))
	require.NoError(t, err)
	_, err = w.admit(taskOf("t3", "s"))
	require.ErrorContains(t, err, "API token: of the budget of 150 tokens 50 are left")
	require.Equal(t, int64(100), w.b.Rests("s", "").Tokens.Left, "what another account refuses, this one does not hold")
}

func TestABookThatCannotBeReadIsNone(t *testing.T) {
	w := open(t, task.Amount{}, task.Amount{})
	w.broken = errors.New("the disk is gone")
	_, err := New(t.Context(), w.o)
	require.ErrorIs(t, err, w.broken)
}

// Whatever tasks come, run, break off or are found after a crash: nobody overdraws tokens or cost, what is charged is what
// was taken, and nothing stays reserved.
// ORCH-3099
func TestNobodyOverdraws(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := open(t, task.Amount{Tokens: 500, Cost: 9000}, task.Amount{Tokens: 1200})
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
					left := running[id]
					w.b.Recover(&left)
				}
			}
			one := taskOf(fmt.Sprint("t", i), rapid.SampledFrom([]string{"", "a", "b"}).Draw(rt, "session"))
			one.MostTokens = rapid.IntRange(40, 300).Draw(rt, "most")
			if one, err := w.admit(one); err == nil {
				running[one.ID] = one
				order = append(order, one.ID)
			} else if code(err) != task.BudgetExceeded {
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
		if left := w.b.Rests("", "me").Tokens.Left; left != 1200-taken[""]-taken["a"]-taken["b"] {
			rt.Fatalf("%d left after %v", left, taken)
		}
		for _, id := range []string{"a", "b"} {
			if spent := w.charged[id].Tokens; spent != taken[id] || w.b.Rests(id, "").Tokens.Left != 500-taken[id] {
				rt.Fatalf("session %s spent %d, and took %d", id, spent, taken[id])
			}
		}
	})
}

// LO-613: what an API token has used is what it has spent and what its live tasks have reserved, of what its budget bounds.
func TestWhatATokenHasUsed(t *testing.T) {
	w := open(t, task.Amount{}, task.Amount{Tokens: 400, Time: 100 * time.Millisecond})
	require.Empty(t, w.b.Used(), "nobody has come yet")
	one, err := w.admit(taskOf("t1", ""))
	require.NoError(t, err)
	require.Equal(t, map[string]map[string]float64{"me": {"tokens": 0.25, "time": 0}}, w.b.Used())
	w.end(one, 10)
	require.Equal(t, map[string]map[string]float64{"me": {"tokens": 0.125, "time": 0.2}}, w.b.Used())
	w.now = w.now.Add(24 * time.Hour)
	require.Equal(t, map[string]map[string]float64{"me": {"tokens": 0, "time": 0}}, w.b.Used(), "the budget has renewed")
}
