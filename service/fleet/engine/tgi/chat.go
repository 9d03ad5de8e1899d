// SPDX-License-Identifier: GPL-3.0-or-later

package tgi

import (
	"context"
	"errors"
	"net/http"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/httpsse"
	"github.com/llama-orch/llama-orch/service/fleet/engine/openai"
	"github.com/llama-orch/llama-orch/service/task"
)

// profile is how TGI's chats deviate from OpenAI's document. Of the sampling parameters they take temperature, top_p and seed alone.
var profile = openai.Profile{
	Name: Name, Kind: Name, Product: "TGI", Usage: true, History: openai.History{LoneCalls: true},
	Plain: openai.Plain{Tools: true, Formats: true, OpenTopP: true, ErrorFirst: true},
}

// Chats implements engine.Chatter.
func (e *Engine) Chats() {}

// chat streams /v1/chat/completions.
func (e *Engine) chat(ctx context.Context, job engine.Job, emit func(task.Piece) error) (engine.Result, error) {
	told, err := e.told(ctx)
	if err != nil {
		return engine.Result{}, err
	}
	if missing := task.Missing(task.Needs(job.Messages, job.Chat), featuresOf(told)); missing != "" {
		return engine.Result{}, refusal("the engine that the task came to %s: leave that out, or send the task to another pool", missing)
	}
	words := stopWords(job.Sampling.Stop)
	if job.MaxTokens, err = e.room(ctx, &job, told); err != nil {
		return engine.Result{}, err
	}
	job.Sampling.Stop = sent(words, told.Stops)
	if len(words) == 0 {
		return e.chats.Generate(ctx, job, emit)
	}
	tokens := 0
	stops := &engine.Stops{Words: words, Emit: emit, Kind: task.EventText}
	r, err := e.chats.Generate(ctx, job, func(p task.Piece) error {
		tokens++
		if err := stops.Piece(p); err != nil || !stops.Over {
			return err
		}
		return errStopped
	})
	switch {
	case errors.Is(err, errStopped): // its figures were counted here
		if job.PromptTokens == 0 {
			if job.PromptTokens, err = e.CountChat(ctx, job.Messages, job.Chat); err != nil {
				return engine.Result{}, err
			}
		}
		return engine.Result{TokensIn: job.PromptTokens, TokensOut: tokens, Finish: task.FinishStop, Slot: engine.NoSlot, Left: true}, nil
	case err != nil:
		return engine.Result{}, err
	}
	return r, stops.Flush()
}

// chatTokenize is the body of POST /chat_tokenize.
type chatTokenize struct {
	Messages []openai.Message `json:"messages"`
	Tools    []openai.Tool    `json:"tools,omitempty"`
	Choice   string           `json:"tool_choice,omitempty"`
}

// CountChat asks /chat_tokenize, which renders the messages with the model's template. A template that fails would do so again.
func (e *Engine) CountChat(ctx context.Context, messages []task.Message, c *task.Chat) (int, error) {
	body := chatTokenize{Messages: openai.Messages(messages, profile.History)}
	if c != nil {
		body.Tools, body.Choice = openai.PlainTools(c)
	}
	var told struct {
		Tokens []struct{} `json:"tokenize_response"`
	}
	err := e.c.Post(ctx, "/chat_tokenize", body, &told)
	if status, ok := errors.AsType[*httpsse.StatusError](err); ok && status.Status == http.StatusNotFound && isError(status.Body) {
		return 0, refusal("the engine cannot use the model's chat template: %s", status.Message).Because(status)
	}
	if err != nil {
		return 0, err
	}
	if err := engine.Believe(engine.Tokens("the number of tokens", len(told.Tokens))); err != nil {
		return 0, e.c.Reset(err)
	}
	return len(told.Tokens), nil
}
