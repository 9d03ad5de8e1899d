// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/ollama/ollama/api"
)

func ollamaCases(base string) []test {
	address, err := url.Parse(base)
	if err != nil {
		return []test{{"ollama: chat, whole and streamed", func(context.Context) error { return err }}}
	}
	client := api.NewClient(address, http.DefaultClient)
	options := map[string]any{"seed": 7, "temperature": 0}
	// chat returns the text and the calls of an answer.
	chat := func(ctx context.Context, stream bool, r api.ChatRequest) (text string, calls []api.ToolCall, err error) {
		r.Stream, r.Options = &stream, options
		done := ""
		err = client.Chat(ctx, &r, func(line api.ChatResponse) error {
			text += line.Message.Content
			calls = append(calls, line.Message.ToolCalls...)
			if line.Done {
				done = line.DoneReason
			}
			return nil
		})
		return text, calls, errors.Join(err, same("the end", done, "stop"))
	}
	return []test{
		{"ollama: chat, whole and streamed", func(ctx context.Context) error {
			r := api.ChatRequest{Model: "haiku", Messages: []api.Message{{Role: "user", Content: haiku}}}
			whole, _, err := chat(ctx, false, r)
			if err != nil {
				return err
			}
			streamed, _, err := chat(ctx, true, r)
			return errors.Join(err, same("the streamed text", streamed, whole))
		}},
		{"ollama: tools", func(ctx context.Context) error {
			var tools api.Tools
			data, err := json.Marshal([]any{map[string]any{"type": "function", "function": map[string]any{"name": "get_weather", "parameters": town}}})
			if err != nil {
				return err
			}
			if err := json.Unmarshal(data, &tools); err != nil {
				return err
			}
			r := api.ChatRequest{Model: "scripted", Tools: tools, Messages: []api.Message{{Role: "user", Content: inOslo}}}
			text, calls, err := chat(ctx, true, r)
			if err != nil {
				return err
			}
			if len(calls) != 1 {
				return fmt.Errorf("there are %d calls", len(calls))
			}
			if in, err := city(calls[0].Function.Arguments.String()); err != nil || in != "Oslo" {
				return fmt.Errorf("the call's arguments are %s: %w", calls[0].Function.Arguments.String(), err)
			}
			r.Messages = append(r.Messages, api.Message{Role: "assistant", Content: text, ToolCalls: calls}, api.Message{Role: "tool", ToolName: "get_weather", Content: "12 degrees"})
			text, _, err = chat(ctx, false, r)
			return errors.Join(err, same("the answer", text, inAnswer))
		}},
		{"ollama: embed", func(ctx context.Context) error {
			got, err := client.Embed(ctx, &api.EmbedRequest{Model: "vectors", Input: []string{"tea", "frogs"}})
			if err != nil {
				return err
			}
			return same("the number of vectors", len(got.Embeddings), 2)
		}},
		{"ollama: list, show, ps, version and errors", func(ctx context.Context) error {
			_, listed := client.List(ctx)
			_, running := client.ListRunning(ctx)
			_, version := client.Version(ctx)
			shown, err := client.Show(ctx, &api.ShowRequest{Model: "haiku"})
			if err := errors.Join(listed, running, version, err); err != nil {
				return err
			}
			if len(shown.Capabilities) == 0 {
				return errors.New("the model can do nothing")
			}
			_, _, err = chat(ctx, false, api.ChatRequest{Model: "llama3", Messages: []api.Message{{Role: "user", Content: "hi"}}})
			if refused, ok := errors.AsType[api.StatusError](err); ok {
				return same("the status", refused.StatusCode, http.StatusNotFound)
			}
			return fmt.Errorf("an unknown model gives %w", err)
		}},
	}
}
