// SPDX-License-Identifier: GPL-3.0-or-later

package applet

import (
	"context"
	"encoding/json"
	"iter"

	"github.com/llama-orch/llama-orch/sdk"
	"github.com/llama-orch/llama-orch/utils/llm"
	"github.com/llama-orch/llama-orch/utils/schema"
)

// The inputs and results of llm.*.
type (
	// Ask is a task in short. Go programs have all of sdk.TaskRequest.
	Ask struct {
		Model       string    `json:"model"`
		Prompt      string    `json:"prompt,omitempty" jsonschema:"description=a text to go on with\\, as it is; or else:"`
		System      string    `json:"system,omitempty" jsonschema:"description=what a chat begins with"`
		User        string    `json:"user,omitempty" jsonschema:"description=what the user says"`
		Messages    []Message `json:"messages,omitempty" jsonschema:"description=the turns before"`
		MaxTokens   int       `json:"max_tokens,omitempty" jsonschema:"minimum=1"`
		Seed        *int64    `json:"seed,omitempty" jsonschema:"description=the same seed gives the same answer; default: chosen by the server"`
		Temperature *float64  `json:"temperature,omitempty" jsonschema:"minimum=0"`
		Stop        []string  `json:"stop,omitempty" jsonschema:"description=texts that end the answer"`
		Think       bool      `json:"think,omitempty" jsonschema:"description=tell thoughts from the answer"`
	}
	AskJSON struct {
		Ask
		Schema json.RawMessage `json:"schema" jsonschema:"description=the JSON schema of the answer"`
	}
	AskMany struct {
		Requests []Ask `json:"requests"`
		Bound    int   `json:"bound,omitempty" jsonschema:"minimum=1,description=how many at once"`
	}
	Answer struct {
		Text      string `json:"text"`
		Reasoning string `json:"reasoning,omitempty"`
		Finish    string `json:"finish"`
		TokensIn  int    `json:"tokens_in"`
		TokensOut int    `json:"tokens_out"`
		Seed      int64  `json:"seed"`
		TaskID    string `json:"task_id"`
		// The receipt is whole in the proof bundle; these two say whether two answers are the same, of the same engine.
		Fingerprint string `json:"fingerprint,omitempty"`
		Transcript  string `json:"transcript_sha256,omitempty"`
	}
	AnswerJSON struct {
		Value  json.RawMessage `json:"value"`
		Answer Answer          `json:"answer"`
	}
	Answers struct {
		Answers []Answer `json:"answers"`
	}
)

func (a *Ask) request() *sdk.TaskRequest {
	r := &sdk.TaskRequest{ModelRef: a.Model, Prompt: a.Prompt, MaxTokens: a.MaxTokens, Seed: a.Seed}
	if a.System != "" {
		r.Messages = append(r.Messages, sdk.Say(sdk.RoleSystem, a.System))
	}
	r.Messages = append(r.Messages, messages(a.Messages)...)
	if a.User != "" {
		r.Messages = append(r.Messages, sdk.Say(sdk.RoleUser, a.User))
	}
	if a.Temperature != nil || len(a.Stop) > 0 {
		r.Params = &sdk.Params{Temperature: a.Temperature, Stop: a.Stop}
	}
	if a.Think {
		r.Reasoning = &sdk.ReasoningWish{Split: true}
	}
	return r
}

// telling tells of each task that its caller begins, also of those that fail.
type telling struct {
	llm.Caller

	task func(id string)
}

// Run implements llm.Caller.
func (t telling) Run(ctx context.Context, request *sdk.TaskRequest) iter.Seq2[sdk.Event, error] {
	return func(yield func(sdk.Event, error) bool) {
		for event, err := range t.Caller.Run(ctx, request) {
			if e, ok := event.(sdk.Started); ok && e.TaskID != "" {
				t.task(e.TaskID)
			}
			if !yield(event, err) {
				return
			}
		}
	}
}

// caller returns the caller, which waits while the server refuses a task for now, held to the guard.
func (e *Env) caller(applet string) (llm.Caller, error) {
	if e.Caller == nil {
		return nil, &NeedError{Applet: applet, What: "a server: give its address"}
	}
	caller := llm.Patient(e.Caller, sdk.Patience{OnWait: e.Wait})
	if e.Guard != nil {
		caller = e.Guard.Caller(caller)
	}
	if e.Task != nil {
		caller = telling{Caller: caller, task: e.Task}
	}
	return caller, nil
}

// brief gives an answer in short.
func brief(a *llm.Answer) Answer {
	if a == nil {
		return Answer{}
	}
	return Answer{
		Text: a.Text, Reasoning: a.Reasoning, Finish: string(a.Finish), TokensIn: a.TokensIn, TokensOut: a.TokensOut, Seed: a.Seed, TaskID: a.TaskID,
		Fingerprint: a.Receipt.Fingerprint, Transcript: a.Receipt.TranscriptSHA256,
	}
}

func invoke(ctx context.Context, caller llm.Caller, in Ask) (Answer, error) {
	answer, err := llm.Invoke(ctx, caller, in.request())
	return brief(answer), err
}

func models() Catalog {
	return Catalog{
		New("llm.invoke", "Asks a model and gives its answer.", func(ctx context.Context, env *Env, in Ask) (Answer, error) {
			caller, err := env.caller("llm.invoke")
			if err != nil {
				return Answer{}, err
			}
			return invoke(ctx, caller, in)
		}),
		New("llm.json", "Asks a model for JSON of a schema, and once more if the answer does not fit.", func(ctx context.Context, env *Env, in AskJSON) (AnswerJSON, error) {
			caller, err := env.caller("llm.json")
			if err != nil {
				return AnswerJSON{}, err
			}
			form, err := schema.Compile(in.Schema)
			if err != nil {
				return AnswerJSON{}, err
			}
			value, answer, err := form.Answer(ctx, caller, in.request())
			return AnswerJSON{Value: value, Answer: brief(answer)}, err
		}),
		New("llm.many", "Asks many times, some at once, and gives the answers in order.", func(ctx context.Context, env *Env, in AskMany) (Answers, error) {
			caller, err := env.caller("llm.many")
			if err != nil {
				return Answers{}, err
			}
			requests := make([]*sdk.TaskRequest, len(in.Requests))
			for i := range in.Requests {
				requests[i] = in.Requests[i].request()
			}
			answers, err := llm.Many(ctx, caller, in.Bound, requests)
			out := Answers{Answers: make([]Answer, len(answers))}
			for i, a := range answers {
				out.Answers[i] = brief(a)
			}
			return out, err
		}),
	}
}
