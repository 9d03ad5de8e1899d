// SPDX-License-Identifier: GPL-3.0-or-later

package api

import (
	"context"
	"math"
	"time"

	"github.com/google/uuid"

	"github.com/llama-orch/llama-orch/gen"
	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/task"
)

// CreateSession begins a session (ORCH-3021).
func (h sessions) CreateSession(ctx context.Context, req *gen.SessionRequest) (*gen.SessionHeaders, error) {
	r := task.SessionRequest{
		TTL: time.Duration(req.TTLMs.Or(0)) * time.Millisecond, MaxTurns: req.MaxTurns.Or(0), Actor: gate.CallFrom(ctx).Identity,
	}
	if id, ok := req.SessionID.Get(); ok {
		r.ID = uuid.UUID(id).String()
	}
	if b, ok := req.Budget.Get(); ok {
		r.Budget = task.Amount{
			Tokens: b.Tokens.Or(0), Time: time.Duration(b.TimeMs.Or(0)) * time.Millisecond, Cost: int64(math.Ceil(b.Cost.Or(0) * task.CostUnit)),
			Energy: int64(math.Ceil(b.Joules.Or(0) * task.Millijoules)),
		}
	}
	s, err := h.Sessions.Create(ctx, r)
	if err != nil {
		return nil, err
	}
	return &gen.SessionHeaders{
		Location:               "/v1/sessions/" + s.ID,
		XBudgetTokensRemaining: optInt(s.Rests.Tokens), XBudgetTimeRemainingMs: optInt(s.Rests.TimeMS), XBudgetCostRemaining: optFloat(s.Rests.Cost),
		XBudgetJoulesRemaining: optFloat(s.Rests.Joules),
		Response:               toSession(s),
	}, nil
}

// GetSession shows a session.
func (h sessions) GetSession(ctx context.Context, p gen.GetSessionParams) (*gen.GetSessionOKHeaders, error) {
	s, err := h.Sessions.Get(ctx, uuid.UUID(p.ID).String(), gate.CallFrom(ctx).Identity)
	if err != nil {
		return nil, err
	}
	return &gen.GetSessionOKHeaders{
		XBudgetTokensRemaining: optInt(s.Rests.Tokens), XBudgetTimeRemainingMs: optInt(s.Rests.TimeMS), XBudgetCostRemaining: optFloat(s.Rests.Cost),
		XBudgetJoulesRemaining: optFloat(s.Rests.Joules),
		Response:               toSession(s),
	}, nil
}

// DeleteSession evicts a session.
func (h sessions) DeleteSession(ctx context.Context, p gen.DeleteSessionParams) (*gen.Done, error) {
	if err := h.Sessions.Delete(ctx, uuid.UUID(p.ID).String()); err != nil {
		return nil, err
	}
	return &gen.Done{}, nil
}

func toSession(s task.SessionStatus) gen.Session {
	id, _ := uuid.Parse(s.ID) // it came from one
	out := gen.Session{
		SessionID: gen.SessionID(id), ReplicaID: optString(task.Clip(s.ReplicaID, maxName)), Turns: s.Turns, MaxTurns: s.MaxTurns,
		TTLRemainingMs: millis(s.TTLLeft), KvWarmth: s.Warm, CreatedAt: s.CreatedAt.UTC(),
		BudgetTokensRemaining: optInt(s.Rests.Tokens), BudgetTimeRemainingMs: optInt(s.Rests.TimeMS), BudgetCostRemaining: optFloat(s.Rests.Cost),
		BudgetJoulesRemaining: optFloat(s.Rests.Joules),
	}
	if s.PoolID != "" {
		out.PoolID = gen.NewOptPoolID(gen.PoolID(s.PoolID))
	}
	if s.KVBytes > 0 {
		out.KvBytes = gen.NewOptInt64(s.KVBytes)
	}
	return out
}

func optInt(r task.Rest[int64]) gen.OptInt64 {
	if !r.Bounded {
		return gen.OptInt64{}
	}
	return gen.NewOptInt64(r.Left)
}

func optFloat(r task.Rest[float64]) gen.OptFloat64 {
	if !r.Bounded {
		return gen.OptFloat64{}
	}
	return gen.NewOptFloat64(r.Left)
}
