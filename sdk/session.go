// SPDX-License-Identifier: GPL-3.0-or-later

package sdk

import (
	"context"

	"github.com/llama-orch/llama-orch/gen"
)

// CreateSession begins a session with limits of its own (ORCH-3021, ORCH-3099). Only such a session needs it: a task that names a new session id
// begins that session too. The Error is CONFLICT if the id is in use.
func (c *Client) CreateSession(ctx context.Context, request *SessionRequest) (*Session, error) {
	if request.SessionID != "" {
		if err := holdSession("session_id", request.SessionID); err != nil {
			return nil, err
		}
	}
	body, err := bodyOf[gen.SessionRequest](request)
	if err != nil {
		return nil, err
	}
	return ask[Session, gen.Session](ctx, c, post(body, "v1", "sessions"))
}

// Session returns a session: its turns, what is left of its time and budgets, and whether its KV is still where its last turn ran.
func (c *Client) Session(ctx context.Context, id string) (*Session, error) {
	if err := holdSession("id", id); err != nil {
		return nil, err
	}
	return ask[Session, gen.Session](ctx, c, get("v1", "sessions", id))
}

// DeleteSession evicts a session and erases its KV. The Error is CONFLICT while a turn of the session runs.
func (c *Client) DeleteSession(ctx context.Context, id string) error {
	if err := holdSession("id", id); err != nil {
		return err
	}
	return c.tell(ctx, remove("v1", "sessions", id))
}
