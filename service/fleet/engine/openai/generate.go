// SPDX-License-Identifier: GPL-3.0-or-later

package openai

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/httpsse"
	"github.com/llama-orch/llama-orch/service/task"
)

// request is the body of a chat or a completion. What has a pointer, or may be left out, depends on the profile.
type request struct {
	Model         string          `json:"model"`
	Messages      []Message       `json:"messages,omitempty"`
	Prompt        string          `json:"prompt,omitempty"`
	Tools         []Tool          `json:"tools,omitempty"`
	ToolChoice    string          `json:"tool_choice,omitempty"`
	ParallelCalls *bool           `json:"parallel_tool_calls,omitempty"`
	Format        *format         `json:"response_format,omitempty"`
	Effort        string          `json:"reasoning_effort,omitempty"`
	Arguments     json.RawMessage `json:"chat_template_kwargs,omitempty"`

	Stream        bool               `json:"stream"`
	StreamOptions *streamOptions     `json:"stream_options,omitempty"`
	MaxTokens     int                `json:"max_tokens,omitempty"`
	Seed          uint32             `json:"seed"`
	Temperature   float64            `json:"temperature"`
	TopP          *float64           `json:"top_p,omitempty"`
	Stop          []string           `json:"stop,omitempty"`
	LogitBias     map[string]float64 `json:"logit_bias,omitempty"`
	Logprobs      any                `json:"logprobs,omitempty"` // of a chat: true; of a completion: how many
	TopLogprobs   *int               `json:"top_logprobs,omitempty"`

	TopK              *int              `json:"top_k,omitempty"`
	MinP              *float64          `json:"min_p,omitempty"`
	RepetitionPenalty *float64          `json:"repetition_penalty,omitempty"`
	RepeatPenalty     *float64          `json:"repeat_penalty,omitempty"`
	Structured        map[string]string `json:"structured_outputs,omitempty"`
	Guided            string            `json:"guided_grammar,omitempty"`
	EBNF              string            `json:"ebnf,omitempty"`
	GBNF              string            `json:"grammar,omitempty"`
}

type streamOptions struct {
	Usage bool `json:"include_usage"`
}

type format struct {
	Type   string          `json:"type"`
	Schema *jsonSchema     `json:"json_schema,omitempty"`
	Value  json.RawMessage `json:"value,omitempty"` // of a server with plain formats
}

type jsonSchema struct {
	Name   string          `json:"name"`
	Schema json.RawMessage `json:"schema"`
	Strict bool            `json:"strict"`
}

const (
	chatPath       = "/v1/chat/completions"
	completionPath = "/v1/completions"
)

// Generate streams /v1/chat/completions for messages, and /v1/completions for a prompt.
func (e *Engine) Generate(ctx context.Context, job engine.Job, emit func(task.Piece) error) (engine.Result, error) {
	g := &generation{engine: e, job: &job, out: engine.NewPieces(&job, emit), begun: time.Now()}
	g.frame.Asks = g.asks() != nil
	s, err := e.start(ctx, g)
	if err != nil {
		return engine.Result{}, err
	}
	defer s.Close()
	err = s.Each(func(event httpsse.Event) (bool, error) {
		if more, err := g.take(event.Data); !more || err != nil {
			return false, err
		}
		return true, ctx.Err() // nothing is emitted after its end, whatever was read before
	})
	switch {
	case g.ours != nil:
		return engine.Result{}, g.ours
	case err != nil && (ctx.Err() != nil || !g.whole(err)):
		return engine.Result{}, e.c.Broken(ctx, err)
	}
	return g.last()
}

// start sends the request. It is a function of its own because the stack of Generate stays as long as the stream.
func (e *Engine) start(ctx context.Context, g *generation) (*httpsse.Stream, error) {
	job := g.job
	if job.Workload != task.Completion && job.Workload != "" {
		return nil, task.Errorf(task.Internal, "a %s task streams no tokens", job.Workload)
	}
	t, err := e.told(ctx)
	if err != nil {
		return nil, err
	}
	g.told = t
	if missing := task.Missing(task.Needs(job.Messages, job.Chat), t.features); missing != "" {
		return nil, e.refused("the engine that the task came to %s: leave that out, or send the task to another pool", missing)
	}
	body, err := e.body(ctx, job, t)
	if err != nil {
		return nil, err
	}
	path := completionPath
	if len(body.Messages) > 0 {
		path = chatPath
	}
	return e.c.Stream(ctx, path, body)
}

func (e *Engine) refused(text string, args ...any) error {
	refused := task.Errorf(task.InvalidParams, text, args...)
	refused.Engine = e.profile.Kind
	return refused
}

// body is what the server is asked.
func (e *Engine) body(ctx context.Context, job *engine.Job, t *told) (*request, error) {
	s := job.Sampling
	b := &request{Model: t.model, Stream: true, Seed: job.Seed, Temperature: s.Temperature}
	if s.TopP < 1 || !t.Plain.OpenTopP {
		b.TopP = &s.TopP
	}
	if len(job.Messages) > 0 {
		b.Messages = Messages(job.Messages, t.History)
	} else {
		b.Prompt = job.Prompt
	}
	if t.Usage {
		b.StreamOptions = &streamOptions{Usage: true}
	}
	b.Stop = slices.DeleteFunc(slices.Clone(s.Stop), func(word string) bool { return word == "" })
	if t.TopK {
		b.TopK = &s.TopK
		if s.TopK == 0 {
			b.TopK = &t.NoTopK
		}
	}
	if t.MinP {
		b.MinP = &s.MinP
	}
	switch t.Penalty {
	case repetitionPenalty:
		b.RepetitionPenalty = &s.RepeatPenalty
	case repeatPenalty:
		b.RepeatPenalty = &s.RepeatPenalty
	}
	b.chat(job.Chat, t)
	var err error
	b.MaxTokens, err = e.room(ctx, job, t)
	return b, err
}

// chat puts what is asked of a chat besides its messages.
func (b *request) chat(c *task.Chat, t *told) {
	if c == nil {
		return
	}
	b.Tools, b.ToolChoice = Tools(c)
	if t.Plain.Tools {
		b.Tools, b.ToolChoice = PlainTools(c)
	} else if len(b.Tools) > 0 {
		b.ParallelCalls = c.ParallelCalls
	}
	if len(b.Tools) == 0 {
		b.ToolChoice = ""
	}
	if t.Effort {
		b.Effort = c.Reasoning.Effort
	}
	if t.Arguments {
		b.Arguments = arguments(c)
	}
	for _, bias := range c.LogitBias {
		if b.LogitBias == nil {
			b.LogitBias = map[string]float64{}
		}
		b.LogitBias[strconv.Itoa(bias.Token)] = bias.Bias
	}
	switch l := c.Logprobs; {
	case l == nil:
	case len(b.Messages) > 0:
		b.Logprobs, b.TopLogprobs = true, &l.Top
	default:
		b.Logprobs = l.Top
	}
	b.form(c.Format, t)
}

// form binds the answer's form.
func (b *request) form(f *task.Format, t *told) {
	switch {
	case f == nil:
	case f.Kind == task.FormatGrammar:
		b.bind(f.Grammar, t)
	case t.Plain.Formats:
		b.Format = &format{Type: "json", Value: schemaOf(f.Schema)}
	case len(f.Schema) == 0:
		b.Format = &format{Type: "json_object"}
	default:
		b.Format = &format{Type: "json_schema", Schema: &jsonSchema{"answer", f.Schema, true}}
	}
}

// schemaOf is a schema that is always there.
func schemaOf(schema json.RawMessage) json.RawMessage {
	if len(schema) == 0 {
		return json.RawMessage(`{"type":"object"}`)
	}
	return schema
}

// PlainTools is Tools for a server with plain tools.
func PlainTools(c *task.Chat) (tools []Tool, choice string) {
	tools, choice = Tools(c)
	for i := range tools {
		f := &tools[i].Function
		f.Arguments, f.Parameters = schemaOf(f.Parameters), nil
	}
	if len(tools) == 0 {
		choice = ""
	}
	return tools, choice
}

// bind puts a grammar in the field that the server has for it. One that has none, lacks the feature.
func (b *request) bind(grammar string, t *told) {
	switch t.Grammar {
	case structuredOutputs:
		b.Structured = map[string]string{"grammar": grammar}
	case guidedGrammar:
		b.Guided = grammar
	case ebnf:
		b.EBNF = grammar
	case gbnf:
		b.GBNF = grammar
	}
}

// arguments are those for the model's template, with the wish to have it think, or not.
func arguments(c *task.Chat) json.RawMessage {
	if c.Reasoning.Enabled == nil {
		return c.TemplateArgs
	}
	given := map[string]json.RawMessage{}
	_ = json.Unmarshal(c.TemplateArgs, &given) // admission has checked that it is an object, or it is empty
	if _, said := given["enable_thinking"]; !said {
		given["enable_thinking"] = json.RawMessage(strconv.FormatBool(*c.Reasoning.Enabled))
	}
	out, _ := json.Marshal(given) // it came from JSON
	return out
}

// room is how many tokens the answer may have at most; 0: as many as the server gives it. A server that counts tokens is asked where prompt and answer
// may not fit its context.
func (e *Engine) room(ctx context.Context, job *engine.Job, t *told) (int, error) {
	limit, chat := job.MaxTokens, len(job.Messages) > 0
	switch {
	case t.ctx == 0, limit > 0 && !chat && engine.MostTokens(job.Prompt)+limit <= t.ctx:
		return limit, nil
	case t.Counts && !chat, t.CountsChats:
		prompt, err := job.PromptTokens, error(nil)
		if prompt == 0 && chat {
			prompt, err = e.ChatTokens(ctx, job.Messages, job.Chat)
		} else if prompt == 0 {
			prompt, err = e.Tokens(ctx, job.Prompt)
		}
		if err != nil {
			return 0, err
		}
		room := t.ctx - prompt
		if room <= 0 {
			return 0, e.tooLong(prompt, t.ctx)
		}
		if limit > 0 {
			room = min(room, limit)
		}
		return room, nil
	case limit == 0 && t.Short && !chat:
		return max(t.ctx-engine.MostTokens(job.Prompt), 1), nil
	}
	return limit, nil
}

// tooLong is the refusal of a prompt that leaves no room for a token.
func (e *Engine) tooLong(prompt, ctx int) error {
	out := task.Errorf(task.InvalidParams, "the prompt has %d tokens and the context holds %d, one of them for the answer: shorten it by %d tokens or use a pool with a larger context",
		prompt, ctx, prompt-ctx+1).Because(&task.TooLongError{Tokens: prompt, Ctx: ctx})
	out.Engine = e.profile.Kind
	return out
}

// generation is what was read of a stream so far.
type generation struct {
	engine *Engine
	job    *engine.Job
	told   *told
	frame  Frame
	out    engine.Pieces
	end    Ending
	ours   error // why we left the stream; nil: we did not, or the connection broke
	frames int   // that had something of the answer
	calls  bool

	begun, first time.Time
}

// take takes in one frame. Behind the reason for the end there are figures alone: what says more is no part of the answer.
func (g *generation) take(data []byte) (more bool, err error) {
	if string(data) == "[DONE]" {
		return false, nil
	}
	f := &g.frame
	if err := f.Read(data); err != nil {
		return g.bad(fmt.Errorf("reading a frame of the stream: %w", err))
	}
	if f.Failed {
		g.ours = g.engine.failed(data, g.frames == 0 || !g.told.Plain.ErrorFirst)
		return true, g.ours
	}
	if g.end.Finish == "" {
		g.say()
	}
	if g.out.Bad != nil {
		return g.bad(g.out.Bad)
	}
	if f.Ends && g.ours == nil {
		err := json.Unmarshal(data, &g.end)
		if err == nil {
			err = g.end.Settle()
		}
		if err != nil {
			return g.bad(fmt.Errorf("reading a last frame: %w", err))
		}
	}
	return true, g.ours
}

func (g *generation) bad(err error) (more bool, _ error) {
	g.ours = g.engine.c.Reset(err)
	return true, g.ours
}

// say emits what a frame has of the answer.
func (g *generation) say() {
	f := &g.frame
	if !f.Says() {
		return
	}
	if g.frames++; g.frames == 1 {
		g.first = time.Now()
	}
	if len(f.Reasoning) > 0 {
		g.ours = g.out.Take(task.EventReasoning, f.Reasoning)
	}
	if len(f.Likely) > 0 && g.ours == nil {
		likely, err := Believed(f.Likely, g.asks().Top)
		if err != nil {
			g.ours = g.engine.c.Reset(err)
			return
		}
		g.out.Tell(likely)
	}
	if len(f.Content) > 0 && g.ours == nil {
		g.ours = g.out.Take(task.EventText, f.Content)
	}
	for i := 0; i < len(f.Calls) && g.ours == nil; i++ {
		g.calls = true
		g.ours = g.out.TakeCall(f.Calls[i].Index, f.Calls[i].Name, f.Calls[i].Arguments)
	}
}

// asks is what is asked of the tokens' probabilities; nil: nothing.
func (g *generation) asks() *task.Logprobs {
	if g.job.Chat == nil {
		return nil
	}
	return g.job.Chat.Logprobs
}

// whole reports whether all that the server has to tell came before its stream ended with err: also where [DONE] is missing.
func (g *generation) whole(err error) bool {
	return g.end.Finish != "" && (g.end.Usage.Prompt > 0 || g.told.Name == Any.Name || errors.Is(err, io.EOF))
}

// last takes what the server told at the end, and emits what was held back.
func (g *generation) last() (engine.Result, error) {
	u := g.end.Usage
	switch {
	case g.end.Finish == "":
		return engine.Result{}, g.engine.c.Reset(errors.New("the stream ended without a reason"))
	case u.Prompt == 0 && g.told.Usage && g.told.Name != Any.Name:
		return engine.Result{}, g.engine.c.Reset(errors.New("the stream ended without its usage"))
	case u.Prompt == 0: // nobody counts for us
		u.Prompt, u.Completed = g.job.PromptTokens, g.frames
	}
	if err := g.out.Flush(); err != nil {
		return engine.Result{}, err
	}
	r := engine.Result{
		TokensIn: u.Prompt, TokensOut: u.Completed, Cached: min(u.Details.Cached, u.Prompt), Finish: g.end.Finish, Slot: engine.NoSlot,
	}
	if r.Finish == task.FinishStop && g.calls { // not every server says so
		r.Finish = task.FinishToolCalls
	}
	if g.frames > 0 {
		r.Prefill, r.Decode = g.first.Sub(g.begun), time.Since(g.first)
	}
	return r, nil
}

// failed maps an error that comes in the stream, or with status 200. Told says whether the status that it names can be believed.
func (e *Engine) failed(data []byte, told bool) error {
	var body struct {
		Error struct {
			Status int    `json:"http_status_code"`
			Code   any    `json:"code"` // a number, a text, or null
			Type   string `json:"type"`
		} `json:"error"`
	}
	_ = json.Unmarshal(data, &body) // what has no code is the engine's trouble
	if code, ok := body.Error.Code.(float64); ok && code >= http.StatusBadRequest && code < 600 {
		return e.c.Refused(int(code), data)
	}
	if body.Error.Status >= http.StatusBadRequest && body.Error.Status < 600 && told {
		return e.c.Refused(body.Error.Status, data)
	}
	if body.Error.Type == "invalid_request_error" {
		return e.c.Refused(http.StatusBadRequest, data)
	}
	return e.c.Refused(http.StatusInternalServerError, data)
}
