// SPDX-License-Identifier: GPL-3.0-or-later

package sdk

import (
	"context"

	"github.com/llama-orch/llama-orch/gen"
)

// CreateSession begins a session with limits of its own (ORCH-3021, ORCH-3099). Only such a session needs it: a task that names a new session id
// begins that session too. The Error is CONFLICT if the id is in use.
func (c *Client) CreateSession(ctx context.Context, request *gen.SessionRequest) (*gen.Session, error) {
	answer, err := c.api.CreateSession(ctx, request)
	if err != nil {
		return nil, typed(ctx, err)
	}
	return &answer.Response, nil
}

// Session returns a session: its turns, what is left of its time and budgets, and whether its KV is still where its last turn ran.
func (c *Client) Session(ctx context.Context, id gen.SessionID) (*gen.Session, error) {
	answer, err := c.api.GetSession(ctx, gen.GetSessionParams{ID: id})
	if err != nil {
		return nil, typed(ctx, err)
	}
	return &answer.Response, nil
}

// DeleteSession evicts a session and erases its KV. The Error is CONFLICT while a turn of the session runs.
func (c *Client) DeleteSession(ctx context.Context, id gen.SessionID) error {
	if _, err := c.api.DeleteSession(ctx, gen.DeleteSessionParams{ID: id}); err != nil {
		return typed(ctx, err)
	}
	return nil
}
