// SPDX-License-Identifier: GPL-3.0-or-later

package triton

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/go-faster/jx"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/httpsse"
	"github.com/llama-orch/llama-orch/service/task"
)

// defaultTokens is how long an answer may be that nobody bounds: nobody here knows what the engine's context holds.
const defaultTokens = 1024

// generation is what was read of a stream so far.
type generation struct {
	engine *Engine
	job    *engine.Job
	d      jx.Decoder
	text   []byte
	out    engine.Pieces
	stops  *engine.Stops // nil: there are no stop strings
	ours   error         // why we left the stream; nil: we did not, or the connection broke
	told   bool          // an event came
	most   int
	tokens int
	begun  time.Time
	first  time.Time // when the first piece came; zero: none has
}

// Generate streams /v2/models/MODEL/generate_stream.
func (e *Engine) Generate(ctx context.Context, job engine.Job, emit func(task.Piece) error) (engine.Result, error) {
	g := &generation{engine: e, job: &job, out: engine.NewPieces(&job, emit), begun: time.Now()}
	if words := job.Sampling.Stop; len(words) > 0 {
		g.stops = &engine.Stops{Words: words, Emit: g.out.Emit, Kind: task.EventText}
		g.out.Emit = g.stops.Piece
	}
	s, err := e.start(ctx, g)
	if err != nil {
		return engine.Result{}, err
	}
	defer s.Close()
	if !s.Framed() {
		return engine.Result{}, e.c.Reset(errors.New("the answer does not say where it ends, so that its end cannot be told from a broken connection"))
	}
	err = s.Each(func(event httpsse.Event) (bool, error) {
		if err := g.take(event.Data); err != nil {
			return false, err
		}
		if g.stops != nil && g.stops.Over {
			return false, errStopped
		}
		return g.tokens < g.most, ctx.Err() // nothing is emitted after its end, whatever was read before
	})
	switch {
	case g.ours != nil:
		return engine.Result{}, g.ours
	case err == nil: // it has said all that it may
	case errors.Is(err, io.EOF) && !g.told:
		return engine.Result{}, e.c.Reset(errors.New("the engine answered nothing"))
	case errors.Is(err, errStopped):
		r := g.result(task.FinishStop)
		r.Left = true
		return r, nil
	case !errors.Is(err, io.EOF):
		return engine.Result{}, e.c.Broken(ctx, err)
	}
	return g.ended()
}

// errStopped ends a stream at a stop string that the engine has not seen. The connection closes, and so the engine stops.
var errStopped = errors.New("a stop string is complete")

// start sends the request. Each of the ensemble's versions has other inputs, so the model is told only what it takes.
func (e *Engine) start(ctx context.Context, g *generation) (*httpsse.Stream, error) {
	job := g.job
	if job.Workload != task.Completion && job.Workload != "" {
		return nil, task.Errorf(task.Internal, "a %s task streams no tokens", job.Workload)
	}
	if missing := task.Missing(task.Needs(job.Messages, job.Chat), nil); missing != "" {
		return nil, refusal("the engine that the task came to %s: leave that out, or send the task to another pool", missing)
	}
	if len(job.Messages) > 0 {
		return nil, refusal("the engine takes no messages: send them as one `prompt`, or to a pool of another engine")
	}
	m, err := e.told(ctx)
	if err != nil {
		return nil, err
	}
	if g.most = job.MaxTokens; g.most == 0 {
		g.most = defaultTokens
	}
	s := job.Sampling
	all := map[string]any{
		"text_input": job.Prompt, "stream": true, "max_tokens": g.most, "exclude_input_in_output": true, "bad_words": "", "stop_words": s.Stop,
		"random_seed": job.Seed, "seed": job.Seed, "temperature": s.Temperature, "top_k": s.TopK, "top_p": s.TopP, "min_p": s.MinP,
		"repetition_penalty": s.RepeatPenalty,
	}
	if len(s.Stop) == 0 {
		all["stop_words"] = ""
	}
	if s.Temperature == 0 { // it takes none: greedy is the likeliest of one
		all["temperature"], all["top_k"], all["top_p"], all["min_p"] = 1, 1, 1, 0
	}
	for name := range all {
		if !m.takes(name) {
			delete(all, name)
		}
	}
	stream, err := e.c.Stream(ctx, m.path("/generate_stream"), all)
	if status, ok := errors.AsType[*httpsse.StatusError](err); ok && strings.Contains(string(status.Body), tooLong) {
		return nil, e.c.Refused(http.StatusBadRequest, status.Body)
	}
	return stream, err
}

// refusal is the error of a job that the engine cannot do.
func refusal(format string, args ...any) *task.Error {
	refused := task.Errorf(task.InvalidParams, format, args...)
	refused.Engine = Name
	return refused
}

// tooLong is what TensorRT-LLM says of a prompt that its engine was not built for. It calls that a failure of its own.
const tooLong = "exceeds maximum input length"

// failed is an error in a stream.
func (e *Engine) failed(body []byte) error {
	if strings.Contains(string(body), tooLong) {
		return e.c.Refused(http.StatusBadRequest, body)
	}
	return e.c.Refused(http.StatusInternalServerError, body)
}

// take takes in one event.
func (g *generation) take(data []byte) error {
	g.told = true
	failed, err := g.read(data)
	switch {
	case err != nil:
		g.ours = g.engine.c.Reset(fmt.Errorf("reading an event of the stream: %w", err))
	case failed:
		g.ours = g.engine.failed(data)
	case len(g.text) > 0: // the last one may be empty
		g.came()
		g.ours = g.out.Take(task.EventText, g.text)
	}
	return g.ours
}

func (g *generation) came() {
	if g.tokens++; g.tokens > 1 {
		return
	}
	g.first = time.Now()
	if g.job.Cached != nil {
		g.job.Cached(0)
	}
}

// Each stands in an event at most once: within a text its quotes would be escaped.
var textKey, errorKey = []byte(`"text_output":`), []byte(`"error":`)

// read reads what matters of an event.
func (g *generation) read(data []byte) (failed bool, err error) {
	g.text = g.text[:0]
	if at := bytes.Index(data, textKey); at >= 0 && !bytes.Contains(data, errorKey) {
		g.d.ResetBytes(data[at+len(textKey):])
		if g.text, err = g.d.StrAppend(g.text); err == nil {
			return false, nil // it is the text of a token, and the rest does not matter
		}
	}
	g.d.ResetBytes(data)
	fields, err := g.d.ObjIter()
	if err != nil {
		return false, err
	}
	told := false
	for fields.Next() {
		switch string(fields.Key()) {
		case "text_output":
			told = true
			g.text, err = g.d.StrAppend(g.text)
		case "error":
			failed = true
			err = g.d.Skip()
		default:
			err = g.d.Skip()
		}
		if err != nil {
			return false, err
		}
	}
	if err = fields.Err(); err == nil && !told && !failed {
		err = errors.New("it has no text_output")
	}
	return failed, err
}

// result has what was counted here: the engine tells no figures.
func (g *generation) result(finish task.FinishReason) engine.Result {
	r := engine.Result{TokensOut: g.tokens, Finish: finish, Slot: engine.NoSlot}
	if !g.first.IsZero() {
		r.Prefill, r.Decode = g.first.Sub(g.begun), time.Since(g.first)
	}
	return r
}

// ended is the result of a stream that came to its end. It emits what was held back.
func (g *generation) ended() (engine.Result, error) {
	err := g.out.Flush()
	if err == nil && g.stops != nil {
		err = g.stops.Flush()
	}
	if err != nil {
		return engine.Result{}, err
	}
	if g.tokens >= g.most && (g.stops == nil || !g.stops.Over) {
		return g.result(task.FinishLength), nil
	}
	return g.result(task.FinishStop), nil
}
