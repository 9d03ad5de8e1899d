// SPDX-License-Identifier: GPL-3.0-or-later

package sdk

import (
	"context"
	"fmt"
	"time"

	"github.com/llama-orch/llama-orch/gen"
)

// Pools returns the pools in the order of the server's configuration.
func (c *Client) Pools(ctx context.Context) ([]Pool, error) {
	list, err := ask[PoolList, gen.PoolList](ctx, c, get("v1", "pools"))
	if err != nil {
		return nil, err
	}
	return list.Pools, nil
}

// PoolHealth returns a pool with its replicas and GPUs.
func (c *Client) PoolHealth(ctx context.Context, id string) (*PoolHealth, error) {
	if err := hold[gen.PoolID]("id", id); err != nil {
		return nil, err
	}
	return ask[PoolHealth, gen.PoolHealth](ctx, c, get("v1", "pools", id, "health"))
}

// Drain has a pool take no more tasks from its queue (ORCH-2101). It returns at once. Tasks that still run at the deadline, in whole
// milliseconds, wait in line again. Resume, or a Reload, brings the pool back.
func (c *Client) Drain(ctx context.Context, pool string, deadline time.Duration) (*DrainStatus, error) {
	body, err := bodyOf[gen.DrainRequest](map[string]any{"deadline_ms": deadline.Milliseconds()})
	if err != nil {
		return nil, err
	}
	return order[DrainStatus, gen.DrainStatus](ctx, c, pool, "drain", body)
}

// Resume ends a drain (LO-842). It returns at once. The Error is MODEL_DEPRECATED if the pool's model was retired.
func (c *Client) Resume(ctx context.Context, pool string) (*PoolStanding, error) {
	return order[PoolStanding, gen.PoolStanding](ctx, c, pool, "resume", nil)
}

// Load loads a pool on demand, and has a pool that failed try again (LO-842). It returns at once. The Error is CONFLICT for a pool that is
// drained.
func (c *Client) Load(ctx context.Context, pool string) (*PoolStanding, error) {
	return order[PoolStanding, gen.PoolStanding](ctx, c, pool, "load", nil)
}

// Unload lets the workers of a pool on demand go once what they run has ended (LO-842). It returns at once. The Error is CONFLICT for a
// pinned pool.
func (c *Client) Unload(ctx context.Context, pool string) (*PoolStanding, error) {
	return order[PoolStanding, gen.PoolStanding](ctx, c, pool, "unload", nil)
}

// Reload swaps a pool's model and returns once the new one serves. That can take minutes: bound it with the context. After any error of the
// server the old model serves (ORCH-2101). The Error is CONFLICT during another reload. The ref has the form of the server's
// configuration: `file:` is relative to its folder.
func (c *Client) Reload(ctx context.Context, pool, modelRef string) (*ReloadResult, error) {
	body, err := bodyOf[gen.ReloadRequest](map[string]any{"new_model_ref": modelRef})
	if err != nil {
		return nil, err
	}
	return order[ReloadResult, gen.ReloadResult](ctx, c, pool, "reload", body)
}

// order tells a pool to do something. All but a reload answer at once.
func order[Plain, Gen any, P shape[Gen]](ctx context.Context, c *Client, pool, what string, body []byte) (*Plain, error) {
	if err := hold[gen.PoolID]("id", pool); err != nil {
		return nil, err
	}
	o := post(body, "v1", "pools", pool, what)
	o.patient = what == "reload"
	return ask[Plain, Gen, P](ctx, c, o)
}

// GPUs returns the server's GPUs and who holds their memory (LO-501). If none can be used, Problem says why.
func (c *Client) GPUs(ctx context.Context) (*GPUList, error) {
	return ask[GPUList, gen.GPUList](ctx, c, get("v1", "gpus"))
}

// Hosts returns the servers that share the record of tasks, and what each of them holds (LO-712).
func (c *Client) Hosts(ctx context.Context) ([]Host, error) {
	list, err := ask[HostList, gen.HostList](ctx, c, get("v1", "hosts"))
	if err != nil {
		return nil, err
	}
	return list.Hosts, nil
}

// Explain says where a task would run, and why (LO-502). It is a dry run and changes nothing.
func (c *Client) Explain(ctx context.Context, request *ExplainRequest) (*Explanation, error) {
	if request.SessionID != "" {
		if err := holdSession("session_id", request.SessionID); err != nil {
			return nil, err
		}
	}
	body, err := bodyOf[gen.ExplainRequest](request)
	if err != nil {
		return nil, err
	}
	return ask[Explanation, gen.Explanation](ctx, c, post(body, "v1", "placement", "explain"))
}

// Capabilities says what the server can do (ORCH-3095).
func (c *Client) Capabilities(ctx context.Context) (*Capabilities, error) {
	return ask[Capabilities, gen.Capabilities](ctx, c, get("v1", "capabilities"))
}

// Fingerprint returns what a fingerprint stands for (LO-942). The Error is NOT_FOUND where the server does not keep it any more.
func (c *Client) Fingerprint(ctx context.Context, id string) (*Fingerprint, error) {
	if err := hold[gen.FingerprintID]("id", id); err != nil {
		return nil, err
	}
	return ask[Fingerprint, gen.Fingerprint](ctx, c, get("v1", "fingerprints", id))
}

// ReloadConfig has the server read its configuration again. An invalid file changes nothing, and the Error says where the file is wrong.
func (c *Client) ReloadConfig(ctx context.Context) (*ConfigReloadResult, error) {
	return ask[ConfigReloadResult, gen.ConfigReloadResult](ctx, c, post(nil, "v1", "config", "reload").waits())
}

// Health returns no error while at least one pool can serve a task, and otherwise the Error POOL_UNREADY, with its reasons.
func (c *Client) Health(ctx context.Context) (*Health, error) {
	return ask[Health, gen.Health](ctx, c, get("readyz"))
}

// Alive returns no error while the server's process turns, whether or not it can serve a task.
func (c *Client) Alive(ctx context.Context) (*Health, error) {
	return ask[Health, gen.Health](ctx, c, get("healthz"))
}

// Figures returns the server's metrics, in the text form of Prometheus.
func (c *Client) Figures(ctx context.Context) ([]byte, error) {
	response, err := c.send(ctx, get("metrics"))
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if kind := mediaType(response); kind != "text/plain" {
		return nil, &ProtocolError{Err: fmt.Errorf("the answer is of the type %.80q, and not of Prometheus", kind)}
	}
	return c.read(ctx, response)
}
