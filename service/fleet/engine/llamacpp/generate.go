// SPDX-License-Identifier: GPL-3.0-or-later

package llamacpp

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/httpsse"
	"github.com/llama-orch/llama-orch/service/fleet/engine/openai"
	"github.com/llama-orch/llama-orch/service/task"
)

// completion is the body of POST /completion.
type completion struct {
	Prompt string `json:"prompt"`
	form
	sampling
}

// chatCompletion is the body of POST /v1/chat/completions. The server copies the parameters that this endpoint does not know to those of the
// native one. In its last frame but one, Verbose shows what of the native last frame ResponseFields names.
type chatCompletion struct {
	chat
	Verbose       bool          `json:"verbose"`
	StreamOptions streamOptions `json:"stream_options"`
	sampling
}

type streamOptions struct {
	Usage bool `json:"include_usage"`
}

// sampling has every parameter that can change bytes, even those that are off, so that the defaults and flags of a llama-server change nothing.
type sampling struct {
	Stream         bool     `json:"stream"`
	CachePrompt    bool     `json:"cache_prompt"`
	CacheExact     bool     `json:"cache_exact,omitempty"` // only the built-in worker knows it
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
	LogitBias      [][2]any `json:"logit_bias"` // a token, and what is added to its logit
	off
}

// off are samplers and options of llama-server that this system doesn't use, at the values that turn them off.
type off struct {
	Dry              float64 `json:"dry_multiplier"`
	XTC              float64 `json:"xtc_probability"`
	XTCThreshold     float64 `json:"xtc_threshold"`
	TypicalP         float64 `json:"typical_p"`
	TopNSigma        float64 `json:"top_n_sigma"`
	DynatempRange    float64 `json:"dynatemp_range"`
	DynatempExponent float64 `json:"dynatemp_exponent"`
	Mirostat         int     `json:"mirostat"`
	AdaptiveTarget   float64 `json:"adaptive_target"`
	FrequencyPenalty float64 `json:"frequency_penalty"`
	PresencePenalty  float64 `json:"presence_penalty"`
	MinKeep          int     `json:"min_keep"`
	NProbs           int     `json:"n_probs"`
	PostSampling     bool    `json:"post_sampling_probs"`
	NCmpl            int     `json:"n_cmpl"`
	NIndent          int     `json:"n_indent"`
	NCacheReuse      int     `json:"n_cache_reuse"`
	MaxPredictMS     int     `json:"t_max_predict_ms"`
	IgnoreEOS        bool    `json:"ignore_eos"`
	BackendSampling  bool    `json:"backend_sampling"`
	ReturnProgress   bool    `json:"return_progress"`
	TimingsPerToken  bool    `json:"timings_per_token"`
}

var (
	samplers = []string{"penalties", "top_k", "top_p", "min_p", "temperature"}
	allOff   = off{
		XTCThreshold: 0.1, TypicalP: 1, TopNSigma: -1, DynatempExponent: 1, AdaptiveTarget: -1, NCmpl: 1, MaxPredictMS: -1,
	}
	// responseFields keeps the last frame from echoing the prompt and every setting.
	responseFields = []string{"content", "stop", "stop_type", "tokens_predicted", "tokens_evaluated", "tokens_cached", "id_slot", "timings"}
	// verboseFields are those of them that the chat endpoint does not tell otherwise.
	verboseFields = []string{"id_slot", "tokens_cached"}
)

// repeatLastN is how far the repeat penalty looks back, llama-server's default.
const repeatLastN = 64

// timings is what the last frame of either endpoint tells of the time.
type timings struct {
	CacheN      int     `json:"cache_n"`
	PromptMS    float64 `json:"prompt_ms"`
	PredictedMS float64 `json:"predicted_ms"`
}

// final is the last frame of the native endpoint.
type final struct {
	Content   string  `json:"content"`
	StopType  string  `json:"stop_type"`
	Predicted int     `json:"tokens_predicted"`
	Evaluated int     `json:"tokens_evaluated"`
	Cells     int     `json:"tokens_cached"`
	Slot      int     `json:"id_slot"`
	Timings   timings `json:"timings"`
}

// Generate streams /completion, or the chat endpoint where only that can do what the job asks.
func (e *Engine) Generate(ctx context.Context, job engine.Job, emit func(task.Piece) error) (engine.Result, error) {
	r, err := e.generate(ctx, job, emit)
	if errors.Is(err, errMisfit) { // before the first piece
		job.Reuse = engine.ReuseNothing
		return e.generate(ctx, job, emit)
	}
	return r, err
}

func (e *Engine) generate(ctx context.Context, job engine.Job, emit func(task.Piece) error) (engine.Result, error) {
	g := &generation{engine: e, job: &job, out: engine.NewPieces(&job, emit)}
	if g.frame.Asks = g.asks() != nil; g.frame.Asks {
		g.watch(slices.DeleteFunc(slices.Clone(job.Sampling.Stop), func(word string) bool { return word == "" }))
	} else {
		g.watch(watched(job.Sampling.Stop, end(job)))
	}
	if job.SentTokens > 0 {
		return e.goOn(ctx, g)
	}
	return e.stream(ctx, g)
}

func (e *Engine) stream(ctx context.Context, g *generation) (engine.Result, error) {
	s, err := e.start(ctx, g)
	if err != nil {
		return engine.Result{}, err
	}
	defer s.Close()
	take := g.take
	if g.chats {
		take = g.takeChat
	}
	err = s.Each(func(event httpsse.Event) (bool, error) {
		if more, err := take(event); !more || err != nil {
			return false, err
		}
		if g.stops != nil && g.stops.Over {
			return g.leave(event)
		}
		return true, ctx.Err() // nothing is emitted after its end, whatever was read before
	})
	switch {
	case g.ours != nil:
		return engine.Result{}, g.ours
	case errors.Is(err, errStopped):
		return g.stops.result, nil
	case err != nil:
		return engine.Result{}, e.c.Broken(ctx, err)
	}
	if g.stops != nil {
		return g.stops.ended(g.last())
	}
	return g.last()
}

// leave takes in a frame behind a stop string that the engine does not see.
func (g *generation) leave(event httpsse.Event) (more bool, err error) {
	told, err := g.stops.figures(event.Data)
	if err != nil {
		g.ours = g.engine.c.Reset(err)
		return false, g.ours
	}
	if told {
		return false, errStopped
	}
	return true, nil
}

// watch puts stops before emit, where there are words that the engine does not see.
func (g *generation) watch(words []string) {
	if len(words) > 0 {
		g.stops = &stops{Stops: engine.Stops{Words: words, Emit: g.out.Emit, Kind: task.EventText}}
		if g.job.SentThinking != "" && g.job.Sent == "" {
			g.stops.Kind = task.EventReasoning
		}
		g.stops.Sent(end(*g.job))
		g.out.Emit = g.stops.Piece
	}
}

// generation is what was read of a stream so far.
type generation struct {
	engine  *Engine
	job     *engine.Job
	chats   bool // on the chat endpoint
	frame   frame
	out     engine.Pieces
	stops   *stops // nil: the engine sees every stop string by itself
	final   []byte // the last frame
	end     ending // the same of the chat endpoint, which tells it in several frames
	ours    error  // why we left the stream; nil: we did not, or the connection broke
	reuses  int    // how much of the prompt is to come from KV, for the bytes of a cold start
	checked bool   // the engine has told how much did
	leaves  bool   // the job leaves KV that a later one may reuse for the bytes of a cold start
	read    bool   // the prompt is computed
}

// take takes in one frame of the native endpoint.
func (g *generation) take(event httpsse.Event) (more bool, err error) {
	f := &g.frame
	if err := f.native(event.Data); err != nil {
		return g.unread(err)
	}
	switch {
	case f.Failed, f.progress:
		return g.aside(event)
	case !g.computed():
		return false, g.ours
	case f.stop:
		g.final = bytes.Clone(event.Data)
		return false, nil
	default:
		g.text()
	}
	return true, g.ours
}

// takeChat takes in one frame of the chat endpoint.
func (g *generation) takeChat(event httpsse.Event) (more bool, err error) {
	if string(event.Data) == "[DONE]" {
		return false, nil
	}
	f := &g.frame
	if err := f.chat(event.Data); err != nil {
		return g.unread(err)
	}
	if f.Failed || f.progress {
		return g.aside(event)
	}
	if len(f.Reasoning)+len(f.Content)+len(f.Calls) > 0 && !g.computed() { // the role comes in a frame of its own, and may come early
		return false, g.ours
	}
	if g.end.Finish == "" { // what comes behind its end is no part of the answer
		g.parts()
	}
	if g.out.Bad != nil {
		g.ours = g.engine.c.Reset(g.out.Bad)
	}
	if f.Ends && g.ours == nil {
		if err := g.end.read(event.Data); err != nil {
			g.ours = g.engine.c.Reset(err)
		}
	}
	return true, g.ours
}

// parts takes in what a frame of the chat endpoint has.
func (g *generation) parts() {
	f := &g.frame
	if len(f.Reasoning) > 0 {
		g.ours = g.out.Take(task.EventReasoning, f.Reasoning)
	}
	if g.ours == nil && len(f.Reasoning) == 0 {
		g.text()
	} else if g.ours == nil && len(f.Content) > 0 {
		g.ours = g.out.Take(task.EventText, f.Content)
	}
	for i := 0; i < len(f.Calls) && g.ours == nil; i++ {
		g.ours = g.out.TakeCall(f.Calls[i].Index, f.Calls[i].Name, f.Calls[i].Arguments)
	}
}

// text takes in what a frame has of the answer. It is empty where the engine holds it back, and at the end of sequence.
func (g *generation) text() {
	f := &g.frame
	if len(f.Likely) > 0 {
		likely, err := openai.Believed(f.Likely, g.asks().Top)
		if err != nil {
			g.ours = g.engine.c.Reset(err)
			return
		}
		g.out.Tell(likely)
	}
	if len(f.Content) > 0 {
		g.ours = g.out.Take(task.EventText, f.Content)
	}
}

// asks is what is asked of the tokens' probabilities; nil: nothing.
func (g *generation) asks() *task.Logprobs {
	if g.job.Chat == nil {
		return nil
	}
	return g.job.Chat.Logprobs
}

func (g *generation) unread(err error) (more bool, _ error) {
	g.ours = g.engine.c.Reset(fmt.Errorf("reading a frame of the stream: %w", err))
	return false, g.ours
}

// aside takes in a frame that holds no piece: an error, or how far the engine is with the prompt.
func (g *generation) aside(event httpsse.Event) (more bool, err error) {
	if g.frame.Failed {
		g.ours = g.engine.failed(event.Data)
	} else if err := engine.Believe(engine.Tokens("cache", g.frame.cached)); err != nil {
		g.ours = g.engine.c.Reset(err)
	} else if g.fits(g.frame.cached) {
		g.told(g.frame.cached)
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
func (e *Engine) start(ctx context.Context, g *generation) (*httpsse.Stream, error) {
	job := g.job
	if job.Workload != task.Completion && job.Workload != "" {
		return nil, task.Errorf(task.Internal, "a %s task streams no tokens", job.Workload)
	}
	told, err := e.told(ctx)
	if err != nil {
		return nil, err
	}
	if missing := task.Missing(task.Needs(job.Messages, job.Chat), told.features); missing != "" {
		refused := task.Errorf(task.InvalidParams, "the engine that the task came to %s: leave that out, or send the task to another pool", missing)
		refused.Engine = Name
		return nil, refused
	}
	if g.chats = e.onChatEndpoint(job, told); g.chats {
		return e.startChat(ctx, g, told)
	}
	if len(job.Messages) > 0 && job.Prompt == "" {
		if job.Prompt, err = e.ApplyTemplate(ctx, job.Messages, job.Chat); err != nil {
			return nil, err
		}
		job.PromptTokens = 0
	}
	body := completion{Prompt: job.Prompt}
	if body.sampling, err = e.sampling(ctx, g, told.ctx, responseFields); err != nil {
		return nil, err
	}
	e.reuse(ctx, g, told, &body.sampling)
	if job.Chat != nil {
		body.form = formOf(job.Chat.Format)
	}
	s, err := e.c.Stream(ctx, "/completion", body)
	if err != nil {
		return nil, explain(err)
	}
	return s, nil
}

// tries is how often a chat is begun whose prompt changes while it is: a date changes once a day.
const tries = 3

// startChat sends the request to the chat endpoint, which renders the messages once more. If the template may print the date, it is asked again behind that: what is the
// same before and behind was the same in between.
func (e *Engine) startChat(ctx context.Context, g *generation, told *told) (*httpsse.Stream, error) {
	job := g.job
	for range tries {
		c, err := e.asRecorded(ctx, job)
		if err != nil {
			return nil, err
		}
		body := chatCompletion{chat: c.continued(job), Verbose: true, StreamOptions: streamOptions{Usage: true}}
		if body.sampling, err = e.sampling(ctx, g, told.ctx, verboseFields); err != nil {
			return nil, err
		}
		e.reuse(ctx, g, told, &body.sampling)
		s, err := e.c.Stream(ctx, "/v1/chat/completions", body)
		if err != nil {
			return nil, explain(err)
		}
		if !told.dated {
			return s, nil
		}
		now, err := e.render(ctx, c, task.HasImages(job.Messages))
		if err == nil && now == job.Prompt {
			return s, nil
		}
		s.Close()
		if err != nil {
			return nil, err
		}
	}
	return nil, e.c.Reset(errors.New("the model's chat template makes another prompt each time"))
}

// sampling is what both endpoints are told of a job.
func (e *Engine) sampling(ctx context.Context, g *generation, size int, fields []string) (out sampling, err error) {
	job := g.job
	limit, images := job.MaxTokens, task.HasImages(job.Messages)
	if job.PromptTokens > 0 || limit == 0 || images || engine.MostTokens(job.Prompt)+limit > size { // else both fit, however many tokens the prompt has
		if limit, err = e.room(ctx, job, size); err != nil {
			return out, err
		}
	}
	out = sampling{
		Stream: true, NPredict: limit, Seed: job.Seed, Samplers: samplers,
		Temperature: job.Sampling.Temperature, TopK: job.Sampling.TopK, TopP: job.Sampling.TopP, MinP: job.Sampling.MinP,
		RepeatPenalty: job.Sampling.RepeatPenalty, RepeatLastN: repeatLastN, Stop: job.Sampling.Stop, ResponseFields: fields,
		LogitBias: [][2]any{}, off: allOff,
	}
	if out.Stop == nil {
		out.Stop = []string{}
	}
	if job.Chat != nil {
		for _, b := range job.Chat.LogitBias {
			out.LogitBias = append(out.LogitBias, [2]any{b.Token, b.Bias})
		}
	}
	if l := g.asks(); l != nil {
		// It watches no stop strings, so that each token comes by itself.
		out.Stop, out.NProbs = []string{}, max(l.Top, 1)
	}
	out.TimingsPerToken = g.stops != nil
	out.ReturnProgress = job.Cached != nil || job.Progress != nil
	return out, nil
}

// room is how many tokens an answer gets: as many as it may have at most (0: no bound), but no more than a context of that size holds
// after the prompt, which is counted where the caller does not know its tokens.
func (e *Engine) room(ctx context.Context, job *engine.Job, size int) (_ int, err error) {
	prompt := job.PromptTokens
	switch {
	case prompt > 0:
	case task.HasImages(job.Messages):
		prompt, err = e.CountChat(ctx, job.Messages, job.Chat)
	default:
		prompt, err = e.CountTokens(ctx, job.Prompt)
	}
	if err != nil {
		return 0, err
	}
	room := size - prompt
	if room <= 0 {
		return 0, tooLong(prompt, size)
	}
	if job.MaxTokens > 0 {
		room = min(room, job.MaxTokens)
	}
	return room, nil
}

// last takes what the engine told at the end, and emits what was held back.
func (g *generation) last() (result engine.Result, err error) {
	text := ""
	if g.chats {
		result, err = g.end.result()
	} else {
		result, text, err = lastFrame(g.final)
	}
	if err != nil {
		return engine.Result{}, g.engine.c.Reset(err)
	}
	if text != "" {
		err = g.out.Take(task.EventText, []byte(text))
	}
	if err == nil {
		err = g.out.Flush()
	}
	if err != nil {
		return engine.Result{}, err
	}
	return result, nil
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
