// SPDX-License-Identifier: GPL-3.0-or-later

package schema

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/llama-orch/llama-orch/sdk"
	"github.com/llama-orch/llama-orch/utils/extract"
	"github.com/llama-orch/llama-orch/utils/llm"
)

// AnswerError says that a model's answer was not of the form, also when it was asked again.
type AnswerError struct {
	Answer *llm.Answer // the last one
	Err    error       // *BrokenError, *MismatchError or *extract.NotFoundError
}

func (e *AnswerError) Error() string {
	advice := "take a model that follows schemas, or ask for less at once"
	if e.Answer.Finish == sdk.FinishReasonLength {
		advice = "it was cut off: raise max_tokens"
	}
	return fmt.Sprintf("the model did not answer in the form that was asked for, not even when told what was wrong: %v; %s", e.Err, advice)
}

func (e *AnswerError) Unwrap() error { return e.Err }

// Ask asks for an answer of the form of T, and decodes it. The engine's grammar holds the model to the schema; where an answer does not fit all the same, it is
// asked once more, with what was wrong. The answer is the last one.
func Ask[T any](ctx context.Context, caller llm.Caller, request *sdk.TaskRequest) (T, *llm.Answer, error) {
	var value T
	raw, answer, err := ask(ctx, caller, request, Of[T]())
	if err == nil {
		value, err = Decode[T](raw)
	}
	return value, answer, err
}

// Answer asks for an answer that the schema allows, as Ask does.
func (s *Schema) Answer(ctx context.Context, caller llm.Caller, request *sdk.TaskRequest) ([]byte, *llm.Answer, error) {
	return ask(ctx, caller, request, s)
}

func ask(ctx context.Context, caller llm.Caller, request *sdk.TaskRequest, s *Schema) ([]byte, *llm.Answer, error) {
	own := *request
	own.Format = &sdk.Format{Type: sdk.FormatTypeJSONSchema, Schema: s.raw}
	answer, err := llm.Invoke(ctx, caller, &own)
	if err != nil {
		return nil, answer, err
	}
	raw, wrong := s.find(answer.Text)
	if wrong == nil {
		return raw, answer, nil
	}
	again := own
	complaint := fmt.Sprintf("That is not what I asked for: %s. Answer again, with JSON alone that fits the schema.", wrong)
	again.TaskID = "" // another task
	if again.Prompt != "" {
		again.Prompt += answer.Text + "\n\n" + complaint + "\n\n"
	} else {
		again.Messages = append(slices.Clip(own.Messages), answer.Message(), sdk.Say(sdk.RoleUser, complaint))
	}
	if answer, err = llm.Invoke(ctx, caller, &again); err != nil {
		return nil, answer, err
	}
	if raw, wrong = s.find(answer.Text); wrong != nil {
		return nil, answer, &AnswerError{Answer: answer, Err: wrong}
	}
	return raw, answer, nil
}

// find finds the JSON in an answer. What is wrong is said of the whole answer, where that is JSON.
func (s *Schema) find(text string) ([]byte, error) {
	raw, err := extract.JSON(text, s.Check)
	if err == nil {
		return raw, nil
	}
	whole := s.Check([]byte(text))
	if mismatch, ok := errors.AsType[*MismatchError](whole); ok {
		return nil, mismatch
	}
	return nil, err
}
