// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// stub is an engine that computes nothing. It has the part of llama-server's API that the daemon's adapter uses. The text of each token is the time
// at which it was sent. The prompt says what to send:
//
//	rate=100 tokens=0    100 tokens a second until the streams are told to end
//	rate=20 tokens=64    64 tokens at 20 a second
//	rate=0 tokens=8000   8000 tokens, as fast as they are taken
//	hold                 one token, and nothing until the streams are told to end
type stub struct {
	slots  int
	thinks bool // the template of its model tells thinking from the answer
	busy   atomic.Int64
	*shared
}

// shared is what the stub's listeners have in common.
type shared struct {
	sent atomic.Int64 // tokens of all streams, except probes
	mu   sync.Mutex
	over chan struct{} // once it is closed, running streams end
}

// mark precedes a token's time: 19 digits, nanoseconds since 1970.
const (
	mark   = '@'
	digits = 19
)

// wide is the number of a listener's slots. A pool cannot have more.
const wide = 256

// stubMain serves on four ports: two with many slots, one with one slot, and one with many whose model can think.
func stubMain([]string) error {
	common := &shared{over: make(chan struct{})}
	var handlers []http.Handler
	for _, s := range []*stub{{slots: wide}, {slots: wide}, {slots: 1}, {slots: wide, thinks: true}} {
		s.shared = common
		handlers = append(handlers, s.handler())
	}
	return serve(handlers...)
}

// serve serves each handler on a port of its own and prints the ports. It returns when standard input ends.
func serve(handlers ...http.Handler) error {
	var addrs []string
	for _, h := range handlers {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		addrs = append(addrs, listener.Addr().String())
		go func() { // ends with the process
			_ = http.Serve(listener, h)
		}()
	}
	fmt.Printf("{\"listening\":%q}\n", strings.Join(addrs, " "))
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// proxyMain is a plain reverse proxy to the URL given.
func proxyMain(args []string) error {
	target, err := url.Parse(args[0])
	if err != nil {
		return fmt.Errorf("the target: %w", err)
	}
	return serve(whole(reverse(target)))
}

func reverse(target *url.URL) *httputil.ReverseProxy {
	p := httputil.NewSingleHostReverseProxy(target)
	p.FlushInterval = -1
	p.Transport = &http.Transport{MaxIdleConnsPerHost: 1024, DisableCompression: true}
	return p
}

// whole reads a request's body before the proxy has the request.
func whole(p http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// An engine may answer before the proxy has seen the end of the request's body. Then net/http would close that body, and the
		// proxy's own transport would take that for a failure and break the stream off.
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // the client went
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		p.ServeHTTP(w, r)
	})
}

func (s *stub) handler() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("GET /health", answer(func() any { return map[string]string{"status": "ok"} }))
	m.HandleFunc("GET /props", answer(func() any {
		template := "{{ messages[-1].content }}"
		if s.thinks {
			template += "{{ '<think>' }}"
		}
		return map[string]any{
			"build_info": "stub", "total_slots": s.slots, "default_generation_settings": map[string]int{"n_ctx": 1 << 24},
			"chat_template": template, "chat_template_caps": map[string]bool{"supports_tools": false, "supports_tool_calls": false},
		}
	}))
	m.HandleFunc("POST /tokenize", answer(func() any { return map[string][]int{"tokens": {1, 2, 3}} }))
	m.HandleFunc("POST /apply-template", func(w http.ResponseWriter, r *http.Request) {
		if prompt, ok := read(w, r); ok {
			_ = json.NewEncoder(w).Encode(map[string]string{"prompt": prompt}) // a client that went has no use for it
		}
	})
	m.HandleFunc("GET /slots", answer(func() any {
		slots := make([]map[string]bool, s.slots)
		for i := range slots {
			slots[i] = map[string]bool{"is_processing": int64(i) < s.busy.Load()}
		}
		return slots
	}))
	m.HandleFunc("POST /completion", func(w http.ResponseWriter, r *http.Request) { s.play(w, r, completionFrames) })
	m.HandleFunc("POST /v1/chat/completions", func(w http.ResponseWriter, r *http.Request) { s.play(w, r, chatFrames) })
	m.HandleFunc("POST /bench/end", func(http.ResponseWriter, *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		close(s.over)
		s.over = make(chan struct{})
	})
	// Answers with the number of tokens sent since the last request.
	m.HandleFunc("POST /bench/sent", answer(func() any { return s.sent.Swap(0) }))
	return m
}

func answer(body func() any) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_ = json.NewEncoder(w).Encode(body()) // a client that went has no use for it
	}
}

// read reads a request's prompt. That of a chat is what its last message says.
func read(w http.ResponseWriter, r *http.Request) (prompt string, ok bool) {
	var in struct {
		Prompt   string `json:"prompt"`
		Messages []struct {
			Content string `json:"content"`
		} `json:"messages"`
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		http.Error(w, `{"error":{"code":400,"message":"no JSON"}}`, http.StatusBadRequest)
		return "", false
	}
	if n := len(in.Messages); n > 0 {
		return in.Messages[n-1].Content, true
	}
	return in.Prompt, true
}

// frames are an endpoint's: what stands around a token's text and behind its number, and what comes before the first token and behind the last.
type frames struct {
	first                string
	before, after, close string
	last                 string
}

var (
	completionFrames = frames{
		before: `data: {"index":0,"content":" `, after: `","tokens":[983],"stop":false,"id_slot":-1,"tokens_predicted":`,
		close: `,"tokens_evaluated":3}`,
		last:  `data: {"content":"","stop":true,"stop_type":"eos","tokens_predicted":%d,"tokens_evaluated":3,"timings":{"prompt_ms":0,"predicted_ms":1}}` + "\n\n",
	}
	// llama-server's chat endpoint begins with the role, and ends with the reason in one frame and the figures in another.
	chatFrames = frames{
		first:  `data: {"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}],` + chunk + "}\n\n",
		before: `data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":" `,
		after:  `"}}],` + chunk + `,"number":`, close: `}`,
		last: `data: {"choices":[{"finish_reason":"stop","index":0,"delta":{}}],` + chunk + `,"__verbose":{"id_slot":0,"tokens_cached":3}}` + "\n\n" +
			`data: {"choices":[],` + chunk + `,"usage":{"prompt_tokens":3,"completion_tokens":%d},"timings":{"prompt_ms":0,"predicted_ms":1}}` + "\n\ndata: [DONE]\n\n",
	}
)

// chunk is what every frame of a chat says of itself.
const chunk = `"created":1,"id":"chatcmpl-0","model":"stub","system_fingerprint":"stub","object":"chat.completion.chunk"`

// play streams what the prompt says, in the frames of an endpoint.
func (s *stub) play(w http.ResponseWriter, r *http.Request, f frames) {
	prompt, ok := read(w, r)
	if !ok {
		return
	}
	s.busy.Add(1)
	defer s.busy.Add(-1)
	s.mu.Lock()
	over := s.over
	s.mu.Unlock()
	rate, tokens := 0, 0
	_, err := fmt.Sscanf(prompt, "rate=%d tokens=%d", &rate, &tokens)
	measured := err == nil
	w.Header().Set("Content-Type", "text/event-stream")
	e := emitter{w: w, control: http.NewResponseController(w), frames: f}
	switch {
	case !measured:
		err = e.token()
		if prompt == "hold" {
			select {
			case <-over:
			case <-r.Context().Done():
			}
		}
	case rate > 0:
		err = e.paced(time.Second/time.Duration(rate), tokens, over, r.Context().Done())
	default:
		for err = nil; err == nil && e.n < tokens; {
			err = e.token()
		}
	}
	if measured {
		s.sent.Add(int64(e.n))
	}
	if err == nil {
		_ = e.end()
	}
}

type emitter struct {
	frames  frames
	w       io.Writer
	control *http.ResponseController
	n       int
	buf     []byte
}

func (e *emitter) token() error {
	b := e.buf[:0]
	if e.n == 0 {
		b = append(b, e.frames.first...)
	}
	e.n++
	b = append(b, e.frames.before...)
	b = append(b, mark)
	b = strconv.AppendInt(b, time.Now().UnixNano(), 10)
	b = append(b, e.frames.after...)
	b = strconv.AppendInt(b, int64(e.n), 10)
	b = append(b, e.frames.close...)
	b = append(b, "\n\n"...)
	e.buf = b
	return e.flush()
}

func (e *emitter) end() error {
	e.buf = fmt.Appendf(e.buf[:0], e.frames.last, e.n)
	return e.flush()
}

func (e *emitter) flush() error {
	if _, err := e.w.Write(e.buf); err != nil {
		return err
	}
	return e.control.Flush()
}

var errGone = errors.New("the client went")

// paced emits so many tokens, or for 0 until it is over.
func (e *emitter) paced(interval time.Duration, tokens int, over, gone <-chan struct{}) error {
	next := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-over:
			return nil
		case <-gone:
			return errGone
		}
		if err := e.token(); err != nil || e.n == tokens {
			return err
		}
		next = next.Add(interval)
		timer.Reset(time.Until(next))
	}
}
