// SPDX-License-Identifier: GPL-3.0-or-later

package llamacpp

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/task"
)

// ending is what the chat endpoint tells at the end: the reason and the slot in one frame, the figures in another.
type ending struct {
	Choices []struct {
		Finish string `json:"finish_reason"`
	} `json:"choices"`
	Usage   usage   `json:"usage"`
	Timings timings `json:"timings"`
	Verbose struct {
		Slot  int `json:"id_slot"`
		Cells int `json:"tokens_cached"`
	} `json:"__verbose"`

	finish task.FinishReason
}

type usage struct {
	Prompt    int `json:"prompt_tokens"`
	Completed int `json:"completion_tokens"`
}

// read takes in one of the frames. What a frame does not name stays as it was.
func (e *ending) read(data []byte) error {
	e.Choices = e.Choices[:0]
	if err := json.Unmarshal(data, e); err != nil {
		return fmt.Errorf("reading a last frame: %w", err)
	}
	for _, c := range e.Choices {
		switch finish := task.FinishReason(c.Finish); finish {
		case "":
		case task.FinishStop, task.FinishLength, task.FinishToolCalls:
			e.finish = finish
		default:
			return fmt.Errorf("the stream ended for an unknown reason %q", c.Finish)
		}
	}
	return engine.Believe(
		engine.Tokens("prompt_tokens", e.Usage.Prompt), engine.Tokens("completion_tokens", e.Usage.Completed),
		engine.Tokens("tokens_cached", e.Verbose.Cells), engine.Tokens("cache_n", e.Timings.CacheN),
		engine.Milliseconds("prompt_ms", e.Timings.PromptMS), engine.Milliseconds("predicted_ms", e.Timings.PredictedMS),
		engine.Slots("id_slot", e.Verbose.Slot),
	)
}

// result is what the engine reports. It must have told both.
func (e *ending) result() (engine.Result, error) {
	if e.finish == "" || e.Usage.Prompt == 0 {
		return engine.Result{}, errors.New("the stream ended without a reason, or without its usage")
	}
	return engine.Result{
		TokensIn: e.Usage.Prompt, TokensOut: e.Usage.Completed, Finish: e.finish,
		Prefill: milliseconds(e.Timings.PromptMS), Decode: milliseconds(e.Timings.PredictedMS),
		Slot: e.Verbose.Slot, Cells: e.Verbose.Cells, Cached: e.Timings.CacheN,
	}, nil
}
