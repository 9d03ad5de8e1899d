// SPDX-License-Identifier: GPL-3.0-or-later

// Package admission decides whether a task is accepted. It resolves everything that the task's bytes depend on: the prompt after
// templating, the sampling parameters, the seed. Check and Decide are pure functions; Desk asks the pools for what those must know.
package admission

import (
	"time"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/flow/placement"
	"github.com/llama-orch/llama-orch/service/task"
)

// Pool is what admission knows of a pool. Routing knows the embedded part of it.
type Pool struct {
	placement.Pool
	EngineVersion string
	Sampling      task.Sampling // the pool's sampler profile
	Faces         engine.Faces  // of its engines
	Rules         Rules         // what it changes in requests
}

// Facts are what Decide judges a request by, besides the request.
type Facts struct {
	ID           string // of the task
	Seed         uint32 // for a request that names no seed
	Pool         Pool
	Routing      placement.Routing
	Prompt       string // after templating
	PromptTokens int    // 0: nobody counted them, since they fit in any case
	// Unread says that the pool's model is not loaded, so nobody could template the messages or count the tokens. That is done when
	// the task runs (LO-503).
	Unread bool
}

// Limits bound what one request may bring.
type Limits struct {
	PromptBytes int // of the prompt, or of all messages or inputs together
	Inputs      int // inputs, or messages
}

// Check refuses a request that is too large, or whose fields contradict each other. It does not depend on the pools (LO-102).
func Check(req task.Request, l Limits) error {
	if n := max(len(req.Inputs), len(req.Messages)); n > l.Inputs {
		return task.Errorf(task.TooLarge, "%d inputs or messages are more than the %d allowed: send several tasks, or raise limits.inputs", n, l.Inputs)
	}
	size := len(req.Prompt)
	for _, m := range req.Messages {
		size += m.Bytes()
	}
	for _, in := range req.Inputs {
		size += len(in)
	}
	if size > l.PromptBytes {
		return task.Errorf(task.TooLarge, "a prompt of %d bytes is larger than the %d allowed: shorten it, or raise limits.prompt_bytes", size, l.PromptBytes)
	}
	switch req.Workload {
	case task.Opaque:
		return task.Errorf(task.InvalidParams, "an opaque request is no task of this API: send it to its own path")
	case task.Completion:
		if (req.Prompt == "") == (len(req.Messages) == 0) {
			return task.Errorf(task.InvalidParams, "a completion takes either `prompt` or `messages`: send exactly one of them")
		}
		if len(req.Inputs) > 0 {
			return task.Errorf(task.InvalidParams, "a completion takes no `inputs`: leave them out, or set `workload` to embedding or rerank")
		}
	case task.Embedding:
		if (req.Prompt == "") == (len(req.Inputs) == 0) || len(req.Messages) > 0 {
			return task.Errorf(task.InvalidParams, "an embedding takes `inputs`, or one text as `prompt`, and nothing else")
		}
	case task.Rerank:
		if req.Prompt == "" || len(req.Inputs) == 0 || len(req.Messages) > 0 {
			return task.Errorf(task.InvalidParams, "a rerank takes the query as `prompt` and the documents as `inputs`")
		}
	}
	if mode := req.Placement.Mode; mode != task.Auto && req.Placement.PoolID == "" {
		return task.Errorf(task.InvalidParams, "`placement.mode` %s needs `placement.pool_id`", mode)
	}
	return checkChat(req)
}

// serves refuses a request that the pool's engine cannot run.
func serves(req task.Request, p Pool) error {
	if err := p.Faces.Refuse(req.Workload, len(req.Messages) > 0); err != nil {
		return err
	}
	return nil
}

// Decide accepts a request, or refuses it and says what to do (ORCH-3014).
func Decide(now time.Time, req task.Request, f Facts) (task.Task, error) {
	if req.AtMost && f.PromptTokens > 0 && f.Pool.Ctx > 0 && f.PromptTokens+req.MaxTokens > f.Pool.Ctx {
		req.MaxTokens = 0
	}
	if err := fits(req, f); err != nil {
		return task.Task{}, err
	}
	if err := inTime(req, f.Pool); err != nil {
		return task.Task{}, err
	}
	t := task.Task{
		ID: f.ID, Request: req, PoolID: f.Pool.ID, Engine: f.Pool.Engine, EngineVersion: f.Pool.EngineVersion, ModelID: f.Pool.ModelID,
		Prompt: f.Prompt, PromptTokens: f.PromptTokens, Seed: f.Seed, Sampling: resolve(f.Pool.Sampling, req.Params),
		Determinism: task.BestEffort, AcceptedAt: now, PinnedPool: f.Routing.Pinned, Fallback: f.Routing.Fallback,
	}
	if req.Seed != nil {
		t.Seed = *req.Seed
	}
	if req.Determinism != task.BestEffort && f.Pool.Strict {
		t.Determinism = task.Strict
	}
	if !f.Unread || len(req.Messages) == 0 {
		t.RequestDigest = t.Digest()
	}
	t.MostTokens = most(t, f)
	return t, nil
}

// inTime refuses a task that would start after its deadline.
func inTime(req task.Request, p Pool) error {
	if req.Deadline == 0 || p.Wait < req.Deadline {
		return nil
	}
	return task.Errorf(task.DeadlineUnmet, "the task would start in about %d ms, after its deadline of %d ms: allow more time, or send it to another pool",
		p.Wait.Milliseconds(), req.Deadline.Milliseconds())
}

// most returns how many tokens a task can take at most, in and out together. That is what budgets reserve (ORCH-3099). Where nobody
// has counted the prompt's tokens, its bytes bound them.
func most(t task.Task, f Facts) int {
	req, in := t.Request, f.PromptTokens
	if in == 0 {
		in = engine.MostTokens(t.Prompt) + engine.MostTokens(req.Inputs...)
		if t.Prompt == "" {
			in += mostOfChat(req)
		}
	}
	switch {
	case req.Workload != task.Completion:
		return in
	case task.HasImages(req.Messages) && f.PromptTokens == 0: // an image of few bytes may be many tokens, but no more than the context holds
	case req.MaxTokens > 0:
		return in + req.MaxTokens
	}
	return max(f.Pool.Ctx, in)
}

// mostOfChat bounds the tokens of messages that nobody has rendered, with the tools that a template describes.
func mostOfChat(req task.Request) (n int) {
	for _, m := range req.Messages {
		n += engine.MostTokens(m.Role) + m.Bytes() + len(m.ToolCalls)*engine.MostTokens("")
	}
	if req.Chat != nil {
		for _, t := range req.Chat.Tools {
			n += engine.MostTokens(t.Name, t.Description, string(t.Parameters))
		}
	}
	return n
}

func fits(req task.Request, f Facts) error {
	if req.Workload != task.Completion || f.Unread || f.Pool.Ctx == 0 {
		return nil // only the engine knows its limit, which may be that of a batch
	}
	answer := max(req.MaxTokens, 1)
	over := f.PromptTokens + answer - f.Pool.Ctx
	if over <= 0 {
		return nil
	}
	if req.MaxTokens > 1 && f.PromptTokens < f.Pool.Ctx {
		return task.Errorf(task.InvalidParams,
			"prompt and answer are %d tokens too long: the prompt has %d, `max_tokens` asks for %d, and the context of pool '%s' holds %d; shorten the prompt or lower `max_tokens` to %d",
			over, f.PromptTokens, req.MaxTokens, f.Pool.ID, f.Pool.Ctx, f.Pool.Ctx-f.PromptTokens)
	}
	return task.Errorf(task.InvalidParams,
		"the prompt is %d tokens too long: it has %d, and the context of pool '%s' holds %d with the answer; shorten it",
		over, f.PromptTokens, f.Pool.ID, f.Pool.Ctx).Because(&task.TooLongError{Tokens: f.PromptTokens, Ctx: f.Pool.Ctx})
}

func resolve(s task.Sampling, p task.Params) task.Sampling {
	set(&s.Temperature, p.Temperature)
	set(&s.TopP, p.TopP)
	set(&s.TopK, p.TopK)
	set(&s.MinP, p.MinP)
	set(&s.RepeatPenalty, p.RepeatPenalty)
	s.Stop = append([]string{}, p.Stop...)
	return s
}

func set[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}
