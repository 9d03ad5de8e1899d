// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/option"
)

func anthropicCases(base string) []test {
	client := anthropic.NewClient(option.WithBaseURL(base), option.WithAPIKey("sk-any"))
	plain := anthropic.MessageNewParams{
		Model: "haiku", MaxTokens: 1000, Temperature: anthropic.Float(0),
		Messages: []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock(haiku))},
	}
	weather := anthropic.MessageNewParams{
		Model: "scripted", MaxTokens: 1000, Messages: []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock(inOslo))},
		Tools: []anthropic.ToolUnionParam{{OfTool: &anthropic.ToolParam{
			Name: "get_weather", InputSchema: anthropic.ToolInputSchemaParam{Properties: town["properties"], Required: []string{"city"}},
		}}},
	}
	streamed := func(ctx context.Context, p anthropic.MessageNewParams) (all anthropic.Message, err error) {
		stream := client.Messages.NewStreaming(ctx, p)
		for stream.Next() {
			if err := all.Accumulate(stream.Current()); err != nil {
				return all, err
			}
		}
		return all, stream.Err()
	}
	return []test{
		{"anthropic: messages, whole and streamed", func(ctx context.Context) error {
			whole, err := client.Messages.New(ctx, plain)
			if err != nil {
				return err
			}
			got, err := streamed(ctx, plain)
			if err != nil {
				return err
			}
			return errors.Join(same("the streamed text", got.Content[0].Text, whole.Content[0].Text), same("its reason", got.StopReason, anthropic.StopReasonEndTurn))
		}},
		{"anthropic: tools", func(ctx context.Context) error {
			got, err := streamed(ctx, weather)
			if err != nil {
				return err
			}
			call := got.Content[len(got.Content)-1]
			if in, err := city(string(call.Input)); err != nil || in != "Oslo" {
				return fmt.Errorf("the call's input is %s: %w", call.Input, err)
			}
			then := weather
			then.Messages = append(then.Messages[:1:1], got.ToParam(), anthropic.NewUserMessage(anthropic.NewToolResultBlock(call.ID, "12 degrees", false)))
			answer, err := client.Messages.New(ctx, then)
			if err != nil {
				return err
			}
			return same("the answer", answer.Content[0].Text, inAnswer)
		}},
		{"anthropic: count_tokens", func(ctx context.Context) error {
			count, err := client.Messages.CountTokens(ctx, anthropic.MessageCountTokensParams{Model: plain.Model, Messages: plain.Messages})
			if err != nil {
				return err
			}
			whole, err := client.Messages.New(ctx, plain)
			if err != nil {
				return err
			}
			return same("the count", count.InputTokens, whole.Usage.InputTokens+whole.Usage.CacheReadInputTokens)
		}},
		{"anthropic: models and errors", func(ctx context.Context) error {
			if _, err := client.Models.Get(ctx, "haiku", anthropic.ModelGetParams{}); err != nil {
				return err
			}
			wrong := plain
			wrong.Model = "claude-none"
			_, err := client.Messages.New(ctx, wrong)
			if refused, ok := errors.AsType[*anthropic.Error](err); ok {
				return same("the status", refused.StatusCode, 404)
			}
			return fmt.Errorf("an unknown model gives %w", err)
		}},
		{"anthropic: message batches", func(ctx context.Context) error { return messageBatch(ctx, client) }},
	}
}
