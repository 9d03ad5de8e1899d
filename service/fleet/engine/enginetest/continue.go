// SPDX-License-Identifier: GPL-3.0-or-later

package enginetest

import (
	"strings"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/task"
)

// goesOn: an engine with the face generates the rest of an answer that another one began (LO-209).
func (s *suite) goesOn() {
	c, ok := s.e.(engine.Continuer)
	if !ok {
		return
	}
	_, err := s.e.Props(s.t.Context())
	require.NoError(s.t, err)
	begun := job(7, 12)
	begun.Sampling.Temperature = 0
	require.True(s.t, c.Continues(begun))
	var pieces []string
	first, err := s.e.Generate(s.t.Context(), begun, func(p task.Piece) error {
		pieces = append(pieces, p.Text)
		return nil
	})
	require.NoError(s.t, err)
	require.Greater(s.t, len(pieces), 6)

	rest := begun
	rest.Sent, rest.SentTokens = strings.Join(pieces[:5], ""), 5
	text, r := s.generate(rest)
	require.NotEmpty(s.t, text)
	require.False(s.t, strings.HasPrefix(text, strings.Join(pieces[:3], "")), "it begins anew")
	require.Equal(s.t, first.TokensIn, r.TokensIn, "of the prompt alone")
	require.LessOrEqual(s.t, r.TokensOut, 12)
	if r.Finish == task.FinishLength {
		require.Equal(s.t, 12, r.TokensOut)
	}
	rest.PromptTokens = first.TokensIn
	again, r := s.generate(rest)
	require.Equal(s.t, text, again)
	require.Equal(s.t, first.TokensIn, r.TokensIn)

	// The slot holds prompt and answer, and no more of the prompt can be reused than there is.
	warm, told := rest, -1
	warm.Reuse, warm.Cached = engine.ReuseAny, func(n int) { told = n }
	again, r = s.generate(warm)
	require.NotEmpty(s.t, again)
	require.LessOrEqual(s.t, r.Cached, r.TokensIn)
	if s.KV {
		require.Equal(s.t, r.TokensIn, r.Cached)
		require.Equal(s.t, r.Cached, told)
	}

	// A stop string that begins in what was sent.
	sent, came := []rune(rest.Sent), []rune(text)
	rest.Sampling.Stop = []string{"never", string(sent[len(sent)-2:]) + string(came[:1])}
	none, r := s.generate(rest)
	require.Empty(s.t, none)
	require.Equal(s.t, task.FinishStop, r.Finish)
	rest.Sampling.Stop = []string{string(sent[len(sent)-2:]) + "\x01"} // it seemed to begin there
	other, _ := s.generate(rest)
	require.Equal(s.t, text, other)

	// The run broke off between its last token and its end.
	rest.MaxTokens = 5
	none, r = s.generate(rest)
	require.Empty(s.t, none)
	require.Equal(s.t, task.FinishLength, r.Finish)
	require.Equal(s.t, 5, r.TokensOut)
	rest.MaxTokens = 0
	_, r = s.generate(rest)
	require.LessOrEqual(s.t, r.TokensIn+r.TokensOut, s.Ctx)
	s.idle()
}
