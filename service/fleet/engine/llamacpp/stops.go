// SPDX-License-Identifier: GPL-3.0-or-later

package llamacpp

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/task"
)

// replacement is what a client gets for bytes that are no rune.
const replacement = "\uFFFD"

// stops compare the text as its client gets it with the stop strings that have a U+FFFD (LO-844). A llama-server compares the bytes that it
// has decoded, in which broken ones are no U+FFFD yet, so it goes on where such a string is complete. Nor does it see a string that began in what
// an earlier run has sent (LO-209). It stops at all the others by itself.
type stops struct {
	engine.Stops
	result engine.Result // what the engine had told by then; set before errStopped ends the stream
}

// watched returns those of the stop strings that a llama-server does not see behind a text that was sent before. There are hardly ever any.
func watched(all []string, sent string) (words []string) {
	for _, s := range all {
		if strings.Contains(s, replacement) || engine.BeginsAt(sent, s) < len(sent) {
			words = append(words, s)
		}
	}
	return words
}

// errStopped ends a stream at a stop string. The connection closes, and so the engine stops.
var errStopped = errors.New("a stop string is complete")

// ended is the result of a stream that came to its end.
func (s *stops) ended(r engine.Result, err error) (engine.Result, error) {
	switch {
	case err != nil:
		return r, err
	case s.Over: // the last frame completed the word
		r.Finish = task.FinishStop
		return r, nil
	}
	if err := s.Flush(); err != nil {
		return engine.Result{}, err
	}
	return r, nil
}

// figures takes the result from the frame that completed a word, or from the next one that tells of the run so far; false: this one tells
// nothing. The native endpoint tells the tokens in each frame, and both tell the tokens and the times because timings_per_token asks for them. Neither
// names the slot.
func (s *stops) figures(data []byte) (told bool, err error) {
	var frame struct {
		Predicted int `json:"tokens_predicted"`
		Evaluated int `json:"tokens_evaluated"`
		Timings   struct {
			timings
			PromptN    int `json:"prompt_n"`
			PredictedN int `json:"predicted_n"`
		} `json:"timings"`
	}
	if err := json.Unmarshal(data, &frame); err != nil {
		return false, fmt.Errorf("reading the figures of a frame: %w", err)
	}
	t := frame.Timings
	if err := engine.Believe(
		engine.Tokens("tokens_evaluated", frame.Evaluated), engine.Tokens("tokens_predicted", frame.Predicted),
		engine.Tokens("cache_n", t.CacheN), engine.Tokens("prompt_n", t.PromptN), engine.Tokens("predicted_n", t.PredictedN),
		engine.Milliseconds("prompt_ms", t.PromptMS), engine.Milliseconds("predicted_ms", t.PredictedMS),
	); err != nil {
		return false, err
	}
	s.result = engine.Result{
		TokensIn: max(frame.Evaluated, t.CacheN+t.PromptN), TokensOut: max(frame.Predicted, t.PredictedN), Cached: t.CacheN,
		Prefill: milliseconds(t.PromptMS), Decode: milliseconds(t.PredictedMS), Finish: task.FinishStop, Slot: engine.NoSlot, Left: true,
	}
	return s.result.TokensIn > 0 && s.result.TokensOut > 0, nil
}
