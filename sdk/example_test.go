// SPDX-License-Identifier: GPL-3.0-or-later

package sdk_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/llama-orch/llama-orch/sdk"
)

// A task: submit it, and read its answer as it comes.
func Example() {
	server := serve()
	defer server.Close()
	client, err := sdk.New(sdk.Options{Addr: server.URL})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	request := &sdk.TaskRequest{ModelRef: "haiku", Prompt: "About rain.", Seed: new(int64(42)), Params: &sdk.Params{Temperature: new(0.2)}}
	for event, err := range client.Run(context.Background(), request) {
		if err != nil {
			fmt.Println(err)
			return
		}
		switch e := event.(type) {
		case sdk.Token:
			fmt.Print(e.Text)
		case sdk.ErrorEvent:
			fmt.Println("no answer:", e.Err)
		case sdk.End:
			fmt.Printf("\n%s, seed %d\n", e.FinishReason, e.Receipt.Seed)
		}
	}
	// Output:
	// Soft rain.
	// stop, seed 42
}

// A chat: each turn sends what was said before.
func ExampleSay() {
	server := serve()
	defer server.Close()
	client := server.client()
	defer client.Close()
	messages := []sdk.Message{sdk.Say(sdk.RoleSystem, "Be brief."), sdk.Say(sdk.RoleUser, "About rain.")}
	for range 2 {
		text, _, err := said(client.Run(context.Background(), &sdk.TaskRequest{ModelRef: "haiku", Messages: messages}))
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(text)
		messages = append(messages, sdk.Said(text, "", nil), sdk.Say(sdk.RoleUser, "And about snow?"))
	}
	// Output:
	// Soft rain.
	// White snow.
}

// An image: Show takes the bytes of its file.
func ExampleShow() {
	server := serve()
	defer server.Close()
	client := server.client()
	defer client.Close()
	file, _ := base64.StdEncoding.DecodeString("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==")
	message, err := sdk.Show(sdk.RoleUser, "What is this?", file)
	if err != nil {
		fmt.Println(err)
		return
	}
	text, _, err := said(client.Run(context.Background(), &sdk.TaskRequest{ModelRef: "seer", Messages: []sdk.Message{message}}))
	fmt.Println(text, err)
	// Output: A red square. <nil>
}

// Tools: the model calls one, the program runs it, and the model answers with the result.
func ExampleResult() {
	server := serve()
	defer server.Close()
	client := server.client()
	defer client.Close()
	request := &sdk.TaskRequest{
		ModelRef: "coder",
		Messages: []sdk.Message{sdk.Say(sdk.RoleUser, "What is the weather in Bern?")},
		Tools:    []sdk.Tool{{Name: "weather", Parameters: json.RawMessage(`{"type":"object","properties":{"city":{"type":"string"}}}`)}},
	}
	for {
		text, calls, err := said(client.Run(context.Background(), request))
		if err != nil || len(calls) == 0 {
			fmt.Println(text, err)
			return
		}
		request.Messages = append(request.Messages, sdk.Said(text, "", calls))
		for _, c := range calls {
			fmt.Println(c.Name, c.Arguments)
			request.Messages = append(request.Messages, sdk.Result(c.ID, "12 °C, rain"))
		}
	}
	// Output:
	// weather {"city":"Bern"}
	// It is 12 °C, rain. <nil>
}

// A stream that breaks goes on by itself. One that another program began goes on behind the last event that it had.
func ExampleClient_Stream() {
	server := serve()
	defer server.Close()
	client := server.client()
	defer client.Close()
	admission, err := client.Submit(context.Background(), &sdk.TaskRequest{TaskID: "rain-1", ModelRef: "haiku", Prompt: "About rain."})
	if err != nil {
		fmt.Println(err)
		return
	}
	server.cuts = 1
	second, names := "", []string{}
	for event, err := range client.Stream(context.Background(), admission.TaskID, "") {
		if err != nil {
			fmt.Println(err)
			return
		}
		names = append(names, event.Wire().Name)
		if token, ok := event.(sdk.Token); ok && second == "" {
			second = token.ID
		}
	}
	fmt.Println(names)
	for event, err := range client.Stream(context.Background(), admission.TaskID, second) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(event.Wire().Name)
	}
	// Output:
	// [started token token end]
	// token
	// end
}

// A full server: wait as it says, and submit again.
func ExampleBackoff() {
	server := serve()
	defer server.Close()
	client := server.client()
	defer client.Close()
	server.refuses = 2
	patience := sdk.Patience{Repeatable: true, OnWait: func(cause error, _ time.Duration) { fmt.Println(cause) }}
	admission, err := sdk.Backoff(context.Background(), patience, func(ctx context.Context) (*sdk.Admission, error) {
		return client.Submit(ctx, &sdk.TaskRequest{TaskID: "rain-1", ModelRef: "haiku", Prompt: "About rain."})
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("taken:", admission.TaskID)
	// Output:
	// ADMISSION_REJECT: the queue is full
	// ADMISSION_REJECT: the queue is full
	// taken: rain-1
}

// A batch of tasks: all are in line at once, behind those of people, and their answers are read in the order of the requests.
func ExampleClient_Submit() {
	server := serve()
	defer server.Close()
	client := server.client()
	defer client.Close()
	prompts := []string{"About rain.", "About snow.", "About an image."}
	answers := make([]string, len(prompts))
	var all sync.WaitGroup
	for i, prompt := range prompts {
		admission, err := client.Submit(context.Background(), &sdk.TaskRequest{ModelRef: "haiku", Prompt: prompt, Priority: sdk.PriorityBatch})
		if err != nil {
			fmt.Println(err)
			return
		}
		all.Go(func() {
			text, _, err := said(client.Stream(context.Background(), admission.TaskID, ""))
			if err != nil {
				text = err.Error()
			}
			answers[i] = text
		})
	}
	all.Wait()
	for i, text := range answers {
		fmt.Println(prompts[i], text)
	}
	// Output:
	// About rain. Soft rain.
	// About snow. White snow.
	// About an image. A red square.
}

// A proof: what a task was asked and what it answered, by digests, and how to ask it again.
func ExampleClient_Proof() {
	server := serve()
	defer server.Close()
	client := server.client()
	defer client.Close()
	p, _, err := client.Proof(context.Background(), "rain")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(p.TaskID, p.Outcome, p.Transcript.Tokens, "tokens")
	fmt.Println("asked again:", sdk.Again(p).ReplayOf)
	// Output:
	// rain completed 2 tokens
	// asked again: rain
}

// said collects a stream.
func said(events func(func(sdk.Event, error) bool)) (text string, calls []sdk.Call, err error) {
	for event, err := range events {
		if err != nil {
			return "", nil, err
		}
		switch e := event.(type) {
		case sdk.Token:
			text += e.Text
		case sdk.ErrorEvent:
			return "", nil, e.Err
		case sdk.End:
			calls = e.ToolCalls
		}
	}
	return text, calls, nil
}
