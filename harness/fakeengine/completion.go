// SPDX-License-Identifier: GPL-3.0-or-later

package fakeengine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// defaultTokens is the length of a generation that neither the script nor the request bounds.
const defaultTokens = 16

// errCut makes the handler cut the connection.
var errCut = errors.New("cut the connection")

type request struct {
	params
	Prompt   string   `json:"prompt"`
	NPredict *int     `json:"n_predict"`
	Stop     []string `json:"stop"`
	Stream   bool     `json:"stream"`
	Progress bool     `json:"return_progress"`
}

// generation is one running /completion. Its handler's goroutine owns it.
type generation struct {
	e        *Engine
	w        http.ResponseWriter
	req      request
	script   Script
	promptN  int
	sent     int
	text     strings.Builder
	headers  bool
	stopType string
	stopWord string
	started  time.Time
}

func (e *Engine) completion(w http.ResponseWriter, r *http.Request) {
	var req request
	if !read(w, r, &req) {
		return
	}
	n := len(tokens(req.Prompt, true))
	if n >= e.opts.Ctx {
		writeError(w, http.StatusBadRequest, "exceed_context_size_error",
			fmt.Sprintf("request (%d tokens) exceeds the available context size (%d tokens), try increasing it", n, e.opts.Ctx),
			map[string]any{"n_prompt_tokens": n, "n_ctx": e.opts.Ctx})
		return
	}
	g := &generation{e: e, w: w, req: req, promptN: n}
	if !e.takeSlot(r.Context(), g) {
		return
	}
	err := g.run(r.Context())
	gone := r.Context().Err() != nil
	e.held.Update(func() {
		switch {
		case gone:
			e.state.Canceled++
		case err == nil:
			e.state.Finished++
		}
		if gone && g.script.IgnoreCancel {
			e.kept++
		} else {
			e.state.Busy--
		}
	})
	if err != nil && !gone {
		panic(http.ErrAbortHandler) // net/http then closes the connection without ending the body
	}
}

// takeSlot waits for a slot, as a request to a busy llama-server does, and fixes the generation's script.
func (e *Engine) takeSlot(ctx context.Context, g *generation) bool {
	e.held.Update(func() { e.state.Waiting++ })
	err := e.held.Until(ctx, func() bool { return e.state.Busy < e.opts.Slots && e.takeLocked(g) })
	e.held.Update(func() {
		e.state.Waiting--
		if err != nil {
			e.state.Canceled++
		}
	})
	return err == nil
}

func (e *Engine) takeLocked(g *generation) bool {
	e.state.Busy++
	e.state.Generations++
	if strings.Contains(g.req.Prompt, e.script.Match) && (e.script.Times == 0 || e.matched < e.script.Times) {
		e.matched++
		g.script = e.script
	}
	return true
}

// run sends the generation. An error means that the connection has to be cut, unless the client has gone.
func (g *generation) run(ctx context.Context) error {
	if g.script.Fault == Refuse {
		status := g.script.Status
		if status == 0 {
			status = http.StatusServiceUnavailable
		}
		writeError(g.w, status, "unavailable_error", "the fake engine was told to refuse", nil)
		return nil
	}
	g.started = time.Now()
	if err := g.progress(ctx); err != nil {
		return err
	}
	limit, ends := g.length()
	next := voice(g.req.Prompt, g.req.params)
	for i := 0; ; i++ {
		if g.script.Fault != NoFault && i == g.script.After {
			if done, err := g.misbehave(ctx); done || err != nil {
				return err
			}
		}
		if i == limit {
			g.stopType = "limit"
			if ends {
				g.stopType = "eos"
			}
			return g.finish()
		}
		if err := g.waitTurn(ctx, i); err != nil {
			return err
		}
		var token string
		if len(g.script.Text) > 0 {
			token = g.script.Text[i]
		} else {
			token = next(i)
		}
		if token, g.stopWord = g.cutAtStop(token); g.stopWord != "" {
			if token != "" {
				g.token(token)
			}
			g.stopType = "word"
			return g.finish()
		}
		g.token(token)
	}
}

// progress takes the script's time for the prompt, and tells of it if asked.
func (g *generation) progress(ctx context.Context) error {
	for i := range g.script.Progress {
		if err := pause(ctx, time.Duration(g.script.IntervalMS)*time.Millisecond); err != nil {
			return err
		}
		if g.req.Progress {
			g.frame(fmt.Sprintf(`{"index":0,"content":"","tokens":[],"stop":false,"prompt_progress":{"total":%d,"cache":0,"processed":%d,"time_ms":1}}`,
				g.promptN, g.promptN*i/g.script.Progress))
		}
	}
	return nil
}

// length returns how many tokens the generation may have, and whether it ends there by itself.
func (g *generation) length() (limit int, ends bool) {
	limit = g.e.opts.Ctx - g.promptN
	if n := g.req.NPredict; n != nil && *n >= 0 {
		limit = min(limit, *n)
	} else if g.script.Tokens == 0 && len(g.script.Text) == 0 {
		return min(limit, defaultTokens), true
	}
	own := g.script.Tokens
	if len(g.script.Text) > 0 {
		own = len(g.script.Text)
	}
	if own > 0 && own <= limit {
		return own, true
	}
	return limit, false
}

// waitTurn waits until the i-th token may be sent.
func (g *generation) waitTurn(ctx context.Context, i int) error {
	if g.script.Stepped {
		g.begin() // a stepped client sees the response's head before the first release
		return g.e.held.Until(ctx, func() bool {
			if g.e.released == 0 {
				return false
			}
			g.e.released--
			return true
		})
	}
	if i == 0 {
		return ctx.Err()
	}
	return pause(ctx, time.Duration(g.script.IntervalMS)*time.Millisecond)
}

// misbehave makes the script's fault happen. done means that the generation is over.
func (g *generation) misbehave(ctx context.Context) (done bool, err error) {
	switch g.script.Fault {
	case Stall:
		g.begin()
		<-ctx.Done()
		return true, ctx.Err()
	case Exit:
		if g.e.opts.Exit != nil {
			g.e.opts.Exit(3)
		}
		return true, errCut
	case Die:
		g.begin()
		return true, errCut
	case ErrorFrame:
		body, _ := json.Marshal(errorBody(http.StatusInternalServerError, "server_error", "the fake engine was told to fail", nil))
		g.frame(string(body))
		return true, nil
	case SplitRune:
		g.raw("\xc3")
		g.raw("\xa9")
	case HugeLine:
		n := g.script.Bytes
		if n == 0 {
			n = 8 << 20
		}
		g.raw(strings.Repeat("x", n))
	case Garbage:
		g.frame("{not json")
	case NoFault, Refuse: // Refuse has happened before the generation
	}
	return false, nil
}

// cutAtStop cuts the token where the text so far ends in a stop string. It cannot take back a stop string that began in an earlier token, but tests
// with this engine have none.
func (g *generation) cutAtStop(token string) (string, string) {
	for _, stop := range g.req.Stop {
		if at := strings.Index(token, stop); stop != "" && at >= 0 {
			return token[:at], stop
		}
	}
	return token, ""
}

func (g *generation) token(text string) {
	quoted, _ := json.Marshal(text)
	g.content(text, string(quoted))
}

// raw sends content without making it valid UTF-8 first, which encoding/json would do.
func (g *generation) raw(text string) { g.content(text, `"`+text+`"`) }

func (g *generation) content(text, quoted string) {
	g.sent++
	g.text.WriteString(text)
	if g.req.Stream {
		g.frame(fmt.Sprintf(`{"index":0,"content":%s,"tokens":[%d],"stop":false,"id_slot":-1,"tokens_predicted":%d,"tokens_evaluated":%d}`,
			quoted, 2+g.sent, g.sent, g.promptN))
	}
	g.e.held.Update(func() { g.e.state.TokensSent++ })
}

// begin sends the response's head.
func (g *generation) begin() {
	if g.headers || !g.req.Stream {
		return
	}
	g.headers = true
	g.w.Header().Set("Content-Type", "text/event-stream")
	g.w.WriteHeader(http.StatusOK)
	g.flush()
}

func (g *generation) frame(data string) {
	g.begin()
	_, _ = fmt.Fprintf(g.w, "data: %s\n\n", data) // the context shows whether the client has gone
	g.flush()
}

func (g *generation) flush() { _ = http.NewResponseController(g.w).Flush() }

// finish sends the last frame, or the whole answer if the request did not ask for a stream.
func (g *generation) finish() error {
	text := ""
	if !g.req.Stream {
		text = g.text.String()
	}
	ms := float64(time.Since(g.started).Microseconds()) / 1000
	timings := map[string]any{"cache_n": 0, "prompt_n": g.promptN, "prompt_ms": 0.1, "predicted_n": g.sent, "predicted_ms": ms}
	body := map[string]any{
		"index": 0, "content": text, "tokens": []int{}, "id_slot": 0, "stop": true, "model": "fake",
		"tokens_predicted": g.sent, "tokens_evaluated": g.promptN, "prompt": g.req.Prompt,
		"truncated": g.promptN+g.sent >= g.e.opts.Ctx, "stop_type": g.stopType, "stopping_word": g.stopWord,
		"tokens_cached": g.promptN + g.sent, "timings": timings,
	}
	for name, figure := range g.script.Figures {
		if _, timed := timings[name]; timed {
			timings[name] = figure
		} else {
			body[name] = figure
		}
	}
	if !g.req.Stream {
		writeJSON(g.w, http.StatusOK, body)
		return nil
	}
	data, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode the last frame: %w", err)
	}
	g.frame(string(data))
	return nil
}
