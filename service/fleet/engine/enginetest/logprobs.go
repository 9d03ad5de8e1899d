// SPDX-License-Identifier: GPL-3.0-or-later

package enginetest

import (
	"math"
	"strings"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/task"
)

// likely runs a job, and returns its answer and the tokens of it, whose bytes have to make up the answer.
func (s *chatSuite) likely(j engine.Job, top int) (string, []task.Logprob) {
	s.t.Helper()
	j.Chat = &task.Chat{Logprobs: &task.Logprobs{Top: top}}
	all, _ := s.run(j)
	var tokens []task.Logprob
	var bytes strings.Builder
	for _, p := range all {
		require.Equal(s.t, task.EventText, p.Kind)
		list, err := task.DecodeLogprobs(p.Logprobs)
		require.NoError(s.t, err)
		tokens = append(tokens, list...)
	}
	for _, p := range tokens {
		require.Len(s.t, p.Top, top)
		sum, last := 0.0, float32(0)
		for i, l := range p.Top {
			if i > 0 {
				require.LessOrEqual(s.t, l.Logprob, last, "the likeliest come first")
			}
			sum, last = sum+math.Exp(float64(l.Logprob)), l.Logprob
		}
		require.LessOrEqual(s.t, max(sum, math.Exp(float64(p.Logprob))), 1+1e-4)
		if top > 0 {
			require.LessOrEqual(s.t, p.Logprob, p.Top[0].Logprob)
		}
		bytes.Write(p.Bytes)
	}
	answer := said(all).Answer
	switch {
	case !utf8.ValidString(bytes.String()): // the answer has U+FFFD there
	case len(j.Sampling.Stop) == 0:
		require.Equal(s.t, answer, bytes.String())
	default: // the last token may go on behind the text
		require.True(s.t, strings.HasPrefix(bytes.String(), answer))
		require.Less(s.t, bytes.Len()-len(tokens[len(tokens)-1].Bytes), len(answer))
	}
	return answer, tokens
}

// logprobs: each token of an answer, of a chat or of a prompt, comes with how likely it was. A greedy run takes the likeliest. What the sampler is told changes
// no figure.
func (s *chatSuite) logprobs() {
	chat := say("Say something.", &task.Chat{Logprobs: &task.Logprobs{}})
	chat.Sampling, chat.MaxTokens = task.Sampling{TopP: 1, RepeatPenalty: 1}, 24
	if !s.has(task.FeatureLogprobs, chat) {
		return
	}
	ofPrompt := chat
	ofPrompt.Messages, ofPrompt.Prompt = nil, prompt
	for _, j := range []engine.Job{chat, ofPrompt} {
		answer, tokens := s.likely(j, 5)
		require.NotEmpty(s.t, tokens)
		for _, p := range tokens {
			require.Equal(s.t, p.Top[0], p.Likely)
		}
		_, again := s.likely(j, 5)
		require.Equal(s.t, tokens, again)
		same, alone := s.likely(j, 0)
		require.Equal(s.t, answer, same)
		require.Len(s.t, alone, len(tokens))
		for i, p := range alone {
			require.Equal(s.t, tokens[i].Token, p.Token)
			require.InDelta(s.t, tokens[i].Logprob, p.Logprob, 1e-5, "an engine may sum in another order where it is asked for others")
		}
		wild := j
		wild.Sampling = task.Sampling{Temperature: 1000, TopP: 1, RepeatPenalty: 1}
		_, other := s.likely(wild, 5)
		require.Equal(s.t, tokens[0].Top, other[0].Top)
		runes := []rune(answer)
		stopped := j
		stopped.Sampling.Stop = []string{string(runes[len(runes)/2 : len(runes)/2+2]), "a text that never comes"}
		cut, _ := s.likely(stopped, 1)
		before, _, _ := strings.Cut(answer, stopped.Sampling.Stop[0])
		require.Equal(s.t, before, cut)
	}
}
