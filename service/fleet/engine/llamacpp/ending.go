// SPDX-License-Identifier: GPL-3.0-or-later

package llamacpp

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/openai"
)

// ending is what the chat endpoint tells at the end: the reason and the slot in one frame, the figures in another.
type ending struct {
	openai.Ending

	Timings timings `json:"timings"`
	Verbose struct {
		Slot  int `json:"id_slot"`
		Cells int `json:"tokens_cached"`
	} `json:"__verbose"`
}

// read takes in one of the frames. What a frame does not name stays as it was.
func (e *ending) read(data []byte) error {
	if err := json.Unmarshal(data, e); err != nil {
		return fmt.Errorf("reading a last frame: %w", err)
	}
	if err := e.Settle(); err != nil {
		return err
	}
	return engine.Believe(
		engine.Tokens("tokens_cached", e.Verbose.Cells), engine.Tokens("cache_n", e.Timings.CacheN),
		engine.Milliseconds("prompt_ms", e.Timings.PromptMS), engine.Milliseconds("predicted_ms", e.Timings.PredictedMS),
		engine.Slots("id_slot", e.Verbose.Slot),
	)
}

// result is what the engine reports. It must have told both.
func (e *ending) result() (engine.Result, error) {
	if e.Finish == "" || e.Usage.Prompt == 0 {
		return engine.Result{}, errors.New("the stream ended without a reason, or without its usage")
	}
	return engine.Result{
		TokensIn: e.Usage.Prompt, TokensOut: e.Usage.Completed, Finish: e.Finish,
		Prefill: milliseconds(e.Timings.PromptMS), Decode: milliseconds(e.Timings.PredictedMS),
		Slot: e.Verbose.Slot, Cells: e.Verbose.Cells, Cached: e.Timings.CacheN,
	}, nil
}
