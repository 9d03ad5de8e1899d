// SPDX-License-Identifier: GPL-3.0-or-later

package admission

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

// LO-429: what is stripped goes first, defaults fill in, and overrides win.
func TestRules(t *testing.T) {
	pointer := func(f float64) *float64 { return &f }
	five, yes, no, low := 5, true, false, "low"
	seed := uint32(9)
	asked := task.Request{
		Messages: []task.Message{{Role: "user"}}, MaxTokens: 100, Seed: &seed,
		Params: task.Params{Temperature: pointer(2), TopP: pointer(0.5), Stop: []string{"x"}},
		Chat:   &task.Chat{ToolChoice: task.ChooseNone, Reasoning: task.Reasoning{Split: true, Enabled: &yes, Effort: "high"}},
	}
	require.Equal(t, asked, Rules{}.Apply(asked))

	got := Rules{
		Strip:    []task.Setting{task.SetTemperature, task.SetSeed, task.SetStop, task.SetEffort},
		Default:  Settings{Temperature: pointer(0.3), TopP: pointer(0.9), MinP: pointer(0.1)},
		Override: Settings{MaxTokens: &five, Thinking: &no},
	}.Apply(asked)
	require.InDelta(t, 0.3, *got.Params.Temperature, 0)
	require.InDelta(t, 0.5, *got.Params.TopP, 0, "a default is for those who say nothing")
	require.InDelta(t, 0.1, *got.Params.MinP, 0)
	require.Equal(t, 5, got.MaxTokens)
	require.Nil(t, got.Seed)
	require.Nil(t, got.Params.Stop)
	require.False(t, *got.Chat.Reasoning.Enabled)
	require.Empty(t, got.Chat.Reasoning.Effort)
	require.True(t, got.Chat.Reasoning.Split)
	require.Equal(t, task.ChooseNone, got.Chat.ToolChoice)
	require.True(t, *asked.Chat.Reasoning.Enabled, "the request itself stays as it was")

	got = Rules{Default: Settings{Seed: &five, Effort: &low}, Strip: []task.Setting{task.SetMaxTokens}}.Apply(task.Request{Prompt: "x", MaxTokens: 7})
	require.Equal(t, uint32(5), *got.Seed)
	require.Zero(t, got.MaxTokens)
	require.Nil(t, got.Chat, "a prompt has no template")
	got = Rules{Default: Settings{Effort: &low}}.Apply(task.Request{Messages: asked.Messages})
	require.Equal(t, "low", got.Chat.Reasoning.Effort)
}

// LO-429: what a client sent wrongly is refused, unless a rule takes it out or has a value of its own for it.
func TestRulesComeBeforeTheChecksOfRanges(t *testing.T) {
	wrong := func(s task.Setting) task.Unfit {
		return task.Unfit{Setting: s, Err: task.Errorf(task.InvalidParams, "`%s` is too hot", s)}
	}
	req := request()
	req.Unfit = []task.Unfit{wrong(task.SetTemperature), wrong(task.SetTopK)}
	half, five := 0.5, 5
	for name, c := range map[string]struct {
		rules Rules
		says  string
	}{
		"no rule":      {Rules{}, "temperature"},
		"one is left":  {Rules{Strip: []task.Setting{task.SetTemperature}}, "top_k"},
		"a default":    {Rules{Default: Settings{Temperature: &half, TopK: &five}}, "temperature"},
		"stripped":     {Rules{Strip: []task.Setting{task.SetTopK, task.SetTemperature}}, ""},
		"overridden":   {Rules{Override: Settings{Temperature: &half, TopK: &five}}, ""},
		"by both ways": {Rules{Strip: []task.Setting{task.SetTopK}, Override: Settings{Temperature: &half}}, ""},
	} {
		pool := facts().Pool
		pool.Rules = c.rules
		d := &desk{pools: []Pool{pool}, ready: true}
		s, _ := open(d)
		_, err := s.Submit(t.Context(), req)
		if c.says == "" {
			require.NoError(t, err, name)
			require.Empty(t, d.enqueued[0].Request.Unfit, name)
			continue
		}
		require.ErrorContains(t, err, "`"+c.says+"` is too hot", name)
		_, err = NewCounter(s).Count(t.Context(), req)
		require.ErrorContains(t, err, "`"+c.says+"` is too hot", name)
	}
	require.Len(t, req.Unfit, 2, "the request itself stays as it was")
}
