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
	slots int
	busy  atomic.Int64
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

// stubMain serves on three ports: two with many slots, and one with one.
func stubMain([]string) error {
	common := &shared{over: make(chan struct{})}
	var handlers []http.Handler
	for _, slots := range []int{wide, wide, 1} {
		handlers = append(handlers, (&stub{slots: slots, shared: common}).handler())
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
	p := httputil.NewSingleHostReverseProxy(target)
	p.FlushInterval = -1
	p.Transport = &http.Transport{MaxIdleConnsPerHost: 1024, DisableCompression: true}
	return serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// An engine may answer before the proxy has seen the end of the request's body. Then net/http would close that body, and the
		// proxy's own transport would take that for a failure and break the stream off.
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // the client went
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		p.ServeHTTP(w, r)
	}))
}

func (s *stub) handler() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("GET /health", answer(func() any { return map[string]string{"status": "ok"} }))
	m.HandleFunc("GET /props", answer(func() any {
		return map[string]any{
			"build_info": "stub", "total_slots": s.slots, "default_generation_settings": map[string]int{"n_ctx": 1 << 24},
		}
	}))
	m.HandleFunc("POST /tokenize", answer(func() any { return map[string][]int{"tokens": {1, 2, 3}} }))
	m.HandleFunc("POST /apply-template", answer(func() any { return map[string]string{"prompt": "hold"} }))
	m.HandleFunc("GET /slots", answer(func() any {
		slots := make([]map[string]bool, s.slots)
		for i := range slots {
			slots[i] = map[string]bool{"is_processing": int64(i) < s.busy.Load()}
		}
		return slots
	}))
	m.HandleFunc("POST /completion", s.completion)
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

func (s *stub) completion(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Prompt string `json:"prompt"`
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		http.Error(w, `{"error":{"code":400,"message":"no JSON"}}`, http.StatusBadRequest)
		return
	}
	s.busy.Add(1)
	defer s.busy.Add(-1)
	s.mu.Lock()
	over := s.over
	s.mu.Unlock()
	rate, tokens := 0, 0
	_, err := fmt.Sscanf(in.Prompt, "rate=%d tokens=%d", &rate, &tokens)
	measured := err == nil
	w.Header().Set("Content-Type", "text/event-stream")
	e := emitter{w: w, control: http.NewResponseController(w)}
	switch {
	case !measured:
		err = e.token()
		if in.Prompt == "hold" {
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
	w       io.Writer
	control *http.ResponseController
	n       int
	buf     []byte
}

func (e *emitter) token() error {
	e.n++
	b := append(e.buf[:0], `data: {"index":0,"content":" `...)
	b = append(b, mark)
	b = strconv.AppendInt(b, time.Now().UnixNano(), 10)
	b = append(b, `","tokens":[983],"stop":false,"id_slot":-1,"tokens_predicted":`...)
	b = strconv.AppendInt(b, int64(e.n), 10)
	b = append(b, `,"tokens_evaluated":3}`+"\n\n"...)
	e.buf = b
	return e.flush()
}

func (e *emitter) end() error {
	e.buf = fmt.Appendf(e.buf[:0], `data: {"content":"","stop":true,"stop_type":"eos","tokens_predicted":%d,"tokens_evaluated":3,"timings":{"prompt_ms":0,"predicted_ms":1}}`+"\n\n", e.n)
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
