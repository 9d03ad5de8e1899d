// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/responses"
)

func openAI(base string) []test {
	client := openai.NewClient(option.WithBaseURL(base+"/v1"), option.WithAPIKey("sk-any"))
	plain := openai.ChatCompletionNewParams{
		Model: "haiku", Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage(haiku)}, Seed: openai.Int(7), Temperature: openai.Float(0.8),
	}
	weather := openai.ChatCompletionNewParams{
		Model: "scripted", Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage(inOslo)},
		Tools: []openai.ChatCompletionToolUnionParam{openai.ChatCompletionFunctionTool(openai.FunctionDefinitionParam{Name: "get_weather", Parameters: town})},
	}
	streamed := func(ctx context.Context, p openai.ChatCompletionNewParams) (openai.ChatCompletionMessage, error) {
		stream, all := client.Chat.Completions.NewStreaming(ctx, p), openai.ChatCompletionAccumulator{}
		for stream.Next() {
			all.AddChunk(stream.Current())
		}
		if err := stream.Err(); err != nil {
			return openai.ChatCompletionMessage{}, err
		}
		if len(all.Choices) != 1 || all.Choices[0].FinishReason == "" {
			return openai.ChatCompletionMessage{}, errors.New("the stream had no finish reason")
		}
		return all.Choices[0].Message, nil
	}
	return []test{
		{"openai: chat, whole and streamed", func(ctx context.Context) error {
			whole, err := client.Chat.Completions.New(ctx, plain)
			if err != nil {
				return err
			}
			got, err := streamed(ctx, plain)
			return errors.Join(err, same("the streamed text", got.Content, whole.Choices[0].Message.Content))
		}},
		{"openai: tools", func(ctx context.Context) error {
			got, err := streamed(ctx, weather)
			if err != nil {
				return err
			}
			whole, err := client.Chat.Completions.New(ctx, weather)
			if err != nil {
				return err
			}
			call := whole.Choices[0].Message.ToolCalls[0]
			if err := same("the streamed call", got.ToolCalls[0].Function.Arguments, call.Function.Arguments); err != nil {
				return err
			}
			then := weather
			then.Messages = append(then.Messages[:1:1], whole.Choices[0].Message.ToParam(), openai.ToolMessage("12 degrees", call.ID))
			answer, err := client.Chat.Completions.New(ctx, then)
			if err != nil {
				return err
			}
			return same("the answer", answer.Choices[0].Message.Content, inAnswer)
		}},
		{"openai: responses", func(ctx context.Context) error {
			p := responses.ResponseNewParams{Model: "scripted", Input: responses.ResponseNewParamsInputUnion{OfString: openai.String(asJSON)}}
			whole, err := client.Responses.New(ctx, p)
			if err != nil {
				return err
			}
			stream, text, last := client.Responses.NewStreaming(ctx, p), "", ""
			for stream.Next() {
				e := stream.Current()
				last = e.Type
				if e.Type == "response.output_text.delta" {
					text += e.Delta
				}
			}
			return errors.Join(stream.Err(), same("the streamed text", text, whole.OutputText()), same("the last event", last, "response.completed"))
		}},
		{"openai: responses that are kept", func(ctx context.Context) error {
			p := responses.ResponseNewParams{
				Model: "slow-haiku", Input: responses.ResponseNewParamsInputUnion{OfString: openai.String(haiku)}, Background: openai.Bool(true),
			}
			stream, seen, id := client.Responses.NewStreaming(ctx, p), []string{}, ""
			for stream.Next() {
				e := stream.Current()
				if seen = append(seen, e.RawJSON()); id == "" {
					id = e.Response.ID
				}
				if len(seen) == 12 {
					if err := restart(ctx); err != nil {
						return err
					}
				}
			}
			if stream.Err() == nil {
				return errors.New("the stream of a daemon that was killed ended cleanly")
			}
			rest := client.Responses.GetStreaming(ctx, id, responses.ResponseGetParams{StartingAfter: openai.Int(int64(len(seen) - 1))})
			for rest.Next() {
				seen = append(seen, rest.Current().RawJSON())
			}
			whole, all := client.Responses.GetStreaming(ctx, id, responses.ResponseGetParams{}), []string{}
			for whole.Next() {
				all = append(all, whole.Current().RawJSON())
			}
			if err := errors.Join(rest.Err(), whole.Err(), same("the SHA-256 of the events", sum(seen), sum(all))); err != nil {
				return err
			}
			got, err := client.Responses.Get(ctx, id, responses.ResponseGetParams{})
			if err != nil {
				return err
			}
			next, err := client.Responses.New(ctx, responses.ResponseNewParams{
				Model: "scripted", Input: responses.ResponseNewParamsInputUnion{OfString: openai.String(asJSON)}, PreviousResponseID: openai.String(id),
			})
			if err != nil {
				return err
			}
			items, err := client.Responses.InputItems.List(ctx, next.ID, responses.InputItemListParams{Order: "asc"})
			if err != nil {
				return err
			}
			said, err := json.Marshal(got.OutputText())
			if err != nil {
				return err
			}
			if err := errors.Join(same("the status", got.Status, "completed"), same("the number of items", len(items.Data), 3),
				same("what was said", strings.Contains(items.Data[1].RawJSON(), string(said)), true)); err != nil {
				return err
			}
			if err := client.Responses.Delete(ctx, id); err != nil {
				return err
			}
			_, err = client.Responses.Get(ctx, id, responses.ResponseGetParams{})
			if gone, ok := errors.AsType[*openai.Error](err); !ok || gone.StatusCode != 404 {
				return fmt.Errorf("a response that is deleted gives %w", err)
			}
			p.Model, p.Input.OfString = "scripted", openai.String("Wait for me")
			waits, err := client.Responses.New(ctx, p)
			if err != nil {
				return err
			}
			ended, err := client.Responses.Cancel(ctx, waits.ID)
			if err != nil {
				return err
			}
			return errors.Join(same("the status of what was begun", waits.Status, "queued"), same("the status of what was canceled", ended.Status, "cancelled"))
		}},
		{"openai: embeddings", func(ctx context.Context) error {
			got, err := client.Embeddings.New(ctx, openai.EmbeddingNewParams{
				Model: "vectors", Input: openai.EmbeddingNewParamsInputUnion{OfArrayOfStrings: []string{"tea", "frogs"}},
			})
			if err != nil {
				return err
			}
			return errors.Join(same("the number of vectors", len(got.Data), 2), same("a vector is empty", len(got.Data[1].Embedding) == 0, false))
		}},
		{"openai: models and errors", func(ctx context.Context) error {
			if _, err := client.Models.Get(ctx, "haiku"); err != nil {
				return err
			}
			wrong := plain
			wrong.Model = "gpt-4o"
			_, err := client.Chat.Completions.New(ctx, wrong)
			if refused, ok := errors.AsType[*openai.Error](err); ok {
				return errors.Join(same("the status", refused.StatusCode, 404), same("the code", refused.Code, "model_not_found"))
			}
			return fmt.Errorf("an unknown model gives %w", err)
		}},
	}
}
