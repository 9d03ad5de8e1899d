// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"errors"
	"fmt"

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
		{"openai: a request with a key joins its task", func(ctx context.Context) error {
			keyed := option.WithHeader("Idempotency-Key", "go-1")
			first, err := client.Chat.Completions.New(ctx, plain, keyed)
			if err != nil {
				return err
			}
			again, err := client.Chat.Completions.New(ctx, plain, keyed)
			if err != nil {
				return err
			}
			return same("the second answer", again.RawJSON(), first.RawJSON())
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
