// SPDX-License-Identifier: GPL-3.0-or-later

package scripted

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"strings"
	"time"
)

// The reasons of an end.
const (
	finishStop   = "stop"
	finishLength = "length"
	finishCalls  = "tool_calls"
)

// errCut makes the handler cut the connection.
var errCut = errors.New("cut the connection")

// wire is how an answer is written: as /completion does it, or as the chat endpoint does.
type wire interface {
	begin()           // the prompt is about to be read
	progress(all int) // it was read
	piece(s Step)     // a Step with a text, a reasoning, or a call
	end(e ending)
}

// ending is what the last frames tell.
type ending struct {
	finish               string
	prompt, tokens, slot int
	stop                 string // the stop string that came
	took                 time.Duration
}

// player plays one rule. Its handler's goroutine owns it.
type player struct {
	e      *Engine
	w      http.ResponseWriter
	out    wire
	ask    sampling
	rule   Rule
	at     int // the rule's number
	prompt int // tokens
	slot   int

	head   bool // the response's head was sent
	sent   int  // tokens
	calls  bool
	held   string // of the answer: it may be the begin of a stop string
	limit  int
	begun  time.Time
	reason string // why it ended before the script did
	stop   string
}

// play answers a request.
func (e *Engine) play(w http.ResponseWriter, r *http.Request, ask sampling, a asked, prompt int, out func(*player) wire) {
	if prompt >= e.opts.Ctx {
		writeError(w, Failure{
			http.StatusBadRequest, fmt.Sprintf("request (%d tokens) exceeds the available context size (%d tokens), try increasing it", prompt, e.opts.Ctx),
			"exceed_context_size_error",
		}, map[string]any{"n_prompt_tokens": prompt, "n_ctx": e.opts.Ctx})
		return
	}
	slot, err := e.takeSlot(r.Context(), ask.slot())
	if err != nil {
		return
	}
	defer e.freeSlot(slot)
	p := &player{e: e, w: w, ask: ask, prompt: prompt, slot: slot, limit: ask.limit(e.opts.Ctx, prompt), begun: time.Now()}
	p.rule, p.at = e.pick(a)
	p.out = out(p)
	if err := p.run(r.Context()); err != nil && r.Context().Err() == nil {
		panic(http.ErrAbortHandler) // net/http then closes the connection without ending the body
	}
}

func (p *player) run(ctx context.Context) error {
	for i, step := range p.rule.Play {
		over, err := p.step(ctx, i, step)
		if over || err != nil {
			return err
		}
		if p.reason != "" {
			break
		}
	}
	p.start()
	if p.reason == "" && p.held != "" {
		p.out.piece(Step{Text: p.held})
	}
	end := ending{finish: p.rule.Finish, prompt: p.prompt, tokens: p.sent, slot: p.slot, stop: p.stop, took: time.Since(p.begun)}
	switch {
	case p.reason != "":
		end.finish = p.reason
	case end.finish == "" && p.calls:
		end.finish = finishCalls
	case end.finish == "":
		end.finish = finishStop
	}
	p.out.end(end)
	return ctx.Err()
}

// step makes one step happen. over means that the answer ends without its last frames.
func (p *player) step(ctx context.Context, at int, s Step) (over bool, err error) {
	if s.Once && !p.e.first(p.at, at) || s.OnceFile != "" && !create(s.OnceFile) {
		return false, nil
	}
	switch {
	case s.PauseMS > 0:
		p.start()
		return false, pause(ctx, time.Duration(s.PauseMS)*time.Millisecond)
	case s.Wait:
		p.start()
		return false, p.e.held.Until(ctx, func() bool {
			if p.e.released == 0 {
				return false
			}
			p.e.released--
			return true
		})
	case s.Ping:
		p.start()
		p.write(":\n\n")
	case s.Error != nil && !p.head:
		writeError(p.w, *s.Error, nil)
		return true, nil
	case s.Error != nil:
		p.frame(s.Error.body(nil))
		return true, nil
	case s.Exit != 0 && p.e.opts.Exit != nil:
		p.e.opts.Exit(s.Exit)
		return true, errCut
	case s.Die, s.Exit != 0:
		p.start()
		return true, errCut
	case s.Raw != "":
		p.start()
		p.write("data: " + s.Raw + "\n\n")
	default:
		p.start()
		return false, p.pieces(ctx, s)
	}
	return false, ctx.Err()
}

// pieces sends what a step says, cut as it says.
func (p *player) pieces(ctx context.Context, s Step) error {
	switch {
	case s.Text != "":
		for _, text := range cut(s.Text, s.Cut) {
			if ctx.Err() != nil || !p.token() {
				return ctx.Err()
			}
			if text = p.hold(text); text != "" {
				p.out.piece(Step{Text: text})
			}
			if p.reason != "" {
				return nil
			}
		}
	case s.Reasoning != "":
		for _, text := range cut(s.Reasoning, s.Cut) {
			if ctx.Err() != nil || !p.token() {
				return ctx.Err()
			}
			p.out.piece(Step{Reasoning: text})
		}
	case s.Call != nil:
		p.calls = true
		name := s.Call.Name
		for i, arguments := range cut(s.Call.Arguments, s.Cut) {
			if ctx.Err() != nil || !p.token() {
				return ctx.Err()
			}
			if i > 0 {
				name = ""
			}
			p.out.piece(Step{Call: &Call{N: s.Call.N, Name: name, Arguments: arguments}})
		}
	}
	return ctx.Err()
}

// likely tells how likely a token was, in the form that both endpoints have: half, and each of the others half as much as the one before it. Nil:
// nobody asks.
func (p *player) likely(text string) []any {
	if p.ask.NProbs <= 0 {
		return nil
	}
	tell := func(text string, place int) map[string]any {
		bytes := make([]int, len(text))
		for i, b := range []byte(text) {
			bytes[i] = int(b)
		}
		return map[string]any{"id": 1, "token": text, "bytes": bytes, "logprob": -math.Ln2 * float64(place)}
	}
	top := []any{tell(text, 1)}
	for i := 2; i <= p.ask.NProbs; i++ {
		top = append(top, tell(fmt.Sprintf("other %d", i), i))
	}
	token := tell(text, 1)
	token["top_logprobs"] = top
	return []any{token}
}

// token counts a token, and reports whether there is room for it.
func (p *player) token() bool {
	if p.sent == p.limit {
		p.reason = finishLength
		return false
	}
	p.sent++
	return true
}

// hold returns what of the answer may be sent now: not a stop string, nor what may become one.
func (p *player) hold(text string) string {
	text = p.held + text
	p.held = ""
	for _, stop := range p.ask.Stop {
		if at := strings.Index(text, stop); stop != "" && at >= 0 {
			p.reason, p.stop = finishStop, stop
			return text[:at]
		}
	}
	keep := 0
	for _, stop := range p.ask.Stop {
		for n := min(len(stop)-1, len(text)); n > keep; n-- {
			if strings.HasSuffix(text, stop[:n]) {
				keep = n
				break
			}
		}
	}
	p.held = text[len(text)-keep:]
	return text[:len(text)-keep]
}

// start sends the response's head, and tells of the prompt where that is asked for.
func (p *player) start() {
	if p.head {
		return
	}
	p.head = true
	if p.ask.Stream {
		p.w.Header().Set("Content-Type", "text/event-stream")
		p.w.WriteHeader(http.StatusOK)
	}
	p.out.begin()
	if p.ask.Progress {
		p.out.progress(p.prompt)
	}
}

// create makes a file, and reports whether it was not there.
func create(path string) bool {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return false
	}
	_ = f.Close() // it is empty
	return true
}

func (p *player) frame(body any) {
	data, _ := json.Marshal(body) // texts and numbers always encode
	p.write("data: " + string(data) + "\n\n")
}

func (p *player) write(text string) {
	if !p.ask.Stream {
		return
	}
	_, _ = p.w.Write([]byte(text)) // the context shows whether the client has gone
	_ = http.NewResponseController(p.w).Flush()
}

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// random is a text as llama-server's ids have.
func random() string { return rand.Text() }

func (e ending) timings() map[string]any {
	return map[string]any{
		"cache_n": 0, "prompt_n": e.prompt, "prompt_ms": 0.1, "predicted_n": e.tokens, "predicted_ms": float64(e.took.Microseconds()) / 1000,
	}
}

// native is how /completion tells of the end.
func (e ending) native() map[string]any {
	kind := "eos"
	switch {
	case e.finish == finishLength:
		kind = "limit"
	case e.stop != "":
		kind = "word"
	}
	return map[string]any{
		"index": 0, "content": "", "stop": true, "stop_type": kind, "stopping_word": e.stop, "tokens_predicted": e.tokens,
		"tokens_evaluated": e.prompt, "tokens_cached": e.prompt + e.tokens, "id_slot": e.slot, "timings": e.timings(),
	}
}
