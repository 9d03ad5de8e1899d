// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/llama-orch/llama-orch/sdk"
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
	Joules   float64       `placeholder:"J" help:"Budget of joules that cards take (default: the server's)."`
}

// Run begins a session. The server chooses what was not given.
func (c *sessionCreateCmd) Run(a *app) error {
	if c.TTL < 0 || c.MaxTurns < 0 || c.Tokens < 0 || c.Time < 0 || c.Cost < 0 || c.Joules < 0 {
		return usagef("limits must be above 0; leave out a limit that the server should choose")
	}
	request := sdk.SessionRequest{TTLMS: c.TTL.Milliseconds(), MaxTurns: c.MaxTurns}
	if c.ID != "" {
		id, err := sessionID(c.ID)
		if err != nil {
			return err
		}
		request.SessionID = id
	}
	if budget := (sdk.Budget{Tokens: c.Tokens, TimeMS: c.Time.Milliseconds(), Cost: c.Cost, Joules: c.Joules}); budget != (sdk.Budget{}) {
		request.Budget = &budget
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
	fmt.Fprintf(a.out, "deleted session %s\n", id)
	return nil
}

func sessionID(text string) (string, error) {
	id, err := uuid.Parse(text)
	if err != nil {
		return "", usagef("%q is no session id: give a UUID, such as `uuidgen` makes", text)
	}
	return id.String(), nil
}

// session prints a session.
func (a *app) session(s *sdk.Session) error {
	if a.json {
		return a.printJSON(s)
	}
	rows := [][]string{
		{"session", s.SessionID},
		{"begun", s.CreatedAt.Local().Format(timeLayout)},
		{"turns", fmt.Sprintf("%d of %d", s.Turns, s.MaxTurns)},
		{"time left", duration(s.TTLRemainingMS)},
		{"pool", s.PoolID},
		{"replica", s.ReplicaID},
		{"KV warm", yesNo(s.KVWarmth)},
	}
	if s.KVBytes != nil {
		rows = append(rows, []string{"KV size", fmt.Sprintf("%d KiB", *s.KVBytes>>10)})
	}
	if s.BudgetTokensRemaining != nil {
		rows = append(rows, []string{"tokens left", strconv.FormatInt(*s.BudgetTokensRemaining, 10)})
	}
	if s.BudgetTimeRemainingMS != nil {
		rows = append(rows, []string{"decode time left", duration(*s.BudgetTimeRemainingMS)})
	}
	if s.BudgetCostRemaining != nil {
		rows = append(rows, []string{"cost left", strconv.FormatFloat(*s.BudgetCostRemaining, 'g', -1, 64)})
	}
	if s.BudgetJoulesRemaining != nil {
		rows = append(rows, []string{"energy left", joules(*s.BudgetJoulesRemaining)})
	}
	return a.table(rows)
}
