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
func (c *Client) AddModel(ctx context.Context, request *gen.ModelRequest) (*gen.Model, error) {
	answer, err := c.waiting.CreateModel(ctx, request)
	if err != nil {
		return nil, typed(ctx, err)
	}
	return &answer.Response, nil
}

// WaitModel looks at a model twice a second until it is no longer Fetching. After each look it calls seen, unless that is nil. If the fetch
// failed, it returns an Error with the reason and a Status of 0.
func (c *Client) WaitModel(ctx context.Context, id string, seen func(*gen.Model)) (*gen.Model, error) {
	for {
		m, err := c.Model(ctx, id)
		if err != nil {
			return nil, err
		}
		if seen != nil {
			seen(m)
		}
		switch m.State {
		case gen.ModelStateFetching:
		case gen.ModelStateFailed:
			p := m.Problem.Or(gen.ModelProblem{Code: gen.ErrorCodeINTERNAL, Message: "the model could not be fetched"})
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
func (c *Client) Models(ctx context.Context, state gen.ModelState) ([]gen.Model, error) {
	var params gen.ListModelsParams
	if state != "" {
		params.State.SetTo(state)
	}
	answer, err := c.api.ListModels(ctx, params)
	if err != nil {
		return nil, typed(ctx, err)
	}
	return answer.Response.Models, nil
}

// Model returns one model of the catalog.
func (c *Client) Model(ctx context.Context, id string) (*gen.Model, error) {
	answer, err := c.api.GetModel(ctx, gen.GetModelParams{ID: gen.ModelID(id)})
	if err != nil {
		return nil, typed(ctx, err)
	}
	return &answer.Response, nil
}

// VerifyModel has the server read all of a model's bytes. That can take minutes: bound it with the context. If the bytes are not what they should
// be, the answer says so; that is no error.
func (c *Client) VerifyModel(ctx context.Context, id string) (*gen.Verification, error) {
	answer, err := c.waiting.VerifyModel(ctx, gen.VerifyModelParams{ID: gen.ModelID(id)})
	if err != nil {
		return nil, typed(ctx, err)
	}
	return &answer.Response, nil
}

// RetireModel has the server refuse tasks for a model from now on. Running tasks may finish until the deadline, in whole milliseconds. Then the
// model's pools drain.
func (c *Client) RetireModel(ctx context.Context, id string, deadline time.Duration) (*gen.Model, error) {
	return c.setModelState(ctx, id, &gen.ModelStateRequest{State: gen.ModelStateRequestStateRetired, DeadlineMs: gen.NewOptInt64(deadline.Milliseconds())})
}

// ActivateModel takes a retirement back.
func (c *Client) ActivateModel(ctx context.Context, id string) (*gen.Model, error) {
	return c.setModelState(ctx, id, &gen.ModelStateRequest{State: gen.ModelStateRequestStateActive})
}

func (c *Client) setModelState(ctx context.Context, id string, request *gen.ModelStateRequest) (*gen.Model, error) {
	answer, err := c.api.SetModelState(ctx, request, gen.SetModelStateParams{ID: gen.ModelID(id)})
	if err != nil {
		return nil, typed(ctx, err)
	}
	return &answer.Response, nil
}

// DeleteModel removes a model and what was fetched of it. The Error is CONFLICT if a pool uses the model.
func (c *Client) DeleteModel(ctx context.Context, id string) error {
	_, err := c.waiting.DeleteModel(ctx, gen.DeleteModelParams{ID: gen.ModelID(id)})
	if err != nil {
		return typed(ctx, err)
	}
	return nil
}

// Engines lists the engines that the server has prepared (OC-CAT-56).
func (c *Client) Engines(ctx context.Context) ([]gen.PreparedEngine, error) {
	answer, err := c.api.ListEngines(ctx)
	if err != nil {
		return nil, typed(ctx, err)
	}
	return answer.Response.Engines, nil
}
