// SPDX-License-Identifier: GPL-3.0-or-later

package budget

import (
	"fmt"
	"strings"
	"time"

	"github.com/llama-orch/llama-orch/service/task"
)

// refuseSession refuses a task that the account of its session is too small for.
func (a *account) refuseSession(id string, most task.Amount, now time.Time) error {
	what := a.short(most)
	if what == "" {
		return nil
	}
	err := task.Errorf(task.BudgetExceeded,
		"session %s: %s; ask for a shorter answer, or begin another session: this one's budget does not renew, and it ends in %s",
		id, what, spoken(a.ends.Sub(now)))
	err.RetryAfter = a.ends.Sub(now)
	return err
}

// refuseToken refuses a task that the account of its API token is too small for.
func (a *account) refuseToken(renews time.Time, most task.Amount, now time.Time) error {
	what := a.short(most)
	if what == "" {
		return nil
	}
	return task.Errorf(task.BudgetExceeded, "API token: %s; ask for a shorter answer, or wait: the budget renews in %s, at %s",
		what, spoken(renews.Sub(now)), renews.Format(time.RFC3339)).Retry(renews.Sub(now))
}

// short says which parts of the budget are too small for what a task may take. It is empty where none is.
func (a *account) short(most task.Amount) string {
	budget, left := a.budget, a.left()
	var why []string
	if budget.Tokens > 0 && most.Tokens > left.Tokens {
		why = append(why, fmt.Sprintf("of the budget of %d tokens %d are left, and this task may take %d", budget.Tokens, max(left.Tokens, 0), most.Tokens))
	}
	if budget.Time > 0 && left.Time <= 0 {
		why = append(why, fmt.Sprintf("of the budget of %d ms of decoding nothing is left", budget.Time.Milliseconds()))
	}
	if budget.Cost > 0 && (most.Cost > left.Cost || left.Cost <= 0) {
		why = append(why, fmt.Sprintf("of the budget of %s in cost %s is left, and this task may cost %s", cost(budget.Cost), cost(max(left.Cost, 0)), cost(most.Cost)))
	}
	if budget.Energy > 0 && left.Energy <= 0 {
		why = append(why, fmt.Sprintf("of the budget of %s joules nothing is left", joules(budget.Energy)))
	}
	return strings.Join(why, "; ")
}

func cost(n int64) string { return fmt.Sprint(float64(n) / task.CostUnit) }

func joules(n int64) string { return fmt.Sprint(float64(n) / task.Millijoules) }

func spoken(d time.Duration) string { return fmt.Sprint(d.Round(time.Second)) }

// narrow lowers each rest to what is left in the account, where that is less.
func (a *account) narrow(rests *task.Budgets) {
	left := a.left()
	if a.budget.Tokens > 0 {
		narrow(&rests.Tokens, left.Tokens)
	}
	if a.budget.Time > 0 {
		narrow(&rests.TimeMS, left.Time.Milliseconds())
	}
	if a.budget.Cost > 0 {
		narrow(&rests.Cost, float64(left.Cost)/task.CostUnit)
	}
	if a.budget.Energy > 0 {
		narrow(&rests.Joules, float64(left.Energy)/task.Millijoules)
	}
}

func narrow[T int64 | float64](r *task.Rest[T], left T) {
	if !r.Bounded || left < r.Left {
		*r = task.Rest[T]{Left: max(left, 0), Bounded: true}
	}
}
