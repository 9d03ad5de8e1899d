// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/gen"
)

const aSession = "3f8a1c9e-54b7-4d5a-9d0b-7a2f6f1c2e10"

func (d *daemon) CreateSession(_ context.Context, r *gen.SessionRequest) (*gen.SessionHeaders, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.session = r
	if d.refuse != nil {
		return nil, d.refuse
	}
	return &gen.SessionHeaders{Location: "/v1/sessions/" + aSession, Response: gen.Session{
		SessionID: gen.SessionID(uuid.MustParse(aSession)), MaxTurns: 8, TTLRemainingMs: 600000, CreatedAt: time.Unix(0, 0),
	}}, nil
}

func (d *daemon) GetSession(_ context.Context, p gen.GetSessionParams) (*gen.GetSessionOKHeaders, error) {
	return &gen.GetSessionOKHeaders{Response: gen.Session{
		SessionID: p.ID, Turns: 2, MaxTurns: 8, TTLRemainingMs: 61000, KvWarmth: true, KvBytes: gen.NewOptInt64(8192), CreatedAt: time.Unix(0, 0),
		PoolID: gen.NewOptPoolID("default"), ReplicaID: gen.NewOptString("default-1"), BudgetTokensRemaining: gen.NewOptInt64(340),
		BudgetTimeRemainingMs: gen.NewOptInt64(1500), BudgetCostRemaining: gen.NewOptFloat64(0.25), BudgetJoulesRemaining: gen.NewOptFloat64(90.5),
	}}, nil
}

func (d *daemon) DeleteSession(context.Context, gen.DeleteSessionParams) (*gen.Done, error) {
	if d.refuse != nil {
		return nil, d.refuse
	}
	return &gen.Done{}, nil
}

// ORCH-3021, ORCH-3099
func TestSessionCommands(t *testing.T) {
	t.Parallel()
	d := newDaemon()
	addr := d.serve(t)
	got := call(t.Context(), addr, "", "session", "show", aSession)
	require.Zero(t, got.code, got.err)
	for _, want := range []string{
		"turns             2 of 8\n", "time left         1m1s\n", "replica           default-1\n", "KV warm           yes\n", "KV size           8 KiB\n",
		"tokens left       340\n", "decode time left  1.5 s\n", "cost left         0.25\n", "energy left       90.5 J\n",
	} {
		require.Contains(t, got.out, want)
	}
	require.Zero(t, call(t.Context(), addr, "", "session", "create").code)
	require.Equal(t, &gen.SessionRequest{}, d.session)
	got = call(t.Context(), addr, "", "session", "create", "--id", aSession, "--ttl", "1h", "--max-turns", "4", "--tokens", "100", "--time", "90s", "--cost", "0.5", "--joules", "1500")
	require.Zero(t, got.code, got.err)
	require.Equal(t, &gen.SessionRequest{
		SessionID: gen.NewOptSessionID(gen.SessionID(uuid.MustParse(aSession))), TTLMs: gen.NewOptInt64(3600000), MaxTurns: gen.NewOptInt(4),
		Budget: gen.NewOptBudget(gen.Budget{Tokens: gen.NewOptInt64(100), TimeMs: gen.NewOptInt64(90000), Cost: gen.NewOptFloat64(0.5), Joules: gen.NewOptFloat64(1500)}),
	}, d.session)
	require.Equal(t, "deleted session "+aSession+"\n", call(t.Context(), addr, "", "session", "delete", aSession).out)
	require.JSONEq(t, `{"session_id":"`+aSession+`","deleted":true}`, call(t.Context(), addr, "", "--json", "session", "delete", aSession).out)

	for _, args := range [][]string{
		{"session"},
		{"session", "show"},
		{"session", "show", "7"},
		{"session", "delete", "7"},
		{"session", "create", "--tokens=-1"},
		{"session", "create", "--joules=-1"},
		{"session", "create", "--ttl", "soon"},
		{"session", "create", "--id", "7"},
		{"run", "x", "-m", "haiku", "--session", "7"},
	} {
		require.Equal(t, exitUsage, call(t.Context(), addr, "", args...).code, args)
	}
	d.refuse = refusal(409, gen.ErrorCodeCONFLICT)
	require.Equal(t, exitFailed, call(t.Context(), addr, "", "session", "delete", aSession).code)
}

// If a budget has run out, that is a refusal for now, with the time to wait.
// ORCH-3099
func TestBudgetThatRanOut(t *testing.T) {
	t.Parallel()
	d := newDaemon()
	d.refuse = refusal(429, gen.ErrorCodeBUDGETEXCEEDED)
	got := call(t.Context(), d.serve(t), "", "run", "x", "-m", "haiku", "--session", aSession)
	require.Equal(t, exitRefused, got.code)
	require.Contains(t, got.err, "error: not so (BUDGET_EXCEEDED)\nretry: in 1.2 s\n")
	require.Equal(t, gen.NewOptSessionID(gen.SessionID(uuid.MustParse(aSession))), d.request.SessionID)
}
