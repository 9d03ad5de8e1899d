// SPDX-License-Identifier: GPL-3.0-or-later

package params_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/sdk"
	"github.com/llama-orch/llama-orch/utils/model"
	"github.com/llama-orch/llama-orch/utils/params"
)

// LO-913
func TestParamsArePutIntoARequest(t *testing.T) {
	t.Parallel()
	var p params.Params
	require.NoError(t, json.Unmarshal([]byte(`{"temperature":0,"top_k":40,"stop":["\n"],"seed":0,"max_tokens":9,"determinism":"strict","profile":"v1"}`), &p))
	r := &sdk.TaskRequest{ModelRef: "m", Prompt: "p", MaxTokens: 5, Ctx: 7, Params: &sdk.Params{TopP: new(0.5), TopK: new(1)}}
	before := *r.Params
	p.Put(r)
	require.Equal(t, &sdk.TaskRequest{
		ModelRef: "m", Prompt: "p", MaxTokens: 9, Ctx: 7, Seed: new(int64(0)), Determinism: sdk.DeterminismStrict, SamplerProfileVersion: "v1",
		Params: &sdk.Params{Temperature: new(0.0), TopP: new(0.5), TopK: new(40), Stop: []string{"\n"}},
	}, r)
	require.Equal(t, sdk.Params{TopP: new(0.5), TopK: new(1)}, before)
	r = &sdk.TaskRequest{ModelRef: "m"}
	params.Params{}.Put(r)
	require.Equal(t, &sdk.TaskRequest{ModelRef: "m"}, r)
}

func coder() *model.Model {
	return &model.Model{
		Wish: model.Wish{Ref: "coder"},
		Pools: []sdk.CapabilityPool{
			{ID: "big", Ctx: 32768, Slots: 1, Features: []sdk.ChatFeature{sdk.ChatFeatureTools, sdk.ChatFeatureFormats}},
			{ID: "fast", Ctx: 8192, Slots: 4, Features: []sdk.ChatFeature{sdk.ChatFeatureTools, sdk.ChatFeatureLogprobs}},
		},
		Limits: sdk.Limits{MaxPromptBytes: 100, MaxMessages: 2, MaxInputs: 2, MaxStop: 1, MaxDeadlineMS: 1000},
	}
}

// A parameter that no pool of the model has is refused by its name; what some pool has is not.
//
// LO-913
func TestARequestIsHeldToItsModelsPools(t *testing.T) {
	t.Parallel()
	tools := []sdk.Tool{{Name: "t"}}
	for name, r := range map[string]sdk.TaskRequest{
		"nothing":       {Prompt: "p"},
		"tools":         {Tools: tools, Ctx: 9000},
		"logprobs":      {Tools: tools, Logprobs: true, MaxTokens: 8192},
		"formats":       {Format: &sdk.Format{Type: sdk.FormatTypeJSONSchema}, Determinism: sdk.DeterminismStrict},
		"the reasoning": {Reasoning: &sdk.ReasoningWish{Split: true}},
	} {
		require.NoError(t, params.Check(coder(), &r), name)
	}
	for want, r := range map[string]sdk.TaskRequest{
		"`format` asks for what no pool of the model \"coder\" has: they can do formats, logprobs, tools": {Format: &sdk.Format{Type: sdk.FormatTypeGrammar}},
		"`messages[1].content` asks for": {Messages: []sdk.Message{sdk.Say(sdk.RoleUser, "a"), {Content: sdk.Content{Parts: []sdk.Part{{Type: sdk.PartTypeImage}}}}}},
		"`template_args` asks for":       {TemplateArgs: json.RawMessage("{}")},
		"`logit_bias` asks for":          {LogitBias: map[string]float64{"1": 1}},
		"`logprobs` asks for what no pool of the model \"coder\" has: a pool that has it lacks": {Format: &sdk.Format{Type: sdk.FormatTypeJSONObject}, Logprobs: true},
		"40000 tokens do not fit the longest context, of 32768":                                 {Ctx: 40000},
		"`max_tokens` asks for": {MaxTokens: 40000},
		"`prompt` asks for what no pool of the model \"coder\" has: it has 101 bytes, and the server takes 100": {Prompt: strings.Repeat("a", 101)},
		"`messages` asks for":    {Messages: make([]sdk.Message, 3)},
		"`inputs` asks for":      {Inputs: make([]string, 3)},
		"`params.stop` asks for": {Params: &sdk.Params{Stop: []string{"a", "b"}}},
		"`deadline_ms` asks for": {DeadlineMS: 1001},
		"`determinism` asks for": {Logprobs: true, Determinism: sdk.DeterminismStrict},
	} {
		err := params.Check(coder(), &r)
		require.ErrorContains(t, err, want)
		_, ok := errors.AsType[*params.UnsupportedError](err)
		require.True(t, ok, want)
	}
	silent := coder()
	silent.Pools = []sdk.CapabilityPool{{ID: "elsewhere"}}
	require.NoError(t, params.Check(silent, &sdk.TaskRequest{Tools: tools, Logprobs: true, Ctx: 1 << 20}), "nobody knows what it can do")
}
