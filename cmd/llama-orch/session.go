// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/llama-orch/llama-orch/gen"
)

type sessionCmd struct {
	Show   sessionShowCmd   `cmd:"" help:"Show a session."`
	Create sessionCreateCmd `cmd:"" help:"Begin a session with limits of its own."`
	Delete sessionDeleteCmd `cmd:"" help:"Evict a session, and erase its KV."`
}

type sessionShowCmd struct {
	ID string `arg:"" help:"The session's id, a UUID."`
}

// Run shows a session.
func (c *sessionShowCmd) Run(a *app) error {
	id, err := sessionID(c.ID)
	if err != nil {
		return err
	}
	s, err := a.client.Session(a.ctx, id)
	if err != nil {
		return err
	}
	return a.session(s)
}

type sessionCreateCmd struct {
	ID       string        `placeholder:"UUID" help:"Its id (default: chosen by the server)."`
	TTL      time.Duration `placeholder:"TIME" help:"How long the session takes tasks, such as 30m (default: the server's)."`
	MaxTurns int           `placeholder:"N" help:"How many tasks the session takes (default: the server's)."`
	Tokens   int64         `placeholder:"N" help:"Budget of tokens, in and out (default: the server's)."`
	Time     time.Duration `placeholder:"TIME" help:"Budget of decode time, such as 90s (default: the server's)."`
	Cost     float64       `placeholder:"X" help:"Budget of cost, at the server's prices (default: the server's)."`
}

// Run begins a session. The server chooses what was not given.
func (c *sessionCreateCmd) Run(a *app) error {
	if c.TTL < 0 || c.MaxTurns < 0 || c.Tokens < 0 || c.Time < 0 || c.Cost < 0 {
		return usagef("limits must be above 0; leave out a limit that the server should choose")
	}
	var request gen.SessionRequest
	if c.ID != "" {
		id, err := sessionID(c.ID)
		if err != nil {
			return err
		}
		request.SessionID.SetTo(id)
	}
	if c.TTL > 0 {
		request.TTLMs.SetTo(c.TTL.Milliseconds())
	}
	if c.MaxTurns > 0 {
		request.MaxTurns.SetTo(c.MaxTurns)
	}
	var budget gen.Budget
	if c.Tokens > 0 {
		budget.Tokens.SetTo(c.Tokens)
	}
	if c.Time > 0 {
		budget.TimeMs.SetTo(c.Time.Milliseconds())
	}
	if c.Cost > 0 {
		budget.Cost.SetTo(c.Cost)
	}
	if budget != (gen.Budget{}) {
		request.Budget.SetTo(budget)
	}
	s, err := a.client.CreateSession(a.ctx, &request)
	if err != nil {
		return err
	}
	return a.session(s)
}

type sessionDeleteCmd struct {
	ID string `arg:"" help:"The session's id, a UUID."`
}

// Run evicts a session.
func (c *sessionDeleteCmd) Run(a *app) error {
	id, err := sessionID(c.ID)
	if err != nil {
		return err
	}
	if err := a.client.DeleteSession(a.ctx, id); err != nil {
		return err
	}
	if a.json {
		return a.printJSON(map[string]any{"session_id": id, "deleted": true})
	}
	fmt.Fprintf(a.out, "deleted session %s\n", uuid.UUID(id))
	return nil
}

func sessionID(text string) (gen.SessionID, error) {
	id, err := uuid.Parse(text)
	if err != nil {
		return gen.SessionID{}, usagef("%q is no session id: give a UUID, such as `uuidgen` makes", text)
	}
	return gen.SessionID(id), nil
}

// session prints a session.
func (a *app) session(s *gen.Session) error {
	if a.json {
		return a.printJSON(s)
	}
	rows := [][]string{
		{"session", uuid.UUID(s.SessionID).String()},
		{"begun", s.CreatedAt.Local().Format(timeLayout)},
		{"turns", fmt.Sprintf("%d of %d", s.Turns, s.MaxTurns)},
		{"time left", duration(s.TTLRemainingMs)},
		{"pool", string(s.PoolID.Or(""))},
		{"replica", s.ReplicaID.Or("")},
		{"KV warm", yesNo(s.KvWarmth)},
	}
	if n, ok := s.KvBytes.Get(); ok {
		rows = append(rows, []string{"KV size", fmt.Sprintf("%d KiB", n>>10)})
	}
	if n, ok := s.BudgetTokensRemaining.Get(); ok {
		rows = append(rows, []string{"tokens left", strconv.FormatInt(n, 10)})
	}
	if n, ok := s.BudgetTimeRemainingMs.Get(); ok {
		rows = append(rows, []string{"decode time left", duration(n)})
	}
	if x, ok := s.BudgetCostRemaining.Get(); ok {
		rows = append(rows, []string{"cost left", strconv.FormatFloat(x, 'g', -1, 64)})
	}
	return a.table(rows)
}
