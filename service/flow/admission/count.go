// SPDX-License-Identifier: GPL-3.0-or-later

package admission

import (
	"context"
	"time"

	"github.com/llama-orch/llama-orch/service/task"
)

// countsAtOnce bounds how many counts ask the engines at a time. Agents send them by the dozen, and they share processors with decoding.
const countsAtOnce = 2

// loadedSoon is when a client may ask again about a model that is not loaded.
const loadedSoon = 5 * time.Second

// Counter counts the tokens of requests that are not to become tasks (LO-422).
type Counter struct {
	desk  *Desk
	turns chan struct{}
}

// NewCounter makes a counter that routes and reads requests as the desk does.
func NewCounter(d *Desk) *Counter {
	return &Counter{desk: d, turns: make(chan struct{}, countsAtOnce)}
}

// Count counts the tokens of the prompt that the request's task would have: by the template and the tokenizer of the pool that it would go
// to. It loads no model: where none is loaded, it refuses.
func (c *Counter) Count(ctx context.Context, req task.Request) (int, error) {
	d := c.desk
	if err := Check(req, d.o.Limits); err != nil {
		return 0, err
	}
	req, pool, _, err := d.choose(req)
	if err != nil {
		return 0, err
	}
	if !pool.Faces.CountsTokens || len(req.Messages) > 0 && !pool.Faces.Templates {
		return 0, task.Errorf(task.InvalidParams, "the engine of pool '%s' cannot count the tokens of a prompt: send the request itself", pool.ID)
	}
	select {
	case c.turns <- struct{}{}:
		defer func() { <-c.turns }()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	req.MaxTokens = 0 // so that the tokens are counted, however short the prompt is
	f := Facts{Pool: pool}
	if err := d.read(ctx, req, &f); err != nil {
		return 0, err
	}
	if f.Unread {
		return 0, task.Errorf(task.PoolUnready, "the model of pool '%s' is not loaded, and only it can count tokens: a task for it has it loaded", pool.ID).
			Retry(loadedSoon)
	}
	return f.PromptTokens, nil
}
