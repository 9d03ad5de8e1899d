// SPDX-License-Identifier: GPL-3.0-or-later

package sdk

import (
	"context"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/gen"
)

const sessionID = "3f8a1c9e-54b7-4d5a-9d0b-7a2f6f1c2e10"

// sessions implements the operations of sessions.
type sessions struct {
	fake
	created *gen.SessionRequest
	busy    bool
}

func (s *sessions) CreateSession(_ context.Context, r *gen.SessionRequest) (*gen.SessionHeaders, error) {
	s.created = r
	return &gen.SessionHeaders{Location: "/v1/sessions/x", Response: gen.Session{SessionID: gen.SessionID(uuid.MustParse(sessionID)), MaxTurns: r.MaxTurns.Or(8)}}, nil
}

func (s *sessions) GetSession(_ context.Context, p gen.GetSessionParams) (*gen.GetSessionOKHeaders, error) {
	return &gen.GetSessionOKHeaders{Response: gen.Session{SessionID: p.ID, Turns: 2, MaxTurns: 8, KvWarmth: true, KvBytes: gen.NewOptInt64(4096)}}, nil
}

func (s *sessions) DeleteSession(context.Context, gen.DeleteSessionParams) (*gen.Done, error) {
	if s.busy {
		return nil, &gen.ErrorStatusCodeWithHeaders{StatusCode: 409, Response: gen.Error{Code: gen.ErrorCodeCONFLICT, Message: "a turn is on", Retriable: true}}
	}
	return &gen.Done{}, nil
}

// ORCH-3021, ORCH-3099
func TestSessions(t *testing.T) {
	f := &sessions{}
	h, err := gen.NewServer(f, f)
	require.NoError(t, err)
	c, _ := setup(t, h)
	made, err := c.CreateSession(t.Context(), &SessionRequest{SessionID: sessionID, TTLMS: 60000, MaxTurns: 3, Budget: &Budget{Tokens: 100, Cost: 0.5}})
	require.NoError(t, err)
	require.Equal(t, 3, made.MaxTurns)
	require.Equal(t, &gen.SessionRequest{
		SessionID: gen.NewOptSessionID(gen.SessionID(uuid.MustParse(sessionID))), TTLMs: gen.NewOptInt64(60000), MaxTurns: gen.NewOptInt(3),
		Budget: gen.NewOptBudget(gen.Budget{Tokens: gen.NewOptInt64(100), Cost: gen.NewOptFloat64(0.5)}),
	}, f.created)
	shown, err := c.Session(t.Context(), sessionID)
	require.NoError(t, err)
	require.Equal(t, sessionID, shown.SessionID)
	require.True(t, shown.KVWarmth)
	require.NoError(t, c.DeleteSession(t.Context(), sessionID))
	f.busy = true
	var refused *Error
	require.ErrorAs(t, c.DeleteSession(t.Context(), sessionID), &refused)
	require.Equal(t, ErrorCodeConflict, refused.Code)
	require.True(t, refused.Retriable)
}
