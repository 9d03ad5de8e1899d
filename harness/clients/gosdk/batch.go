// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/openai/openai-go/v3"
)

// until polls until something is so.
func until(ctx context.Context, so func() (bool, error)) error {
	for {
		is, err := so()
		if is || err != nil {
			return err
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// openAIBatch runs a batch of one line that can be run and one that cannot.
func openAIBatch(ctx context.Context, client openai.Client) error {
	content := `{"custom_id":"a","method":"POST","url":"/v1/completions","body":{"model":"haiku","prompt":"frogs","max_tokens":3}}` + "\n" +
		`{"custom_id":"b","method":"POST","url":"/v1/completions","body":{"model":"none","prompt":"frogs"}}`
	file, err := client.Files.New(ctx, openai.FileNewParams{File: openai.File(strings.NewReader(content), "in.jsonl", "application/jsonl"), Purpose: openai.FilePurposeBatch})
	if err != nil {
		return err
	}
	batch, err := client.Batches.New(ctx, openai.BatchNewParams{
		InputFileID: file.ID, Endpoint: openai.BatchNewParamsEndpointV1Completions, CompletionWindow: openai.BatchNewParamsCompletionWindow24h,
	})
	if err != nil {
		return err
	}
	err = until(ctx, func() (bool, error) {
		batch, err = client.Batches.Get(ctx, batch.ID)
		return err == nil && batch.Status == openai.BatchStatusCompleted, err
	})
	if err != nil {
		return err
	}
	if err := errors.Join(same("what completed", batch.RequestCounts.Completed, 1), same("what failed", batch.RequestCounts.Failed, 1)); err != nil {
		return err
	}
	res, err := client.Files.Content(ctx, batch.OutputFileID)
	if err != nil {
		return err
	}
	text, err := io.ReadAll(res.Body)
	if err = errors.Join(err, res.Body.Close()); err != nil {
		return err
	}
	var line struct {
		CustomID string `json:"custom_id"`
		Response struct {
			Body openai.Completion `json:"body"`
		} `json:"response"`
	}
	if err := json.Unmarshal(text, &line); err != nil {
		return fmt.Errorf("%q: %w", text, err)
	}
	if line.Response.Body.Choices[0].Text == "" {
		return errors.New("the line says nothing")
	}
	return same("the line", line.CustomID, "a")
}

// messageBatch runs a message batch of one request that can be run and one that cannot.
func messageBatch(ctx context.Context, client anthropic.Client) error {
	params := func(model string) anthropic.MessageBatchNewParamsRequestParams {
		return anthropic.MessageBatchNewParamsRequestParams{
			Model: anthropic.Model(model), MaxTokens: 4, Messages: []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock(haiku))},
		}
	}
	batch, err := client.Messages.Batches.New(ctx, anthropic.MessageBatchNewParams{
		Requests: []anthropic.MessageBatchNewParamsRequest{{CustomID: "a", Params: params("haiku")}, {CustomID: "b", Params: params("none")}},
	})
	if err != nil {
		return err
	}
	err = until(ctx, func() (bool, error) {
		batch, err = client.Messages.Batches.Get(ctx, batch.ID, anthropic.MessageBatchGetParams{})
		return err == nil && batch.ProcessingStatus == anthropic.MessageBatchProcessingStatusEnded, err
	})
	if err != nil {
		return err
	}
	results := client.Messages.Batches.ResultsStreaming(ctx, batch.ID, anthropic.MessageBatchResultsParams{})
	got := map[string]string{}
	for results.Next() {
		got[results.Current().CustomID] = results.Current().Result.Type
	}
	if err := results.Err(); err != nil {
		return err
	}
	return errors.Join(same("the results", len(got), 2), same("the first", got["a"], "succeeded"), same("the second", got["b"], "errored"))
}
