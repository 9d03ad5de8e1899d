// SPDX-License-Identifier: GPL-3.0-or-later

package blueprints

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/scripted"
	"github.com/llama-orch/llama-orch/sdk"
	"github.com/llama-orch/llama-orch/utils/tool"
)

type where struct {
	City string `json:"city" jsonschema:"description=in English"`
}

// The transcripts of utils/tool's example: a call of a tool, and the answer to its result.
//
// LO-917, LO-920
func TestTheExampleOfAnAgent(t *testing.T) {
	call := scripted.Call{Name: "weather", Arguments: `{"city":"Oslo"}`}
	model := caller(t, "../../../utils/tool/testdata", scripted.Rule{Match: "umbrella", Role: "user", Play: []scripted.Step{{Call: &call, Cut: 6}}},
		scripted.Rule{Match: "rain", Role: "tool", Play: []scripted.Step{{Text: "Yes: it rains, and it is cold.", Cut: 7}}})
	weather := tool.New("weather", "Says how the weather is in a city now.", func(_ context.Context, in where) (string, error) {
		require.Equal(t, "Oslo", in.City)
		return "3 °C, rain", nil
	})
	result, err := (&tool.Loop{Tools: []tool.Tool{weather}}).Run(t.Context(), model, &sdk.TaskRequest{
		ModelRef: "coder", Seed: new(int64(1)), Messages: []sdk.Message{sdk.Say(sdk.RoleUser, "Do I need an umbrella in Oslo?")},
	})
	require.NoError(t, err)
	require.Equal(t, "Yes: it rains, and it is cold.", result.Answer.Text)
	require.Len(t, result.Calls, 1)
}
