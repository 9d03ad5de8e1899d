// SPDX-License-Identifier: GPL-3.0-or-later

package llamacpp

import (
	"context"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/task"
)

// Continues implements engine.Continuer. The native endpoint goes on behind whatever text it is given. A grammar begins at its beginning, and so do the
// parsers of the chat endpoint.
func (e *Engine) Continues(job engine.Job) bool {
	told := e.props.Load()
	return told != nil && !e.onChatEndpoint(&job, told) && (job.Chat == nil || job.Chat.Format == nil)
}

// goOn generates the rest of an answer that an earlier run began (LO-209).
func (e *Engine) goOn(ctx context.Context, g *generation) (engine.Result, error) {
	job := g.job
	told, err := e.told(ctx)
	if err != nil {
		return engine.Result{}, err
	}
	prompt := job.PromptTokens
	if prompt == 0 {
		if prompt, err = e.CountTokens(ctx, job.Prompt); err != nil {
			return engine.Result{}, err
		}
	}
	job.Prompt += job.Sent
	if job.PromptTokens, err = e.CountTokens(ctx, job.Prompt); err != nil {
		return engine.Result{}, err
	}
	bounded := job.MaxTokens > 0
	job.MaxTokens = max(job.MaxTokens-job.SentTokens, 0)
	if bounded && job.MaxTokens == 0 || job.PromptTokens >= told.ctx { // the run broke off between its last token and its end
		return engine.Result{TokensIn: prompt, TokensOut: job.SentTokens, Finish: task.FinishLength, Slot: engine.NoSlot}, nil
	}
	result, err := e.generate(ctx, g)
	result.TokensIn, result.TokensOut = prompt, result.TokensOut+job.SentTokens
	return result, err
}
