// SPDX-License-Identifier: GPL-3.0-or-later

// Package llm invokes tasks and gives their answers whole, one or many at once.
package llm

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"sync"
	"sync/atomic"

	"github.com/google/uuid"

	"github.com/llama-orch/llama-orch/sdk"
)

// Caller runs a task as sdk.Client.Run does: the events of its stream, the first Started, the last End or ErrorEvent. A client is one, a golden transcript
// is another, and a guard wraps one.
type Caller interface {
	Run(ctx context.Context, request *sdk.TaskRequest) iter.Seq2[sdk.Event, error]
}

// Answer is what a task answered, whole.
type Answer struct {
	TaskID    string           `json:"task_id"`
	Text      string           `json:"text"`
	Reasoning string           `json:"reasoning,omitempty"`
	Calls     []sdk.Call       `json:"calls,omitempty"`  // of tools
	Result    json.RawMessage  `json:"result,omitempty"` // of an embedding or rerank
	Finish    sdk.FinishReason `json:"finish"`
	TokensIn  int              `json:"tokens_in"`
	TokensOut int              `json:"tokens_out"`
	Seed      int64            `json:"seed"`
	Receipt   sdk.Receipt      `json:"receipt"`
}

// Message is the answer as a message of the next turn.
func (a *Answer) Message() sdk.Message { return sdk.Said(a.Text, a.Reasoning, a.Calls) }

// ErrCut says that a stream ended without its last event. No caller of the SDK does that.
var ErrCut = errors.New("the stream ended before its task did: run the task again")

// Invoke runs a task and gives its answer. A task that ends without one is the *sdk.Error that says why.
func Invoke(ctx context.Context, caller Caller, request *sdk.TaskRequest) (*Answer, error) {
	return Stream(ctx, caller, request, nil)
}

// Stream runs a task, shows each of its events as it comes, and gives the answer. An error of each ends the task, and is returned as it is.
func Stream(ctx context.Context, caller Caller, request *sdk.TaskRequest, each func(sdk.Event) error) (*Answer, error) {
	a := &Answer{}
	var text, reasoning []byte
	for event, err := range caller.Run(ctx, request) {
		if err == nil && each != nil {
			err = each(event)
		}
		if err != nil {
			return nil, err
		}
		switch e := event.(type) {
		case sdk.Started:
			a.TaskID = e.TaskID
		case sdk.Token:
			text = append(text, e.Text...)
		case sdk.Reasoning:
			reasoning = append(reasoning, e.Text...)
		case sdk.ErrorEvent:
			return nil, e.Err
		case sdk.End:
			a.Text, a.Reasoning, a.Calls, a.Result = string(text), string(reasoning), e.ToolCalls, e.Result
			a.Finish, a.TokensIn, a.TokensOut, a.Seed, a.Receipt = e.FinishReason, e.TokensIn, e.TokensOut, e.Receipt.Seed, e.Receipt
			return a, nil
		}
	}
	return nil, ErrCut
}

// Patient runs what another caller runs, and tries again while the server refuses the task for now, as sdk.Backoff does. What was accepted is never run a second time: a
// request without a task id gets one.
func Patient(caller Caller, p sdk.Patience) Caller { return patient{caller, p} }

type patient struct {
	Caller

	patience sdk.Patience
}

func (p patient) Run(ctx context.Context, request *sdk.TaskRequest) iter.Seq2[sdk.Event, error] {
	return func(yield func(sdk.Event, error) bool) {
		own := *request
		own.TaskID = cmp.Or(own.TaskID, uuid.NewString())
		begun := false
		_, err := sdk.Backoff(ctx, p.patience, func(ctx context.Context) (struct{}, error) {
			for event, err := range p.Caller.Run(ctx, &own) {
				if err != nil && !begun {
					return struct{}{}, err
				}
				begun = true
				if !yield(event, err) {
					break
				}
			}
			return struct{}{}, nil
		})
		if err != nil {
			yield(nil, err)
		}
	}
}

// PartError says which of many requests failed.
type PartError struct {
	Index int
	Err   error
}

func (e *PartError) Error() string { return fmt.Sprintf("request %d: %v", e.Index, e.Err) }

func (e *PartError) Unwrap() error { return e.Err }

// DefaultBound is how many tasks Many runs at once where it is not told.
const DefaultBound = 8

// Many runs tasks, at most bound at once, and gives their answers in the order of the requests. One that fails leaves the others alone: its answer is nil, and
// the error joins a *PartError for each. A context that ends, ends all.
func Many(ctx context.Context, caller Caller, bound int, requests []*sdk.TaskRequest) ([]*Answer, error) {
	if bound <= 0 {
		bound = DefaultBound
	}
	answers, failures := make([]*Answer, len(requests)), make([]error, len(requests))
	var next atomic.Int64
	var group sync.WaitGroup
	for range min(bound, len(requests)) {
		group.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(requests); i = int(next.Add(1)) - 1 {
				answer, err := Invoke(ctx, caller, requests[i])
				if err != nil {
					failures[i] = &PartError{Index: i, Err: err}
				}
				answers[i] = answer
			}
		})
	}
	group.Wait()
	return answers, errors.Join(failures...)
}
