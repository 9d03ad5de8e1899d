// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/llama-orch/llama-orch/sdk"
)

// lastWords bounds the time for requests to the server after Ctrl-C.
const lastWords = 5 * time.Second

// maxPrompt bounds what is read from stdin. The server has a lower limit, which its error names.
const maxPrompt = 16 << 20

type runCmd struct {
	Prompt       string   `arg:"" help:"The prompt, as it is; - reads it from stdin."`
	Model        string   `short:"m" placeholder:"REF" help:"Model (default: the only one the server serves)."`
	Chat         bool     `help:"Send the prompt as a user's message, through the model's own template."`
	System       string   `placeholder:"TEXT" help:"A system message before it; implies --chat."`
	Image        []string `sep:"none" placeholder:"FILE" help:"A PNG, JPEG, WebP or GIF to show with it; may be repeated; implies --chat."`
	Tools        string   `placeholder:"FILE" help:"A JSON list of tools that the model may call: name, description, parameters (a JSON schema); implies --chat."`
	ToolChoice   string   `placeholder:"WHICH" help:"auto, none, required, or a tool's name (default: auto)."`
	Format       string   `placeholder:"FILE" help:"A JSON schema that the answer has to fit; json: any JSON object."`
	Reasoning    bool     `help:"Tell the model's thinking from its answer: it goes to stderr; implies --chat."`
	Priority     string   `enum:"interactive,batch" default:"interactive" help:"interactive or batch."`
	Seed         *int64   `placeholder:"N" help:"Seed, 0 to 4294967294 (default: chosen by the server)."`
	MaxTokens    *int     `placeholder:"N" help:"Tokens at most (default: as many as the context holds)."`
	Temperature  *float64 `placeholder:"X" help:"Sampling temperature (default: the pool's)."`
	Stop         []string `sep:"none" placeholder:"TEXT" help:"Text that ends the answer; may be repeated."`
	TaskID       string   `placeholder:"ID" help:"Idempotency key (default: a new UUID)."`
	Session      string   `placeholder:"UUID" help:"The session that this is a turn of (default: none)."`
	Pool         string   `placeholder:"ID" help:"This pool or none."`
	OnDisconnect string   `enum:",continue,cancel" default:"" placeholder:"WHAT" help:"What happens to the task if this program disappears: continue or cancel (default: continue)."`
	Determinism  string   `enum:",strict,best_effort" default:"" placeholder:"KIND" help:"strict or best_effort (default: strict where possible)."`
}

// Run submits, follows, and cancels on Ctrl-C.
func (c *runCmd) Run(a *app) error {
	request, err := c.request(a)
	if err != nil {
		return err
	}
	if err := a.ctx.Err(); err != nil {
		return err
	}
	id := request.TaskID
	submitted := time.Now()
	admission, err := submit(a, request)
	if err != nil {
		return err
	}
	if a.verbose && !a.json {
		a.note("task %s in pool %s, seed %d, %s", id, admission.PoolID, admission.Seed, admission.Determinism)
	}
	err = a.answer(submitted).follow(id, "")
	if a.ctx.Err() != nil && errors.Is(err, context.Canceled) {
		cancelTask(a, id)
	}
	return err
}

// submit lets a submit finish if Ctrl-C comes meanwhile. Only then does the program know whether there is a task to cancel.
func submit(a *app, request *sdk.TaskRequest) (*sdk.Admission, error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(a.ctx))
	defer cancel()
	defer context.AfterFunc(a.ctx, func() { time.AfterFunc(lastWords, cancel) })()
	admission, err := a.client.Submit(ctx, request)
	if ctx.Err() != nil {
		a.note("the server did not say whether it took task %[1]s; `llama-orch cancel %[1]s` makes sure", request.TaskID)
	}
	return admission, err
}

// cancelTask keeps an interrupted task from running on. It has a time limit of its own, since the app's context has ended.
func cancelTask(a *app, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(a.ctx), lastWords)
	defer cancel()
	result, err := a.client.Cancel(ctx, id)
	switch {
	case err != nil:
		a.note("task %s could not be canceled and may still run: %v", id, err)
	case a.json:
		return
	case result.Outcome == sdk.OutcomeCanceled:
		a.note("canceled task %s at event %s", id, result.LastEventID)
	default:
		a.note("task %s had already ended: %s", id, result.Outcome)
	}
}

// request builds the body. It chooses the task's id, so that the program knows the id even if no answer comes.
func (c *runCmd) request(a *app) (*sdk.TaskRequest, error) {
	prompt, err := c.prompt(a.stdin)
	if err != nil {
		return nil, err
	}
	if c.TaskID == "" {
		c.TaskID = uuid.NewString()
	}
	if c.Model == "" {
		if c.Model, err = c.onlyModel(a); err != nil {
			return nil, err
		}
	}
	request := &sdk.TaskRequest{
		ModelRef: c.Model, TaskID: c.TaskID, Priority: sdk.Priority(c.Priority), Seed: c.Seed,
		OnDisconnect: sdk.TaskRequestOnDisconnect(c.OnDisconnect), Determinism: sdk.Determinism(c.Determinism),
	}
	if err := c.ask(a, request, prompt); err != nil {
		return nil, err
	}
	if c.MaxTokens != nil {
		if *c.MaxTokens < 1 {
			return nil, usagef("--max-tokens must be at least 1")
		}
		request.MaxTokens = *c.MaxTokens
	}
	if c.Temperature != nil || len(c.Stop) > 0 {
		request.Params = &sdk.Params{Temperature: c.Temperature, Stop: c.Stop}
	}
	if c.Session != "" {
		if request.SessionID, err = sessionID(c.Session); err != nil {
			return nil, err
		}
	}
	if c.Pool != "" {
		request.Placement = &sdk.PlacementWish{Mode: sdk.PlacementWishModePin, PoolID: c.Pool}
	}
	return request, nil
}

func (c *runCmd) prompt(stdin io.Reader) (string, error) {
	if c.Prompt != "-" {
		return c.Prompt, nil
	}
	text, err := io.ReadAll(io.LimitReader(stdin, maxPrompt+1))
	switch {
	case err != nil:
		return "", fmt.Errorf("reading the prompt from stdin: %w", err)
	case len(text) > maxPrompt:
		return "", usagef("the prompt on stdin is longer than %d MiB", maxPrompt>>20)
	}
	return string(text), nil
}

// onlyModel finds the model to use if none was named.
func (c *runCmd) onlyModel(a *app) (string, error) {
	pools, err := a.client.Pools(a.ctx)
	if err != nil {
		return "", err
	}
	var models []string
	for _, pool := range pools {
		if pool.Workload == sdk.WorkloadCompletion && (c.Pool == "" || pool.ID == c.Pool) && !slices.Contains(models, pool.Model.ID) {
			models = append(models, pool.Model.ID)
		}
	}
	switch {
	case len(models) == 1:
		return models[0], nil
	case len(models) > 1:
		return "", usagef("the server serves several models, choose one with --model: %s", strings.Join(models, ", "))
	case c.Pool != "":
		return "", fmt.Errorf("the server has no pool %q for completions; `llama-orch pools` lists them", c.Pool)
	}
	return "", errors.New("the server serves no model for completions; add a pool to its configuration")
}

// streamCmd shows the stream of a task that was submitted before.
type streamCmd struct {
	ID    string `arg:"" help:"The task's id."`
	After string `placeholder:"EVENT" help:"Begin after this event id (default: at the start; only then are hashes checked)."`
}

// Run follows the stream. Ctrl-C stops the program and leaves the task alone.
func (c *streamCmd) Run(a *app) error { return a.answer(time.Time{}).follow(c.ID, c.After) }
