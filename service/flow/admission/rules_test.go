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
		Strip:    []Setting{SetTemperature, SetSeed, SetStop, SetEffort},
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

	got = Rules{Default: Settings{Seed: &five, Effort: &low}, Strip: []Setting{SetMaxTokens}}.Apply(task.Request{Prompt: "x", MaxTokens: 7})
	require.Equal(t, uint32(5), *got.Seed)
	require.Zero(t, got.MaxTokens)
	require.Nil(t, got.Chat, "a prompt has no template")
	got = Rules{Default: Settings{Effort: &low}}.Apply(task.Request{Messages: asked.Messages})
	require.Equal(t, "low", got.Chat.Reasoning.Effort)
}
