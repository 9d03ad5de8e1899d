// SPDX-License-Identifier: GPL-3.0-or-later

package llamacpp

import (
	"context"
	"slices"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/openai"
	"github.com/llama-orch/llama-orch/service/task"
)

// Continues implements engine.Continuer. The native endpoint goes on behind whatever text it is given. The chat endpoint goes on with the last message of
// an assistant, and its parser knows what is in front. A grammar begins at its beginning, and there is one where a call is forced.
func (e *Engine) Continues(job engine.Job) bool {
	told, c := e.props.Load(), job.Chat
	if c == nil {
		c = &task.Chat{}
	}
	forced := c.CallsTools() && c.ToolChoice != task.ChooseAuto
	return told != nil && c.Format == nil && !forced && (job.SentThinking == "" || e.onChatEndpoint(&job, told))
}

// end is what was sent of a job last: the answer, or the thinking before it.
func end(job engine.Job) string {
	if job.Sent == "" {
		return job.SentThinking
	}
	return job.Sent
}

// goOn generates the rest of an answer that an earlier run began (LO-209).
func (e *Engine) goOn(ctx context.Context, g *generation) (engine.Result, error) {
	job := g.job
	told, err := e.told(ctx)
	if err != nil {
		return engine.Result{}, err
	}
	prompt := job.PromptTokens
	switch {
	case prompt > 0:
	case task.HasImages(job.Messages):
		prompt, err = e.CountChat(ctx, job.Messages, job.Chat)
	default:
		prompt, err = e.CountTokens(ctx, job.Prompt)
	}
	if err != nil {
		return engine.Result{}, err
	}
	sent, err := e.CountTokens(ctx, job.SentThinking+job.Sent)
	if err != nil {
		return engine.Result{}, err
	}
	bounded := job.MaxTokens > 0
	job.MaxTokens, job.PromptTokens = max(job.MaxTokens-job.SentTokens, 0), prompt+sent
	if bounded && job.MaxTokens == 0 || job.PromptTokens >= told.ctx { // the run broke off between its last token and its end
		return engine.Result{TokensIn: prompt, TokensOut: job.SentTokens, Finish: task.FinishLength, Slot: engine.NoSlot}, nil
	}
	if cached := job.Cached; cached != nil {
		job.Cached = func(tokens int) { cached(min(tokens, prompt)) }
	}
	if !e.onChatEndpoint(job, told) {
		job.Prompt += job.Sent
	}
	result, err := e.stream(ctx, g)
	result.TokensIn, result.TokensOut = prompt, result.TokensOut+job.SentTokens
	result.Cached = min(result.Cached, prompt) // to the engine, what was sent is prompt as well
	return result, err
}

// continued is the chat with the beginning of its answer, if it has one.
func (c chat) continued(job *engine.Job) chat {
	if job.SentTokens == 0 {
		return c
	}
	c.Messages = append(slices.Clip(c.Messages), openai.Message{Role: task.RoleAssistant, Content: job.Sent, Thinking: job.SentThinking})
	c.GenerationTurn, c.Continues = new(bool), "content"
	if job.Sent == "" {
		c.Continues = "reasoning_content"
	}
	return c
}
