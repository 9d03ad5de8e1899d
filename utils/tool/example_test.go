// SPDX-License-Identifier: GPL-3.0-or-later

package tool_test

import (
	"context"
	"fmt"

	"github.com/llama-orch/llama-orch/sdk"
	"github.com/llama-orch/llama-orch/utils/determinism"
	"github.com/llama-orch/llama-orch/utils/llm"
	"github.com/llama-orch/llama-orch/utils/tool"
)

// Where is what the model asks the weather of.
type Where struct {
	City string `json:"city" jsonschema:"description=in English"`
}

// An agent with one tool, whole. Against a server, the caller is the client of sdk.New; here it plays what was recorded.
func ExampleLoop() {
	var caller llm.Caller = determinism.Golden{Folder: "testdata"}

	weather := tool.New("weather", "Says how the weather is in a city now.", func(_ context.Context, in Where) (string, error) {
		if in.City != "Oslo" {
			return "", fmt.Errorf("there is no station in %s", in.City)
		}
		return "3 °C, rain", nil
	})

	agent := tool.Loop{Tools: []tool.Tool{weather}}
	result, err := agent.Run(context.Background(), caller, &sdk.TaskRequest{
		ModelRef: "coder", Seed: new(int64(1)), Messages: []sdk.Message{sdk.Say(sdk.RoleUser, "Do I need an umbrella in Oslo?")},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, call := range result.Calls {
		fmt.Println(call.Call.Name, call.Call.Arguments, "→", call.Result)
	}
	fmt.Println(result.Answer.Text)

	// Output:
	// weather {"city":"Oslo"} → 3 °C, rain
	// Yes: it rains, and it is cold.
}
