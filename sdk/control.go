// SPDX-License-Identifier: GPL-3.0-or-later

package sdk

import (
	"context"
	"time"

	"github.com/llama-orch/llama-orch/gen"
)

// Drain has a pool take no more tasks from its queue (ORCH-2101). It returns at once. Tasks that still run at the deadline, in whole
// milliseconds, wait in line again. Resume, or a Reload, brings the pool back.
func (c *Client) Drain(ctx context.Context, pool string, deadline time.Duration) (*gen.DrainStatus, error) {
	answer, err := c.api.DrainPool(ctx, &gen.DrainRequest{DeadlineMs: deadline.Milliseconds()}, gen.DrainPoolParams{ID: gen.PoolID(pool)})
	if err != nil {
		return nil, typed(ctx, err)
	}
	return &answer.Response, nil
}

// Resume ends a drain (LO-842). It returns at once. The Error is MODEL_DEPRECATED if the pool's model was retired.
func (c *Client) Resume(ctx context.Context, pool string) (*gen.PoolStanding, error) {
	answer, err := c.api.ResumePool(ctx, gen.ResumePoolParams{ID: gen.PoolID(pool)})
	if err != nil {
		return nil, typed(ctx, err)
	}
	return &answer.Response, nil
}

// Load loads a pool on demand, and has a pool that failed try again (LO-842). It returns at once. The Error is CONFLICT for a pool that is
// drained.
func (c *Client) Load(ctx context.Context, pool string) (*gen.PoolStanding, error) {
	answer, err := c.api.LoadPool(ctx, gen.LoadPoolParams{ID: gen.PoolID(pool)})
	if err != nil {
		return nil, typed(ctx, err)
	}
	return &answer.Response, nil
}

// Unload lets the workers of a pool on demand go once what they run has ended (LO-842). It returns at once. The Error is CONFLICT for a
// pinned pool.
func (c *Client) Unload(ctx context.Context, pool string) (*gen.PoolStanding, error) {
	answer, err := c.api.UnloadPool(ctx, gen.UnloadPoolParams{ID: gen.PoolID(pool)})
	if err != nil {
		return nil, typed(ctx, err)
	}
	return &answer.Response, nil
}

// Reload swaps a pool's model and returns once the new one serves. That can take minutes: bound it with the context. After any error of the
// server the old model serves (ORCH-2101). The Error is CONFLICT during another reload. The ref has the form of the server's
// configuration: `file:` is relative to its folder.
func (c *Client) Reload(ctx context.Context, pool, modelRef string) (*gen.ReloadResult, error) {
	answer, err := c.waiting.ReloadPool(ctx, &gen.ReloadRequest{NewModelRef: modelRef}, gen.ReloadPoolParams{ID: gen.PoolID(pool)})
	if err != nil {
		return nil, typed(ctx, err)
	}
	return &answer.Response, nil
}

// GPUs returns the server's GPUs and who holds their memory (LO-501). If none can be used, Problem says why.
func (c *Client) GPUs(ctx context.Context) (*gen.GPUList, error) {
	answer, err := c.api.ListGpus(ctx)
	if err != nil {
		return nil, typed(ctx, err)
	}
	return &answer.Response, nil
}

// Explain says where a task would run, and why (LO-502). It is a dry run and changes nothing.
func (c *Client) Explain(ctx context.Context, request *gen.ExplainRequest) (*gen.Explanation, error) {
	answer, err := c.api.ExplainPlacement(ctx, request)
	if err != nil {
		return nil, typed(ctx, err)
	}
	return &answer.Response, nil
}

// ReloadConfig has the server read its configuration again. An invalid file changes nothing, and the Error says where the file is wrong.
func (c *Client) ReloadConfig(ctx context.Context) (*gen.ConfigReloadResult, error) {
	answer, err := c.waiting.ReloadConfig(ctx)
	if err != nil {
		return nil, typed(ctx, err)
	}
	return &answer.Response, nil
}

// Health returns no error while at least one pool can serve a task, and otherwise the Error POOL_UNREADY.
func (c *Client) Health(ctx context.Context) (*gen.Health, error) {
	answer, err := c.api.GetReadiness(ctx)
	if err != nil {
		return nil, typed(ctx, err)
	}
	return &answer.Response, nil
}
