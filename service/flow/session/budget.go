// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/llama-orch/llama-orch/service/task"
)

// Admit takes a session's turn and what the task may take of the budgets, or refuses the task (ORCH-3099). It notes in the task
// how the session stands then. Whoever calls it ends the task with Settle, or with Withdraw if it never was accepted.
func (m *Manager) Admit(t *task.Task) error {
	if t.Request.SessionID == "" && !m.bounds(t.Request.Actor) {
		return nil
	}
	now := m.o.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	e, err := m.forTask(t, now)
	if err != nil {
		return err
	}
	most := m.most(t)
	if err := m.afford(e, t.Request.Actor, most, now); err != nil {
		return err
	}
	if e != nil {
		if m.sessions[e.ID] == nil {
			if err := m.room(now); err != nil {
				return err
			}
			m.sessions[e.ID] = e
		}
		e.Turns++
		after := e.Session
		t.Session = &after
	}
	m.take(e, t, most)
	return nil
}

// forTask is the session that a task names, which may be a new one; nil: none.
func (m *Manager) forTask(t *task.Task, now time.Time) (*entry, error) {
	id := t.Request.SessionID
	if id == "" {
		return nil, nil
	}
	if m.making[id] {
		return nil, task.Errorf(task.Conflict, "session %s is just being made: send the task again", id).Retry(0)
	}
	if e := m.sessions[id]; e != nil {
		return e, e.refuse(now)
	}
	return &entry{Session: m.fresh(id, now), begunBy: t.ID}, nil
}

// take makes a task's reservations.
func (m *Manager) take(e *entry, t *task.Task, most task.Amount) {
	r := turn{reserved: most}
	if e != nil {
		r.session, e.turn = e.ID, t.ID
		e.reserved = e.reserved.Plus(most)
	}
	if m.bounds(t.Request.Actor) {
		r.account = t.Request.Actor
		a := m.account(r.account)
		a.reserved = a.reserved.Plus(most)
	}
	if e != nil || r.account != "" {
		m.turns[t.ID] = r
	}
}

// bounds reports whether an actor has a budget. The server's own tasks, such as its self-test, are nobody's.
func (m *Manager) bounds(actor string) bool { return actor != "" && m.o.Token != (task.Amount{}) }

// account is an API token's, of which there are few.
func (m *Manager) account(id string) *account {
	a := m.accounts[id]
	if a == nil {
		a = &account{}
		m.accounts[id] = a
	}
	return a
}

// release gives a task's reservations and its turn back.
func (m *Manager) release(id string) (turn, bool) {
	r, ok := m.turns[id]
	if !ok {
		return r, false
	}
	delete(m.turns, id)
	if e := m.sessions[r.session]; e != nil && e.turn == id {
		e.turn, e.reserved = "", e.reserved.Minus(r.reserved)
	}
	if r.account != "" {
		a := m.account(r.account)
		a.reserved = a.reserved.Minus(r.reserved)
	}
	return r, true
}

// Withdraw takes back the Admit of a task that was not accepted.
func (m *Manager) Withdraw(t task.Task) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.release(t.ID)
	e := m.sessions[r.session]
	if !ok || e == nil {
		return
	}
	e.Turns--
	if e.begunBy == t.ID {
		delete(m.sessions, e.ID)
	}
}

// Recover takes up a task that an earlier process accepted. What it did then is done again, whatever the budgets say.
func (m *Manager) Recover(t task.Task) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.take(m.sessions[t.Request.SessionID], &t, m.most(&t))
}

// Charge is what a task's end costs, to be recorded with it; nil: nobody's budget.
func (m *Manager) Charge(r task.Record, decode time.Duration) *task.Charge {
	m.mu.Lock()
	defer m.mu.Unlock()
	has, ok := m.turns[r.Task.ID]
	if !ok {
		return nil
	}
	c := &task.Charge{SessionID: has.session, Account: has.account, Window: windowOf(r.FinishedAt, m.o.Renew)}
	if r.StartedAt.IsZero() {
		return c // it never ran
	}
	in, out := r.Task.PromptTokens, len(r.Transcript.Ends)
	if r.End != nil {
		in, out = r.End.TokensIn, r.End.TokensOut
		decode = time.Duration(r.End.DecodeTimeMS) * time.Millisecond
	}
	c.Amount = m.amount(r.Task.PoolID, in, out)
	c.Amount.Time = decode.Truncate(time.Millisecond)
	return c
}

// Settle ends a task's turn once its outcome, with its charge, is recorded.
func (m *Manager) Settle(r task.Record) {
	m.mu.Lock()
	defer m.mu.Unlock()
	has, ok := m.release(r.Task.ID)
	c := r.Charge
	if !ok || c == nil {
		return
	}
	if e := m.sessions[has.session]; e != nil {
		e.Spent = e.Spent.Plus(c.Amount)
		if r.ReplicaID != "" {
			e.PoolID, e.ReplicaID = r.Task.PoolID, r.ReplicaID
		}
	}
	m.renew(r.FinishedAt)
	if has.account != "" && c.Window.Equal(m.window) {
		a := m.account(has.account)
		a.spent = a.spent.Plus(c.Amount)
	}
}

// renew gives the accounts a new budget, when it is time.
func (m *Manager) renew(now time.Time) {
	if w := windowOf(now, m.o.Renew); w.After(m.window) {
		m.window = w
		for _, a := range m.accounts {
			a.spent = task.Amount{}
		}
	}
}

// most is what a task may take at most.
func (m *Manager) most(t *task.Task) task.Amount {
	return m.amount(t.PoolID, min(t.PromptTokens, t.MostTokens), max(t.MostTokens-t.PromptTokens, 0))
}

// amount is what tokens come to.
func (m *Manager) amount(poolID string, in, out int) task.Amount {
	p := m.o.Price(poolID)
	return task.Amount{Tokens: int64(in) + int64(out), Cost: int64(math.Ceil(float64(in)*p.In + float64(out)*p.Out))}
}

// afford refuses a task that a budget is too small for.
func (m *Manager) afford(e *entry, actor string, most task.Amount, now time.Time) error {
	if e != nil {
		left := e.Budget.Minus(e.Spent).Minus(e.reserved)
		if what := short(e.Budget, left, most); what != "" {
			err := task.Errorf(task.BudgetExceeded,
				"session %s: %s; ask for fewer with `max_tokens`, or begin another session: this one's budget does not renew, and it ends in %s",
				e.ID, what, spoken(e.ends().Sub(now)))
			err.RetryAfter = e.ends().Sub(now)
			return err
		}
	}
	if !m.bounds(actor) {
		return nil
	}
	m.renew(now)
	a := m.account(actor)
	if what := short(m.o.Token, m.o.Token.Minus(a.spent).Minus(a.reserved), most); what != "" {
		renews := m.window.Add(m.o.Renew)
		return task.Errorf(task.BudgetExceeded, "API token: %s; ask for fewer with `max_tokens`, or wait: the budget renews in %s, at %s",
			what, spoken(renews.Sub(now)), renews.Format(time.RFC3339)).Retry(renews.Sub(now))
	}
	return nil
}

// short says which part of a budget is too small for what a task may take, or nothing.
func short(budget, left, most task.Amount) string {
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
	return strings.Join(why, "; ")
}

func cost(n int64) string { return fmt.Sprint(float64(n) / task.CostUnit) }

// Rests are what is left for tasks of a session and an actor.
func (m *Manager) Rests(sessionID, actor string) task.Budgets {
	now := m.o.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rests(m.sessions[sessionID], actor, now)
}

func (m *Manager) rests(e *entry, actor string, now time.Time) (b task.Budgets) {
	if e != nil {
		least(&b, e.Budget, e.Budget.Minus(e.Spent).Minus(e.reserved))
	}
	if m.bounds(actor) {
		m.renew(now)
		a := m.account(actor)
		least(&b, m.o.Token, m.o.Token.Minus(a.spent).Minus(a.reserved))
	}
	return b
}

// least narrows the rests down to what is left of a further budget.
func least(b *task.Budgets, budget, left task.Amount) {
	if budget.Tokens > 0 {
		narrow(&b.Tokens, left.Tokens)
	}
	if budget.Time > 0 {
		narrow(&b.TimeMS, left.Time.Milliseconds())
	}
	if budget.Cost > 0 {
		narrow(&b.Cost, float64(left.Cost)/task.CostUnit)
	}
}

func narrow[T int64 | float64](r *task.Rest[T], left T) {
	if !r.Bounded || left < r.Left {
		*r = task.Rest[T]{Left: max(left, 0), Bounded: true}
	}
}
