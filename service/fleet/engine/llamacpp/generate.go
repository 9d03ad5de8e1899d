// SPDX-License-Identifier: GPL-3.0-or-later

package llamacpp

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-faster/jx"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/httpsse"
	"github.com/llama-orch/llama-orch/service/task"
)

// completion is the body of POST /completion. It has every parameter that can change bytes, even those that are off, so that the defaults
// and flags of a llama-server change nothing.
type completion struct {
	Prompt         string   `json:"prompt"`
	Stream         bool     `json:"stream"`
	CachePrompt    bool     `json:"cache_prompt"`
	NPredict       int      `json:"n_predict"`
	Seed           uint32   `json:"seed"`
	Samplers       []string `json:"samplers"`
	Temperature    float64  `json:"temperature"`
	TopK           int      `json:"top_k"`
	TopP           float64  `json:"top_p"`
	MinP           float64  `json:"min_p"`
	RepeatPenalty  float64  `json:"repeat_penalty"`
	RepeatLastN    int      `json:"repeat_last_n"`
	Stop           []string `json:"stop"`
	ResponseFields []string `json:"response_fields"`
	off
}

// off are samplers and options of llama-server that this system doesn't use, at the values that turn them off.
type off struct {
	Dry              float64   `json:"dry_multiplier"`
	XTC              float64   `json:"xtc_probability"`
	XTCThreshold     float64   `json:"xtc_threshold"`
	TypicalP         float64   `json:"typical_p"`
	TopNSigma        float64   `json:"top_n_sigma"`
	DynatempRange    float64   `json:"dynatemp_range"`
	DynatempExponent float64   `json:"dynatemp_exponent"`
	Mirostat         int       `json:"mirostat"`
	AdaptiveTarget   float64   `json:"adaptive_target"`
	FrequencyPenalty float64   `json:"frequency_penalty"`
	PresencePenalty  float64   `json:"presence_penalty"`
	MinKeep          int       `json:"min_keep"`
	NProbs           int       `json:"n_probs"`
	NCmpl            int       `json:"n_cmpl"`
	NIndent          int       `json:"n_indent"`
	NCacheReuse      int       `json:"n_cache_reuse"`
	MaxPredictMS     int       `json:"t_max_predict_ms"`
	IgnoreEOS        bool      `json:"ignore_eos"`
	BackendSampling  bool      `json:"backend_sampling"`
	ReturnProgress   bool      `json:"return_progress"`
	TimingsPerToken  bool      `json:"timings_per_token"`
	LogitBias        []float64 `json:"logit_bias"`
}

var (
	samplers = []string{"penalties", "top_k", "top_p", "min_p", "temperature"}
	allOff   = off{
		XTCThreshold: 0.1, TypicalP: 1, TopNSigma: -1, DynatempExponent: 1, AdaptiveTarget: -1, NCmpl: 1, MaxPredictMS: -1,
		LogitBias: []float64{},
	}
	// responseFields keeps the last frame from echoing the prompt and every setting.
	responseFields = []string{"content", "stop", "stop_type", "tokens_predicted", "tokens_evaluated", "tokens_cached", "id_slot", "timings"}
)

// repeatLastN is how far the repeat penalty looks back, llama-server's default.
const repeatLastN = 64

// final is the last frame.
type final struct {
	Content   string `json:"content"`
	StopType  string `json:"stop_type"`
	Predicted int    `json:"tokens_predicted"`
	Evaluated int    `json:"tokens_evaluated"`
	Cells     int    `json:"tokens_cached"`
	Slot      int    `json:"id_slot"`
	Timings   struct {
		CacheN      int     `json:"cache_n"`
		PromptMS    float64 `json:"prompt_ms"`
		PredictedMS float64 `json:"predicted_ms"`
	} `json:"timings"`
}

// Generate streams /completion.
func (e *Engine) Generate(ctx context.Context, job engine.Job, emit func(text string) error) (engine.Result, error) {
	s, err := e.start(ctx, &job)
	if err != nil {
		return engine.Result{}, err
	}
	defer s.Close()
	g := &generation{engine: e, job: &job, emit: emit}
	err = s.Each(func(event httpsse.Event) (bool, error) {
		if more, err := g.take(event); !more || err != nil {
			return false, err
		}
		return true, ctx.Err() // nothing is emitted after its end, whatever was read before
	})
	switch {
	case g.ours != nil:
		return engine.Result{}, g.ours
	case err != nil:
		return engine.Result{}, e.c.Broken(ctx, err)
	}
	return e.last(g.final, g.held, emit)
}

// generation is what was read of a stream so far.
type generation struct {
	engine *Engine
	job    *engine.Job
	emit   func(text string) error
	frame  frame
	held   []byte // the beginning of a rune whose end has not come yet
	final  []byte // the last frame
	ours   error  // why we left the stream; nil: we did not, or the connection broke
}

// take takes in one frame.
func (g *generation) take(event httpsse.Event) (more bool, err error) {
	f := &g.frame
	if err := f.parse(event.Data); err != nil {
		g.ours = g.engine.c.Reset(fmt.Errorf("reading a frame of the stream: %w", err))
		return false, g.ours
	}
	switch {
	case f.failed:
		g.ours = g.engine.failed(event.Data)
	case f.progress:
		if err := engine.Believe(engine.Tokens("cache", f.cached)); err != nil {
			g.ours = g.engine.c.Reset(err)
			break
		}
		g.told(f.cached)
	case f.stop:
		g.final = bytes.Clone(event.Data)
		return false, nil
	case len(f.content) > 0: // empty: held back, or the end of sequence
		g.held = append(g.held, f.content...)
		n := whole(g.held)
		if n == 0 {
			break
		}
		g.ours = g.emit(strings.ToValidUTF8(string(g.held[:n]), "\uFFFD"))
		g.held = append(g.held[:0], g.held[n:]...)
	}
	return true, g.ours
}

// told passes on that the engine is further with the prompt. How much of it came from KV is the same in every frame.
func (g *generation) told(cached int) {
	if g.job.Progress != nil {
		g.job.Progress()
	}
	if g.job.Cached != nil {
		g.job.Cached(cached)
	}
}

// start sends the request. It never asks for more tokens than the context holds after the prompt, so a server that was started with context
// shift never shifts.
//
// start and last are functions of their own because the stack of Generate stays as long as the stream. With their variables it would be
// twice as large (.docs/perf.md).
func (e *Engine) start(ctx context.Context, job *engine.Job) (*httpsse.Stream, error) {
	if job.Workload != task.Completion && job.Workload != "" {
		return nil, task.Errorf(task.Internal, "a %s task streams no tokens", job.Workload)
	}
	size, err := e.slotCtx(ctx)
	if err != nil {
		return nil, err
	}
	text, prompt := job.Prompt, job.PromptTokens
	if len(job.Messages) > 0 && text == "" {
		if text, err = e.ApplyTemplate(ctx, job.Messages); err != nil {
			return nil, err
		}
		prompt = 0
	}
	limit := job.MaxTokens
	if prompt > 0 || limit == 0 || engine.MostTokens(text)+limit > size { // else both fit, however many tokens the prompt has
		if limit, err = e.room(ctx, text, prompt, size, limit); err != nil {
			return nil, err
		}
	}
	stop := job.Sampling.Stop
	if stop == nil {
		stop = []string{}
	}
	more := allOff
	more.ReturnProgress = job.Cached != nil || job.Progress != nil
	s, err := e.c.Stream(ctx, "/completion", completion{
		Prompt: text, Stream: true, CachePrompt: job.CachePrompt, NPredict: limit, Seed: job.Seed, Samplers: samplers,
		Temperature: job.Sampling.Temperature, TopK: job.Sampling.TopK, TopP: job.Sampling.TopP, MinP: job.Sampling.MinP,
		RepeatPenalty: job.Sampling.RepeatPenalty, RepeatLastN: repeatLastN, Stop: stop, ResponseFields: responseFields, off: more,
	})
	if err != nil {
		return nil, explain(err)
	}
	return s, nil
}

// room is how many tokens an answer gets: as many as it may have at most (0: no bound), but no more than a context of that size holds
// after the prompt, which is counted where the caller does not know it (0).
func (e *Engine) room(ctx context.Context, text string, prompt, size, most int) (_ int, err error) {
	if prompt == 0 {
		if prompt, err = e.CountTokens(ctx, text); err != nil {
			return 0, err
		}
	}
	room := size - prompt
	if room <= 0 {
		return 0, tooLong(prompt, size)
	}
	if most > 0 {
		room = min(room, most)
	}
	return room, nil
}

// last takes the last frame, and emits what was held back.
func (e *Engine) last(data, held []byte, emit func(text string) error) (engine.Result, error) {
	result, text, err := lastFrame(data)
	if err != nil {
		return engine.Result{}, e.c.Reset(err)
	}
	if text = string(held) + text; text != "" {
		if err := emit(strings.ToValidUTF8(text, "\uFFFD")); err != nil {
			return engine.Result{}, err
		}
	}
	return result, nil
}

// whole is the length of b without a rune that is cut off at its end.
func whole(b []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(b); n++ {
		if at := len(b) - n; utf8.RuneStart(b[at]) {
			if !utf8.FullRune(b[at:]) {
				return at
			}
			break
		}
	}
	return len(b)
}

// frame reads what matters of one frame. It is used again for the next: a token costs only the string for emit.
type frame struct {
	d       jx.Decoder
	content []byte
	stop    bool
	failed  bool

	progress bool // it tells of the prompt, and holds no token
	cached   int  // tokens of it that came from KV
}

func (f *frame) parse(data []byte) error {
	f.content, f.stop, f.failed, f.progress = f.content[:0], false, false, false
	f.d.ResetBytes(data)
	fields, err := f.d.ObjIter()
	if err != nil {
		return err
	}
	for fields.Next() {
		switch string(fields.Key()) {
		case "content":
			f.content, err = f.d.StrAppend(f.content)
		case "stop":
			if f.stop, err = f.d.Bool(); err == nil && !f.stop && len(f.content) > 0 {
				// It is the frame of a token, and the rest does not matter.
				return nil
			}
		case "prompt_progress":
			err = f.readProgress()
		case "error":
			f.failed = true
			err = f.d.Skip()
		default:
			err = f.d.Skip()
		}
		if err != nil {
			return err
		}
	}
	return fields.Err()
}

func (f *frame) readProgress() error {
	f.progress = true
	return f.d.ObjBytes(func(d *jx.Decoder, key []byte) (err error) {
		if string(key) != "cache" {
			return d.Skip()
		}
		f.cached, err = d.Int()
		return err
	})
}

func lastFrame(data []byte) (engine.Result, string, error) {
	var last final
	if err := json.Unmarshal(data, &last); err != nil {
		return engine.Result{}, "", fmt.Errorf("reading the last frame: %w", err)
	}
	if err := engine.Believe(
		engine.Tokens("tokens_evaluated", last.Evaluated), engine.Tokens("tokens_predicted", last.Predicted),
		engine.Tokens("tokens_cached", last.Cells), engine.Tokens("cache_n", last.Timings.CacheN),
		engine.Milliseconds("prompt_ms", last.Timings.PromptMS), engine.Milliseconds("predicted_ms", last.Timings.PredictedMS),
		engine.Slots("id_slot", last.Slot),
	); err != nil {
		return engine.Result{}, "", err
	}
	r := engine.Result{
		TokensIn: last.Evaluated, TokensOut: last.Predicted,
		Prefill: milliseconds(last.Timings.PromptMS), Decode: milliseconds(last.Timings.PredictedMS),
		Slot: last.Slot, Cells: last.Cells, Cached: last.Timings.CacheN,
	}
	switch last.StopType {
	case "eos", "word":
		r.Finish = task.FinishStop
	case "limit":
		r.Finish = task.FinishLength
	default:
		return r, "", fmt.Errorf("the stream ended for an unknown reason %q", last.StopType)
	}
	return r, last.Content, nil
}

func milliseconds(ms float64) time.Duration { return time.Duration(ms * float64(time.Millisecond)) }

// failed maps an error frame.
func (e *Engine) failed(data []byte) error {
	var body struct {
		Error struct {
			Code int `json:"code"`
		} `json:"error"`
	}
	if err := json.Unmarshal(data, &body); err != nil || body.Error.Code == 0 {
		return e.c.Reset(errors.New("the engine sent an error frame without a code: " + string(data[:min(len(data), 500)])))
	}
	return explain(e.c.Refused(body.Error.Code, data))
}
