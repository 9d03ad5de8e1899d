// SPDX-License-Identifier: GPL-3.0-or-later

// Package budget keeps accounts of what tasks take: tokens, decoding time, cost and energy. Each session has an account, and so has each API
// token (ORCH-3099).
package budget

import (
	"context"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/llama-orch/llama-orch/service/task"
)

// Ledger is the durable record. Charges are recorded with the ends of their tasks.
type Ledger interface {
	// Spent returns what each API token was charged in the window that began then.
	Spent(ctx context.Context, window time.Time) (map[string]task.Amount, error)
}

// Price is what one token costs in a pool, in units of task.Amount.Cost.
type Price struct{ In, Out float64 }

// Options are what a Book is made from.
type Options struct {
	Token  task.Amount   // the budget of each API token
	Renew  time.Duration // how long a window is; an API token gets its budget anew with each
	Price  func(poolID string) Price
	Ledger Ledger
	Now    func() time.Time
}

// Book holds the accounts. Its methods may be called from several goroutines, and none of them waits for anything but its lock.
type Book struct {
	o Options

	mu       sync.Mutex
	sessions map[string]*account // by session id
	tokens   map[string]*account // by actor; there are few
	holds    map[string]hold     // by the id of a live task that an account pays for
	window   time.Time           // began then
}

// account is what a session or an API token may take, and has taken.
type account struct {
	budget   task.Amount
	spent    task.Amount
	reserved task.Amount // by the tasks that are live
	ends     time.Time   // a session's; its budget does not renew
}

func (a *account) left() task.Amount { return a.budget.Minus(a.spent).Minus(a.reserved) }

// hold is what a live task has reserved, and in which accounts.
type hold struct {
	session string // empty: none
	actor   string // empty: one without a budget
	most    task.Amount
}

// New makes a book of what is recorded. Sessions open their accounts in it, and live tasks come back with Recover.
func New(ctx context.Context, o Options) (*Book, error) {
	b := &Book{
		o: o, sessions: map[string]*account{}, tokens: map[string]*account{}, holds: map[string]hold{}, window: windowOf(o.Now(), o.Renew),
	}
	spent, err := o.Ledger.Spent(ctx, b.window)
	if err != nil {
		return nil, fmt.Errorf("read what API tokens have spent: %w", err)
	}
	for actor, amount := range spent {
		b.token(actor).spent = amount
	}
	return b, nil
}

// windowOf is when the window of a time began.
func windowOf(at time.Time, renew time.Duration) time.Time {
	ms := max(renew.Milliseconds(), 1)
	return time.UnixMilli(at.UnixMilli() / ms * ms).UTC()
}

// Open gives a session its account.
func (b *Book) Open(sessionID string, budget, spent task.Amount, ends time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sessions[sessionID] = &account{budget: budget, spent: spent, ends: ends}
}

// Close ends the account of a session that has no live task.
func (b *Book) Close(sessionID string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.sessions, sessionID)
}

// Reserve sets aside the most that a task may take, or refuses the task where a budget is too small. Each Reserve is followed by a
// Release, where the task was not accepted, or by a Settle.
func (b *Book) Reserve(t *task.Task) error {
	actor := t.Request.Actor
	if !b.Pays(&t.Request) {
		return nil
	}
	most, now := b.most(t), b.o.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	if a := b.sessions[t.Request.SessionID]; a != nil {
		if err := a.refuseSession(t.Request.SessionID, most, now); err != nil {
			return err
		}
	}
	if b.bounds(actor) {
		b.renew(now)
		if err := b.token(actor).refuseToken(b.window.Add(b.o.Renew), most, now); err != nil {
			return err
		}
	}
	b.hold(t, most)
	return nil
}

// Recover reserves for a task that an earlier process accepted, whatever the budgets say: it is done again.
func (b *Book) Recover(t *task.Task) {
	most := b.most(t)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.hold(t, most)
}

// Release takes back the Reserve of a task that was not accepted.
func (b *Book) Release(taskID string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.release(taskID)
}

// Charge is what a task costs; it is recorded with the task's end. Nil: no account pays. Decode is how long the task decoded, if the
// record has no End. Energy is what cards took for it; nil: that is not known, and not charged (LO-627).
func (b *Book) Charge(r *task.Record, decode time.Duration, energy *task.Energy) *task.Charge {
	b.mu.Lock()
	h, ok := b.holds[r.Task.ID]
	b.mu.Unlock()
	if !ok {
		return nil
	}
	c := &task.Charge{SessionID: h.session, Account: h.actor, Window: windowOf(r.FinishedAt, b.o.Renew)}
	if r.StartedAt.IsZero() {
		return c // it never ran
	}
	in, out := r.Task.PromptTokens, len(r.Transcript.Ends)
	if r.End != nil {
		in, out = r.End.TokensIn, r.End.TokensOut
		decode = time.Duration(r.End.DecodeTimeMS) * time.Millisecond
	}
	if energy == nil {
		energy = &task.Energy{}
	}
	c.Amount = b.amount(r.Task.PoolID, in, out, energy.Cost*task.CostUnit)
	c.Amount.Time = decode.Truncate(time.Millisecond)
	c.Amount.Energy = int64(math.Round(energy.Joules * task.Millijoules))
	return c
}

// Settle spends a task's charge, once that is recorded, and gives back what the task had reserved.
func (b *Book) Settle(r *task.Record) {
	b.mu.Lock()
	defer b.mu.Unlock()
	h, ok := b.release(r.Task.ID)
	c := r.Charge
	if !ok || c == nil {
		return
	}
	if a := b.sessions[h.session]; a != nil {
		a.spent = a.spent.Plus(c.Amount)
	}
	b.renew(r.FinishedAt)
	if h.actor != "" && c.Window.Equal(b.window) {
		a := b.token(h.actor)
		a.spent = a.spent.Plus(c.Amount)
	}
}

// Rests are what is left for tasks of a session, which may be empty, and of an actor.
func (b *Book) Rests(sessionID, actor string) (rests task.Budgets) {
	now := b.o.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	if a := b.sessions[sessionID]; a != nil {
		a.narrow(&rests)
	}
	if b.bounds(actor) {
		b.renew(now)
		b.token(actor).narrow(&rests)
	}
	return rests
}

// Used is the share of its budget that each API token has spent in this window, or that its live tasks have reserved, by what the budget bounds: tokens,
// time, cost or joules.
func (b *Book) Used() map[string]map[string]float64 {
	now := b.o.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.renew(now)
	all := map[string]map[string]float64{}
	for actor, a := range b.tokens {
		taken, used := a.spent.Plus(a.reserved), map[string]float64{}
		for resource, of := range map[string][2]int64{
			"tokens": {taken.Tokens, a.budget.Tokens}, "time": {int64(taken.Time), int64(a.budget.Time)}, "cost": {taken.Cost, a.budget.Cost},
			"joules": {taken.Energy, a.budget.Energy},
		} {
			if of[1] > 0 { // else it is not bounded
				used[resource] = float64(of[0]) / float64(of[1])
			}
		}
		all[actor] = used
	}
	return all
}

// Pays reports whether an account pays for a task: its session's, or that of its API token.
func (b *Book) Pays(r *task.Request) bool { return r.SessionID != "" || b.bounds(r.Actor) }

// bounds reports whether an actor has a budget. The server's own tasks, such as its self-test, have no actor and no budget.
func (b *Book) bounds(actor string) bool { return actor != "" && b.o.Token != (task.Amount{}) }

// token is an actor's account. The caller holds mu.
func (b *Book) token(actor string) *account {
	a := b.tokens[actor]
	if a == nil {
		a = &account{budget: b.o.Token}
		b.tokens[actor] = a
	}
	return a
}

// hold reserves in a task's accounts. The caller holds mu.
func (b *Book) hold(t *task.Task, most task.Amount) {
	h := hold{most: most}
	if a := b.sessions[t.Request.SessionID]; a != nil {
		h.session, a.reserved = t.Request.SessionID, a.reserved.Plus(most)
	}
	if b.bounds(t.Request.Actor) {
		h.actor = t.Request.Actor
		a := b.token(h.actor)
		a.reserved = a.reserved.Plus(most)
	}
	if h.session != "" || h.actor != "" {
		b.holds[t.ID] = h
	}
}

// release gives back what a task has reserved, and returns false where that is nothing. The caller holds mu.
func (b *Book) release(taskID string) (hold, bool) {
	h, ok := b.holds[taskID]
	if !ok {
		return h, false
	}
	delete(b.holds, taskID)
	if a := b.sessions[h.session]; a != nil {
		a.reserved = a.reserved.Minus(h.most)
	}
	if h.actor != "" {
		a := b.token(h.actor)
		a.reserved = a.reserved.Minus(h.most)
	}
	return h, true
}

// renew gives the API tokens their budgets anew where another window has begun. The caller holds mu.
func (b *Book) renew(now time.Time) {
	if w := windowOf(now, b.o.Renew); w.After(b.window) {
		b.window = w
		for _, a := range b.tokens {
			a.spent = task.Amount{}
		}
	}
}

// most is what a task may take at most. Its decoding time and its energy are not known before.
func (b *Book) most(t *task.Task) task.Amount {
	return b.amount(t.PoolID, min(t.PromptTokens, t.MostTokens), max(t.MostTokens-t.PromptTokens, 0), 0)
}

// amount is what tokens come to in a pool, and what electricity cost, in units of task.Amount.Cost.
func (b *Book) amount(poolID string, in, out int, electricity float64) task.Amount {
	p := b.o.Price(poolID)
	return task.Amount{Tokens: int64(in) + int64(out), Cost: int64(math.Ceil(float64(in)*p.In + float64(out)*p.Out + electricity))}
}
