// SPDX-License-Identifier: GPL-3.0-or-later

// Package tool makes tools of Go functions and of MCP servers, and runs the loop in which a model calls them (LO-917).
package tool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/llama-orch/llama-orch/internal/nearest"
	"github.com/llama-orch/llama-orch/internal/plainjson"
	"github.com/llama-orch/llama-orch/sdk"
	"github.com/llama-orch/llama-orch/utils/llm"
	"github.com/llama-orch/llama-orch/utils/schema"
)

// DefaultMost is how many answers of the model a loop takes at most.
const DefaultMost = 10

// Tool is a function that a model may call.
type Tool struct {
	Name string
	Doc  string // what it does and when to call it, for the model
	In   *schema.Schema

	call func(ctx context.Context, arguments json.RawMessage) (string, error)
}

// New makes a tool of a function. The model sees the schema of In, with the descriptions of its tags. A result that is a string is given as it is, any other as JSON.
func New[In, Out any](name, doc string, f func(ctx context.Context, in In) (Out, error)) Tool {
	return Tool{Name: name, Doc: doc, In: schema.Of[In](), call: func(ctx context.Context, arguments json.RawMessage) (string, error) {
		in, err := schema.Decode[In](arguments)
		if err != nil {
			return "", err
		}
		out, err := f(ctx, in)
		if err != nil {
			return "", err
		}
		return text(out)
	}}
}

func text(value any) (string, error) {
	if s, ok := value.(string); ok {
		return s, nil
	}
	plain, err := plainjson.Encode(value)
	return string(plain), err
}

// Loop is the loop of calls. Tools is required.
type Loop struct {
	Tools []Tool
	Most  int // answers of the model; default DefaultMost
	// Policy, if set, sees each call before it runs. Its error goes to the model in place of a result, and the loop goes on; ErrStop ends it.
	Policy func(ctx context.Context, call sdk.Call) error
	// Each, if set, sees each event of the model's answers. Its error ends the loop.
	Each func(sdk.Event) error
}

// ErrStop ends a loop where a policy's error wraps it.
var ErrStop = errors.New("the policy ends the loop")

// Done is one call, and what came of it.
type Done struct {
	Call   sdk.Call `json:"call"`
	Result string   `json:"result"`
	Failed bool     `json:"failed,omitempty"`
}

// Result is what a loop came to.
type Result struct {
	Answer   *llm.Answer   // the last one
	Messages []sdk.Message // the thread with all answers and results, to go on with
	Calls    []Done
}

// BoundError says that a model still called tools when the loop's bound was reached. The Result has what was done.
type BoundError struct{ Most int }

func (e *BoundError) Error() string {
	return fmt.Sprintf("the model still calls tools after %d answers: raise the bound, or give it tools that say when they are done", e.Most)
}

// Run asks the model, runs what it calls, gives it the results, and asks again, until it answers without a call. Wrong arguments, an unknown tool and a tool that fails are
// results for the model to mend. The request needs messages; it is not changed. The Result is there with an error, too.
func (l *Loop) Run(ctx context.Context, caller llm.Caller, request *sdk.TaskRequest) (*Result, error) {
	most := l.Most
	if most <= 0 {
		most = DefaultMost
	}
	own := *request
	own.Messages = slices.Clone(request.Messages)
	own.Tools = slices.Clone(request.Tools)
	for _, t := range l.Tools {
		parameters, err := t.In.MarshalJSON()
		if err != nil {
			return nil, err
		}
		own.Tools = append(own.Tools, sdk.Tool{Name: t.Name, Description: t.Doc, Parameters: parameters})
	}
	r := &Result{Messages: own.Messages}
	for range most {
		turn := own
		turn.Messages = slices.Clip(r.Messages)
		answer, err := llm.Stream(ctx, caller, &turn, l.Each)
		if err != nil {
			return r, err
		}
		own.TaskID = "" // each answer is a task of its own
		r.Answer, r.Messages = answer, append(r.Messages, answer.Message())
		if len(answer.Calls) == 0 {
			return r, nil
		}
		for _, call := range answer.Calls {
			done, err := l.run(ctx, call)
			if err != nil {
				return r, err
			}
			r.Calls = append(r.Calls, done)
			r.Messages = append(r.Messages, sdk.Result(call.ID, done.Result))
		}
	}
	return r, &BoundError{Most: most}
}

// run runs one call. Its error ends the loop.
func (l *Loop) run(ctx context.Context, call sdk.Call) (Done, error) {
	if l.Policy != nil {
		if err := l.Policy(ctx, call); err != nil {
			if errors.Is(err, ErrStop) {
				return Done{}, err
			}
			return Done{Call: call, Result: "This call was refused: " + err.Error(), Failed: true}, nil
		}
	}
	names := make([]string, len(l.Tools))
	for i, t := range l.Tools {
		if t.Name == call.Name {
			result, err := t.safely(ctx, call)
			if ctx.Err() != nil {
				return Done{}, context.Cause(ctx)
			}
			if err != nil {
				return Done{Call: call, Result: t.complaint(err), Failed: true}, nil
			}
			return Done{Call: call, Result: result}, nil
		}
		names[i] = t.Name
	}
	result := fmt.Sprintf("There is no tool %q. There are: %s.", call.Name, strings.Join(names, ", "))
	if like := nearest.Name(call.Name, names); like != "" {
		result += fmt.Sprintf(" Did you mean %q?", like)
	}
	return Done{Call: call, Result: result, Failed: true}, nil
}

// safely calls the tool's function. A panic in it is its error.
func (t Tool) safely(ctx context.Context, call sdk.Call) (result string, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &PanicError{Tool: t.Name, Value: p, Stack: debug.Stack()}
		}
	}()
	arguments := call.Arguments
	if strings.TrimSpace(arguments) == "" {
		arguments = "{}"
	}
	return t.call(ctx, json.RawMessage(arguments))
}

// PanicError says that a tool's function broke.
type PanicError struct {
	Tool  string
	Value any
	Stack []byte
}

func (e *PanicError) Error() string { return fmt.Sprintf("the tool %s broke: %v", e.Tool, e.Value) }

// complaint tells the model what was wrong.
func (t Tool) complaint(err error) string {
	_, mismatch := errors.AsType[*schema.MismatchError](err)
	_, broken := errors.AsType[*schema.BrokenError](err)
	if mismatch || broken {
		return fmt.Sprintf("The arguments of %s are wrong: %v. Call it again with arguments that fit its schema.", t.Name, err)
	}
	return fmt.Sprintf("%s failed: %v", t.Name, err)
}
