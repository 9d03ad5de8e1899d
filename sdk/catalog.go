// SPDX-License-Identifier: GPL-3.0-or-later

package sdk

import (
	"context"
	"time"

	"github.com/llama-orch/llama-orch/gen"
)

// modelPoll is the time between two looks at a model during its fetch.
const modelPoll = 500 * time.Millisecond

// AddModel adds a model to the server's catalog (ORCH-3060). If the model is not there within the request's WaitMs, its state is Fetching, and
// WaitModel follows it. The same request again gets the same entry.
func (c *Client) AddModel(ctx context.Context, request *ModelRequest) (*Model, error) {
	body, err := bodyOf[gen.ModelRequest](request)
	if err != nil {
		return nil, err
	}
	return ask[Model, gen.Model](ctx, c, post(body, "v1", "catalog", "models").waits())
}

// WaitModel looks at a model twice a second until it is no longer Fetching. After each look it calls seen, unless that is nil. If the fetch
// failed, it returns an Error with the reason and a Status of 0.
func (c *Client) WaitModel(ctx context.Context, id string, seen func(*Model)) (*Model, error) {
	for {
		m, err := c.Model(ctx, id)
		if err != nil {
			return nil, err
		}
		if seen != nil {
			seen(m)
		}
		switch m.State {
		case ModelStateFetching:
		case ModelStateFailed:
			p := m.Problem
			if p == nil {
				p = &ModelProblem{Code: ErrorCodeInternal, Message: "the model could not be fetched"}
			}
			return nil, &Error{Code: p.Code, Message: p.Message}
		default:
			return m, nil
		}
		if err := c.sleep(ctx, modelPoll); err != nil {
			return nil, err
		}
	}
}

// Models lists the catalog by id: the models in this state, or all if it is empty.
func (c *Client) Models(ctx context.Context, state ModelState) ([]Model, error) {
	if err := holdSome[gen.ModelState]("state", string(state)); err != nil {
		return nil, err
	}
	list, err := ask[ModelList, gen.ModelList](ctx, c, get("v1", "catalog", "models").with("state", string(state)))
	if err != nil {
		return nil, err
	}
	return list.Models, nil
}

// Model returns one model of the catalog.
func (c *Client) Model(ctx context.Context, id string) (*Model, error) {
	if err := hold[gen.ModelID]("id", id); err != nil {
		return nil, err
	}
	return ask[Model, gen.Model](ctx, c, get("v1", "catalog", "models", id))
}

// VerifyModel has the server read all of a model's bytes. That can take minutes: bound it with the context. If the bytes are not what they should
// be, the answer says so; that is no error.
func (c *Client) VerifyModel(ctx context.Context, id string) (*Verification, error) {
	if err := hold[gen.ModelID]("id", id); err != nil {
		return nil, err
	}
	return ask[Verification, gen.Verification](ctx, c, post(nil, "v1", "catalog", "models", id, "verify").waits())
}

// RetireModel has the server refuse tasks for a model from now on. Running tasks may finish until the deadline, in whole milliseconds. Then the
// model's pools drain.
func (c *Client) RetireModel(ctx context.Context, id string, deadline time.Duration) (*Model, error) {
	return c.setModelState(ctx, id, map[string]any{"state": ModelStateRetired, "deadline_ms": deadline.Milliseconds()})
}

// ActivateModel takes a retirement back.
func (c *Client) ActivateModel(ctx context.Context, id string) (*Model, error) {
	return c.setModelState(ctx, id, map[string]any{"state": ModelStateActive})
}

func (c *Client) setModelState(ctx context.Context, id string, request any) (*Model, error) {
	if err := hold[gen.ModelID]("id", id); err != nil {
		return nil, err
	}
	body, err := bodyOf[gen.ModelStateRequest](request)
	if err != nil {
		return nil, err
	}
	return ask[Model, gen.Model](ctx, c, post(body, "v1", "catalog", "models", id, "state"))
}

// DeleteModel removes a model and what was fetched of it. The Error is CONFLICT if a pool uses the model.
func (c *Client) DeleteModel(ctx context.Context, id string) error {
	if err := hold[gen.ModelID]("id", id); err != nil {
		return err
	}
	return c.tell(ctx, remove("v1", "catalog", "models", id).waits())
}

// Engines lists the engines that the server has prepared (OC-CAT-56).
func (c *Client) Engines(ctx context.Context) ([]PreparedEngine, error) {
	list, err := ask[EngineList, gen.EngineList](ctx, c, get("v1", "catalog", "engines"))
	if err != nil {
		return nil, err
	}
	return list.Engines, nil
}
