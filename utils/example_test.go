// SPDX-License-Identifier: GPL-3.0-or-later

package utils_test

import (
	"context"
	"fmt"
	"iter"

	"github.com/llama-orch/llama-orch/sdk"
	"github.com/llama-orch/llama-orch/utils/tool"
)

// City is what the tool takes; the model sees its schema.
type City struct {
	Name string `json:"name" jsonschema:"description=such as Bern"`
}

// Weather is what it gives.
type Weather struct {
	Celsius int    `json:"celsius"`
	Sky     string `json:"sky"`
}

// An agent with one typed tool. With a server, the caller is `client, err := sdk.New(sdk.Options{Addr: "http://127.0.0.1:8080"})`.
func Example() {
	var caller coder
	weather := tool.New("weather", "The weather in a city now.", func(_ context.Context, in City) (Weather, error) {
		if in.Name != "Bern" {
			return Weather{}, fmt.Errorf("there is no station in %s", in.Name)
		}
		return Weather{Celsius: 12, Sky: "rain"}, nil
	})
	agent := tool.Loop{Tools: []tool.Tool{weather}, Most: 5}
	done, err := agent.Run(context.Background(), caller, &sdk.TaskRequest{
		ModelRef: "coder",
		Messages: []sdk.Message{sdk.Say(sdk.RoleUser, "Do I need an umbrella in Bern?")},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, c := range done.Calls {
		fmt.Println(c.Call.Name, c.Call.Arguments, "→", c.Result)
	}
	fmt.Println(done.Answer.Text)
	// Output:
	// weather {"city":"Bern"} → The arguments of weather are wrong: name: this field is missing; city: there is no such field. Call it again with arguments that fit its schema.
	// weather {"name":"Bern"} → {"celsius":12,"sky":"rain"}
	// Yes: rain.
}

// coder is a model that first calls the tool with a wrong argument, mends it by what comes back, and answers with the result.
type coder struct{}

func (coder) Run(_ context.Context, r *sdk.TaskRequest) iter.Seq2[sdk.Event, error] {
	return func(yield func(sdk.Event, error) bool) {
		end := sdk.End{FinishReason: sdk.FinishReasonToolCalls}
		switch len(r.Messages) {
		case 1:
			end.ToolCalls = []sdk.Call{{ID: "c1", Name: "weather", Arguments: `{"city":"Bern"}`}}
		case 3:
			end.ToolCalls = []sdk.Call{{ID: "c2", Name: "weather", Arguments: `{"name":"Bern"}`}}
		default:
			end.FinishReason = sdk.FinishReasonStop
			if !yield(sdk.Token{Text: "Yes: rain."}, nil) {
				return
			}
		}
		yield(end, nil)
	}
}
