// SPDX-License-Identifier: GPL-3.0-or-later

package tgi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/httpsse"
	"github.com/llama-orch/llama-orch/service/task"
)

// request is the body of POST /generate_stream and of POST /tokenize.
type request struct {
	Inputs     string      `json:"inputs"`
	Parameters *parameters `json:"parameters,omitempty"`
}

// parameters are those of TGI that a task has. It has no min_p, and takes a value that turns a sampler off for a mistake.
type parameters struct {
	Details       bool     `json:"details"`
	InputDetails  bool     `json:"decoder_input_details"`
	FullText      bool     `json:"return_full_text"`
	Most          int      `json:"max_new_tokens"`
	Sample        bool     `json:"do_sample"`
	Seed          uint64   `json:"seed"`
	Temperature   float64  `json:"temperature,omitempty"`
	TopK          int      `json:"top_k,omitempty"`
	TopP          float64  `json:"top_p,omitempty"`
	RepeatPenalty float64  `json:"repetition_penalty,omitempty"`
	Stop          []string `json:"stop,omitempty"`
	Grammar       *grammar `json:"grammar,omitempty"`
}

// grammar binds an answer's form.
type grammar struct {
	Type  string          `json:"type"`
	Value json.RawMessage `json:"value"`
}

// generation is what was read of a stream so far.
type generation struct {
	engine *Engine
	job    *engine.Job
	frame  frame
	out    engine.Pieces
	stops  *engine.Stops // nil: there are no stop strings
	ours   error         // why we left the stream; nil: we did not, or the connection broke
	tokens int           // that came
	begun  time.Time
	first  time.Time // when the first token came; zero: none has
}

// Generate streams /generate_stream for a prompt, and /v1/chat/completions for messages.
func (e *Engine) Generate(ctx context.Context, job engine.Job, emit func(task.Piece) error) (engine.Result, error) {
	if len(job.Messages) > 0 {
		return e.chat(ctx, job, emit)
	}
	g := &generation{engine: e, job: &job, out: engine.NewPieces(&job, emit), begun: time.Now()}
	if words := stopWords(job.Sampling.Stop); len(words) > 0 {
		g.stops = &engine.Stops{Words: words, Emit: g.out.Emit, Kind: task.EventText}
		g.out.Emit = g.stops.Piece
	}
	s, err := e.start(ctx, g)
	if err != nil {
		return engine.Result{}, err
	}
	defer s.Close()
	err = s.Each(func(event httpsse.Event) (bool, error) {
		if more, err := g.take(event.Data); !more || err != nil {
			return false, err
		}
		if g.stops != nil && g.stops.Over {
			return false, errStopped
		}
		return true, ctx.Err() // nothing is emitted after its end, whatever was read before
	})
	switch {
	case g.ours != nil:
		return engine.Result{}, g.ours
	case errors.Is(err, errStopped):
		return g.left(ctx)
	case err != nil:
		return engine.Result{}, e.c.Broken(ctx, err)
	}
	return g.ended()
}

// errStopped ends a stream at a stop string that TGI has not seen. The connection closes, and so the engine stops.
var errStopped = errors.New("a stop string is complete")

// start sends the request.
func (e *Engine) start(ctx context.Context, g *generation) (*httpsse.Stream, error) {
	job := g.job
	if job.Workload != task.Completion && job.Workload != "" {
		return nil, task.Errorf(task.Internal, "a %s task streams no tokens", job.Workload)
	}
	told, err := e.told(ctx)
	if err != nil {
		return nil, err
	}
	if missing := task.Missing(task.Needs(job.Messages, job.Chat), featuresOf(told)); missing != "" {
		return nil, refusal("the engine that the task came to %s: leave that out, or send the task to another pool", missing)
	}
	p := &parameters{
		Details: true, Seed: uint64(job.Seed) + 1, // TGI takes no seed 0
		Sample: job.Sampling.Temperature > 0, Temperature: job.Sampling.Temperature, Stop: sent(job.Sampling.Stop, told.Stops),
	}
	if p.Sample {
		p.TopK = job.Sampling.TopK
		if job.Sampling.TopP < 1 {
			p.TopP = job.Sampling.TopP
		}
	}
	if job.Sampling.RepeatPenalty != 1 {
		p.RepeatPenalty = job.Sampling.RepeatPenalty
	}
	if job.Chat != nil {
		p.Grammar = grammarOf(job.Chat.Format)
	}
	if p.Most, err = e.room(ctx, job, told); err != nil {
		return nil, err
	}
	return e.c.Stream(ctx, "/generate_stream", request{Inputs: job.Prompt, Parameters: p})
}

// refusal is the error of a job that TGI cannot do.
func refusal(format string, args ...any) *task.Error {
	refused := task.Errorf(task.InvalidParams, format, args...)
	refused.Engine = Name
	return refused
}

// grammarOf is a format as TGI takes it; nil: there is none.
func grammarOf(f *task.Format) *grammar {
	switch {
	case f == nil:
		return nil
	case len(f.Schema) == 0:
		return &grammar{"json", json.RawMessage(`{"type":"object"}`)}
	}
	return &grammar{"json", f.Schema}
}

// room is how many tokens an answer gets: as many as it may have at most (0: no bound), but no more than fit behind the prompt.
func (e *Engine) room(ctx context.Context, job *engine.Job, told *info) (_ int, err error) {
	chat := len(job.Messages) > 0
	if job.PromptTokens == 0 && !chat && job.MaxTokens > 0 && engine.MostTokens(job.Prompt)+job.MaxTokens <= told.Total {
		return job.MaxTokens, nil // both fit, however many tokens the prompt has
	}
	if job.PromptTokens == 0 {
		if chat {
			job.PromptTokens, err = e.CountChat(ctx, job.Messages, job.Chat)
		} else {
			job.PromptTokens, err = e.CountTokens(ctx, job.Prompt)
		}
		if err != nil {
			return 0, err
		}
	}
	room := told.Total - job.PromptTokens
	if room <= 0 {
		return 0, refusal("the prompt has %d tokens and the context holds %d, one of them for the answer: shorten it by %d tokens or use a pool with a larger context",
			job.PromptTokens, told.Total, 1-room).Because(&task.TooLongError{Tokens: job.PromptTokens, Ctx: told.Total})
	}
	if job.MaxTokens > 0 {
		room = min(room, job.MaxTokens)
	}
	return room, nil
}

// stopWords are the stop strings, without empty ones. TGI leaves them in the text, and sees none that ends within a token.
func stopWords(all []string) (words []string) {
	for _, word := range all {
		if word != "" {
			words = append(words, word)
		}
	}
	return words
}

// sent are the stop strings that the engine is told of: as many as it takes, so that it mostly stops by itself, and tells its figures.
func sent(all []string, most int) []string {
	words := stopWords(all)
	return words[:min(len(words), most)]
}

// take takes in one frame.
func (g *generation) take(data []byte) (more bool, err error) {
	f := &g.frame
	if err := f.read(data); err != nil {
		g.ours = g.engine.c.Reset(fmt.Errorf("reading a frame of the stream: %w", err))
		return false, g.ours
	}
	if f.failed {
		g.ours = g.engine.failed(data)
		return false, g.ours
	}
	if g.tokens++; g.tokens == 1 {
		g.first = time.Now()
		if g.job.Cached != nil {
			g.job.Cached(0)
		}
	}
	if len(f.text) > 0 && !f.special {
		g.ours = g.out.Take(task.EventText, f.text)
	}
	return !f.last, g.ours
}

// failed is an error event of a stream. Its status is what the same error has as an answer.
func (e *Engine) failed(data []byte) error {
	var said struct {
		Type string `json:"error_type"`
	}
	_ = json.Unmarshal(data, &said) // without a type it is the engine's failure
	status := map[string]int{
		"validation": http.StatusUnprocessableEntity, "tool_error": http.StatusUnprocessableEntity, "template_error": http.StatusUnprocessableEntity,
		"overloaded": http.StatusTooManyRequests, "generation": http.StatusFailedDependency,
	}[strings.ToLower(said.Type)]
	if status == 0 {
		status = http.StatusInternalServerError
	}
	return e.c.Refused(status, data)
}

// result has the figures of the last frame, and the times that were seen here: TGI tells none.
func (g *generation) result(finish task.FinishReason) engine.Result {
	r := engine.Result{TokensIn: g.frame.input, TokensOut: g.frame.generated, Finish: finish, Slot: engine.NoSlot}
	if !g.first.IsZero() {
		r.Prefill, r.Decode = g.first.Sub(g.begun), time.Since(g.first)
	}
	return r
}

// ended is the result of a stream that came to its end. It emits what was held back.
func (g *generation) ended() (engine.Result, error) {
	f := &g.frame
	if err := engine.Believe(engine.Tokens("generated_tokens", f.generated), engine.Tokens("input_length", f.input)); err != nil {
		return engine.Result{}, g.engine.c.Reset(err)
	}
	finish, known := map[string]task.FinishReason{"length": task.FinishLength, "eos_token": task.FinishStop, "stop_sequence": task.FinishStop}[string(f.finish)]
	if !known {
		return engine.Result{}, g.engine.c.Reset(fmt.Errorf("the stream ended for an unknown reason %q", f.finish))
	}
	err := g.out.Flush()
	if err == nil && g.stops != nil && !g.stops.Over {
		err = g.stops.Flush()
	}
	if err != nil {
		return engine.Result{}, err
	}
	if g.stops != nil && g.stops.Over {
		finish = task.FinishStop
	}
	return g.result(finish), nil
}

// left is the result of a stream that was left at a stop string. Its figures were counted here.
func (g *generation) left(ctx context.Context) (_ engine.Result, err error) {
	if g.job.PromptTokens == 0 {
		if g.job.PromptTokens, err = g.engine.CountTokens(ctx, g.job.Prompt); err != nil {
			return engine.Result{}, err
		}
	}
	g.frame.input, g.frame.generated = g.job.PromptTokens, g.tokens
	r := g.result(task.FinishStop)
	r.Left = true
	return r, nil
}
