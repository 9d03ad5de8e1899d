// SPDX-License-Identifier: GPL-3.0-or-later

package openai

import (
	"fmt"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/task"
)

// Ending is what the frames at the end of a stream tell: the reason, and the usage. They are decoded into the same one.
type Ending struct {
	Choices []struct {
		Finish string `json:"finish_reason"`
	} `json:"choices"`
	Usage Usage `json:"usage"`

	Finish task.FinishReason `json:"-"` // as Settle has found it
}

// Usage counts tokens.
type Usage struct {
	Prompt    int `json:"prompt_tokens"`
	Completed int `json:"completion_tokens"`
	Details   struct {
		Cached int `json:"cached_tokens"`
	} `json:"prompt_tokens_details"`
}

// finishes are the reasons that servers tell. A filter's end is one of the server's own.
var finishes = map[string]task.FinishReason{
	"stop": task.FinishStop, "eos": task.FinishStop, "content_filter": task.FinishStop, "length": task.FinishLength,
	"tool_calls": task.FinishToolCalls, "function_call": task.FinishToolCalls,
}

// Settle takes the reason over, and believes the figures or not.
func (e *Ending) Settle() error {
	for _, c := range e.Choices {
		if c.Finish == "" {
			continue
		}
		finish, known := finishes[c.Finish]
		if !known {
			return fmt.Errorf("the stream ended for an unknown reason %q", c.Finish)
		}
		e.Finish = finish
	}
	e.Choices = e.Choices[:0]
	return engine.Believe(
		engine.Tokens("prompt_tokens", e.Usage.Prompt), engine.Tokens("completion_tokens", e.Usage.Completed),
		engine.Tokens("cached_tokens", e.Usage.Details.Cached),
	)
}
