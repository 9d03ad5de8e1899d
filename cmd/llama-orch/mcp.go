// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/llama-orch/llama-orch/sdk"
)

// mcpCmd is an MCP server on standard input and output.
type mcpCmd struct {
	Model string `short:"m" placeholder:"REF" help:"Model of tasks that name none (default: the only one the server serves)."`
}

// maxWait bounds how long a tool waits for an answer. The programs that call tools have limits of their own.
const maxWait = time.Minute

const mcpInstructions = `Hand work to the language models of this machine. submit puts a task in line and returns at once with its id and its place in line; go on with
something else, and fetch the answer with result, now or in another session. Batch tasks wait behind those of people. Nothing that was accepted is lost, also if this program ends.`

// Run serves until standard input ends.
func (c *mcpCmd) Run(a *app) error {
	server := mcp.NewServer(&mcp.Implementation{Name: "llama-orch", Title: "llama-orch", Version: version}, &mcp.ServerOptions{Instructions: mcpInstructions})
	t := &tools{a: a, model: c.Model}
	reads, adds, ends := &mcp.ToolAnnotations{ReadOnlyHint: true}, &mcp.ToolAnnotations{DestructiveHint: new(false)}, &mcp.ToolAnnotations{IdempotentHint: true}
	add(server, "submit", "Put a task in line for a language model, and return its id and place in line without waiting for the answer.", adds, t.submit)
	add(server, "status", "Say how a task stands: its state, how many are ahead of it, and when it will start.", reads, t.status)
	add(server, "result", "Fetch the answer of a task, or say how it stands if it has not ended. wait_ms waits for it, up to a minute.", reads, t.result)
	add(server, "cancel", "Cancel a task.", ends, t.cancel)
	add(server, "tasks", "List recent tasks, newest first.", reads, t.tasks)
	add(server, "models", "List the models that can be asked, with what they can do and how many tasks wait for them.", reads, t.models)
	err := server.Run(a.ctx, &mcp.IOTransport{Reader: io.NopCloser(a.stdin), Writer: open{a.out}})
	if a.ctx.Err() != nil {
		return a.ctx.Err()
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("serving MCP: %w", err)
	}
	return nil
}

// open keeps a writer open that is not this command's to close.
type open struct{ io.Writer }

func (open) Close() error { return nil }

// add adds a tool, whose errors are its result: the model that called it reads what to do.
func add[In, Out any](server *mcp.Server, name, what string, hints *mcp.ToolAnnotations, do func(context.Context, In) (Out, error)) {
	mcp.AddTool(server, &mcp.Tool{Name: name, Description: what, Annotations: hints}, func(ctx context.Context, _ *mcp.CallToolRequest, in In) (*mcp.CallToolResult, Out, error) {
		out, err := do(ctx, in)
		return nil, out, err
	})
}

// tools are what an agent can do.
type tools struct {
	a     *app
	model string
}

// words puts an error in words, with what to do.
func (t *tools) words(err error) error {
	message, label, hint, after := t.a.explain(err)
	if label != "" {
		message += " (" + label + ")"
	}
	if after > 0 {
		message += "; try again in " + duration(after.Milliseconds())
	}
	if hint != "" {
		message += "; " + hint
	}
	return errors.New(message)
}

type submitIn struct {
	Prompt      string   `json:"prompt" jsonschema:"what to ask, with everything the model needs to know"`
	System      string   `json:"system,omitempty" jsonschema:"a system message before it"`
	Model       string   `json:"model,omitempty" jsonschema:"one of the names that the tool models lists; may be left out where there is only one"`
	Priority    string   `json:"priority,omitempty" jsonschema:"batch (the default) or interactive, which goes before batch"`
	MaxTokens   int      `json:"max_tokens,omitempty" jsonschema:"the most tokens of the answer"`
	Temperature *float64 `json:"temperature,omitempty" jsonschema:"0 always takes the likeliest token"`
	Seed        *int64   `json:"seed,omitempty" jsonschema:"the same seed gives the same answer"`
	TaskID      string   `json:"task_id,omitempty" jsonschema:"an id of your own; the same submit again with the same id is the same task"`
}

type submitOut struct {
	TaskID           string `json:"task_id"`
	PoolID           string `json:"pool_id"`
	QueuePosition    int    `json:"queue_position" jsonschema:"tasks ahead"`
	PredictedStartMS int64  `json:"predicted_start_ms"`
	Seed             int64  `json:"seed"`
}

func (t *tools) submit(ctx context.Context, in submitIn) (out submitOut, err error) {
	model := cmp.Or(in.Model, t.model)
	if model == "" {
		if model, err = (&runCmd{}).onlyModel(t.a); err != nil {
			return out, t.words(err)
		}
	}
	request := &sdk.TaskRequest{
		ModelRef: model, TaskID: cmp.Or(in.TaskID, uuid.NewString()), Priority: sdk.Priority(cmp.Or(in.Priority, string(sdk.PriorityBatch))), Seed: in.Seed, MaxTokens: in.MaxTokens,
	}
	request.Prompt = in.Prompt
	if in.System != "" {
		request.Prompt, request.Messages = "", []sdk.Message{sdk.Say(sdk.RoleSystem, in.System), sdk.Say(sdk.RoleUser, in.Prompt)}
	}
	if in.Temperature != nil {
		request.Params = &sdk.Params{Temperature: in.Temperature}
	}
	admission, err := t.a.client.Submit(ctx, request)
	if err != nil {
		return out, t.words(err)
	}
	return submitOut{admission.TaskID, admission.PoolID, admission.QueuePosition, admission.PredictedStartMS, admission.Seed}, nil
}

type taskIn struct {
	TaskID string `json:"task_id" jsonschema:"the id that submit returned"`
}

type taskOut struct {
	TaskID           string `json:"task_id"`
	State            string `json:"state" jsonschema:"queued, running, completed, failed or canceled"`
	Model            string `json:"model"`
	PoolID           string `json:"pool_id"`
	QueuePosition    int    `json:"queue_position" jsonschema:"tasks ahead"`
	PredictedStartMS int64  `json:"predicted_start_ms,omitempty"`
	TokensOut        int    `json:"tokens_out"`
	Error            string `json:"error,omitempty" jsonschema:"why it failed, and what to do"`
}

func (t *tools) standing(s *sdk.TaskStatus) taskOut {
	out := taskOut{TaskID: s.TaskID, State: string(s.State), Model: s.ModelRef, PoolID: s.PoolID, QueuePosition: s.QueuePosition, TokensOut: s.TokensOut}
	if s.State == sdk.TaskStateQueued {
		out.PredictedStartMS = s.PredictedStartMS
	}
	if s.Error != nil {
		out.Error = t.words(s.Error).Error()
	}
	return out
}

func (t *tools) status(ctx context.Context, in taskIn) (out taskOut, err error) {
	s, err := t.a.client.Get(ctx, in.TaskID)
	if err != nil {
		return out, t.words(err)
	}
	return t.standing(s), nil
}

type resultIn struct {
	TaskID string `json:"task_id" jsonschema:"the id that submit returned"`
	WaitMS int64  `json:"wait_ms,omitempty" jsonschema:"how long to wait for the answer, in milliseconds; at most 60000"`
}

type resultOut struct {
	Task         taskOut `json:"task"`
	Text         string  `json:"text,omitempty" jsonschema:"the answer"`
	Reasoning    string  `json:"reasoning,omitempty"`
	FinishReason string  `json:"finish_reason,omitempty" jsonschema:"length means that the answer was cut"`
	Seed         int64   `json:"seed,omitempty"`
	Fingerprint  string  `json:"fingerprint,omitempty"`
	SHA256       string  `json:"transcript_sha256,omitempty" jsonschema:"of the answer; the same fingerprint and request give the same"`
}

func (t *tools) result(ctx context.Context, in resultIn) (out resultOut, err error) {
	s, err := t.a.client.Get(ctx, in.TaskID)
	if err != nil {
		return out, t.words(err)
	}
	waits := min(time.Duration(max(in.WaitMS, 0))*time.Millisecond, maxWait)
	if over := s.State != sdk.TaskStateQueued && s.State != sdk.TaskStateRunning; !over && waits == 0 {
		return resultOut{Task: t.standing(s)}, nil
	} else if !over {
		bounded, cancel := context.WithTimeout(ctx, waits)
		defer cancel()
		out, err = t.answer(bounded, in.TaskID)
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil { // it has not ended, which is no error
			out, err = resultOut{}, nil
		}
	} else {
		out, err = t.answer(ctx, in.TaskID)
	}
	if err != nil {
		return out, t.words(err)
	}
	if s, err = t.a.client.Get(ctx, in.TaskID); err != nil {
		return out, t.words(err)
	}
	out.Task = t.standing(s)
	return out, nil
}

// answer reads a task's stream to its end.
func (t *tools) answer(ctx context.Context, id string) (out resultOut, err error) {
	var text, reasoning strings.Builder
	for event, err := range t.a.client.Stream(ctx, id, "") {
		if err != nil {
			return out, err
		}
		switch e := event.(type) {
		case sdk.Token:
			text.WriteString(e.Text)
		case sdk.Reasoning:
			reasoning.WriteString(e.Text)
		case sdk.End:
			out.FinishReason, out.Seed, out.Fingerprint, out.SHA256 = string(e.FinishReason), e.Receipt.Seed, e.Receipt.Fingerprint, e.Receipt.TranscriptSHA256
			if len(e.Result) > 0 {
				text.Write(e.Result)
			}
		}
	}
	out.Text, out.Reasoning = text.String(), reasoning.String()
	return out, nil
}

type cancelOut struct {
	Outcome string `json:"outcome" jsonschema:"canceled, or how the task had ended before"`
}

func (t *tools) cancel(ctx context.Context, in taskIn) (out cancelOut, err error) {
	r, err := t.a.client.Cancel(ctx, in.TaskID)
	if err != nil {
		return out, t.words(err)
	}
	return cancelOut{string(r.Outcome)}, nil
}

type tasksIn struct {
	State string `json:"state,omitempty" jsonschema:"queued, running, completed, failed or canceled; left out: all"`
	Limit int    `json:"limit,omitempty" jsonschema:"at most so many, up to 100; left out: 20"`
}

type tasksOut struct {
	Tasks []taskOut `json:"tasks"`
}

func (t *tools) tasks(ctx context.Context, in tasksIn) (tasksOut, error) {
	out := tasksOut{Tasks: []taskOut{}}
	const most, usual = 100, 20
	list, err := t.a.client.List(ctx, sdk.TaskState(in.State), min(cmp.Or(max(in.Limit, 0), usual), most))
	if err != nil {
		return out, t.words(err)
	}
	for _, s := range usersTasks(list) {
		out.Tasks = append(out.Tasks, t.standing(&s))
	}
	return out, nil
}

type modelOut struct {
	Model    string   `json:"model"`
	PoolID   string   `json:"pool_id"`
	State    string   `json:"state"`
	Workload string   `json:"workload"`
	Ctx      int      `json:"ctx" jsonschema:"context in tokens"`
	Waiting  int      `json:"waiting"`
	Features []string `json:"features"`
}

type modelsOut struct {
	Models []modelOut `json:"models"`
}

func (t *tools) models(ctx context.Context, _ struct{}) (modelsOut, error) {
	out := modelsOut{Models: []modelOut{}}
	pools, err := t.a.client.Pools(ctx)
	if err != nil {
		return out, t.words(err)
	}
	for _, p := range pools {
		m := modelOut{Model: p.Model.ID, PoolID: p.ID, State: string(p.State), Workload: string(p.Workload), Ctx: p.Ctx, Waiting: p.Queue.Depth, Features: []string{}}
		for _, f := range p.Features {
			m.Features = append(m.Features, string(f))
		}
		out.Models = append(out.Models, m)
	}
	return out, nil
}
