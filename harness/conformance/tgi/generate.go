// SPDX-License-Identifier: GPL-3.0-or-later

package tgi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/llama-orch/llama-orch/harness/conformance/voice"
)

type generateRequest struct {
	Inputs     string     `json:"inputs"`
	Parameters parameters `json:"parameters"`
}

type parameters struct {
	Details       bool            `json:"details"`
	Most          *int            `json:"max_new_tokens"`
	Sample        bool            `json:"do_sample"`
	Seed          *uint64         `json:"seed"`
	Temperature   float64         `json:"temperature"`
	TopK          int             `json:"top_k"`
	TopP          float64         `json:"top_p"`
	RepeatPenalty float64         `json:"repetition_penalty"`
	Stop          []string        `json:"stop"`
	Grammar       json.RawMessage `json:"grammar"`
}

// checkBounds refuses what the router's own checks refuse.
func (s *Server) checkBounds(in *generateRequest) error {
	p, tokens := &in.Parameters, voice.Count(in.Inputs)
	if p.Most == nil {
		rest := s.opts.Total - tokens
		p.Most = &rest
	}
	switch {
	case in.Inputs == "":
		return errors.New("`inputs` cannot be empty")
	case *p.Most <= 0:
		return errors.New("`max_new_tokens` must be strictly positive")
	case len(p.Stop) > s.opts.Stops:
		return fmt.Errorf("`stop` supports up to %d stop sequences. Given: %d", s.opts.Stops, len(p.Stop))
	case tokens > s.opts.Input:
		return fmt.Errorf("`inputs` must have less than %d tokens. Given: %d", s.opts.Input, tokens)
	case tokens+*p.Most > s.opts.Total:
		return fmt.Errorf("`inputs` tokens + `max_new_tokens` must be <= %d. Given: %d `inputs` tokens and %d `max_new_tokens`", s.opts.Total, tokens, *p.Most)
	}
	return nil
}

// generate answers on /generate_stream.
func (s *Server) generate(w http.ResponseWriter, r *http.Request) {
	var in generateRequest
	if !s.take(w, r, generateBody, &in, func() error { return s.checkBounds(&in) }) {
		return
	}
	fails := s.failure()
	if fails.Text != "" && fails.After == 0 {
		s.refuse(w, fails)
		return
	}
	if s.enter(r.Context()) != nil {
		return
	}
	defer s.leave()
	w.Header().Set("Content-Type", "text/event-stream")
	s.play(r.Context(), w, in, fails)
}

// failure takes the error that the next generation is to end with.
func (s *Server) failure() (e Error) {
	s.held.Update(func() { e, s.fails = s.fails, Error{} })
	return e
}

type token struct {
	ID      int     `json:"id"`
	Text    string  `json:"text"`
	Logprob float64 `json:"logprob"`
	Special bool    `json:"special"`
}

type details struct {
	Finish    string  `json:"finish_reason"`
	Generated int     `json:"generated_tokens"`
	Input     int     `json:"input_length"`
	Seed      *uint64 `json:"seed"`
}

type frame struct {
	Index     int      `json:"index"`
	Token     token    `json:"token"`
	Generated *string  `json:"generated_text"`
	Details   *details `json:"details"`
}

// play sends the tokens. As TGI does, it leaves a stop string in the text, and sees none that ends within a token. Where the answer is bound by a
// grammar, it is a value that fits the conformance suite's schema.
func (s *Server) play(ctx context.Context, w http.ResponseWriter, in generateRequest, fails Error) {
	p := in.Parameters
	next := s.voiceOf(in)
	var all strings.Builder
	for i := 0; ; i++ {
		if fails.Text != "" && i == fails.After {
			s.refuse(w, fails)
			return
		}
		if !s.pause(i, ctx.Done()) {
			return
		}
		text, over := next(i)
		f := frame{Index: i + 1, Token: token{ID: i, Text: text, Logprob: -0.5}}
		finish := ""
		if over {
			f.Token, finish = token{ID: 2, Text: "</s>", Special: true}, "eos_token"
		} else {
			all.WriteString(text)
		}
		switch {
		case finish != "":
		case slices.ContainsFunc(p.Stop, func(stop string) bool { return strings.HasSuffix(all.String(), stop) }):
			finish = "stop_sequence"
		case i+1 == *p.Most:
			finish = "length"
		}
		if finish != "" {
			whole := all.String()
			f.Generated = &whole
			if p.Details {
				f.Details = &details{Finish: finish, Generated: i + 1, Input: voice.Count(in.Inputs), Seed: p.Seed}
			}
		}
		event(w, f)
		if finish != "" {
			return
		}
	}
}

// pause waits between two tokens. It returns false if the client has gone.
func (s *Server) pause(sent int, gone <-chan struct{}) bool {
	if s.opts.Interval > 0 && sent > 0 {
		select {
		case <-time.After(s.opts.Interval):
		case <-gone:
		}
	}
	select {
	case <-gone:
		return false
	default:
		return true
	}
}

// bound is the answer to every grammar.
var bound = []string{`{"mood"`, `:`, `"calm"`, `}`}

// voiceOf gives the i-th token, or the end.
func (s *Server) voiceOf(in generateRequest) func(i int) (text string, over bool) {
	p := in.Parameters
	if len(p.Grammar) > 0 && string(p.Grammar) != "null" {
		return func(i int) (string, bool) {
			if i >= len(bound) {
				return "", true
			}
			return bound[i], false
		}
	}
	if !p.Sample { // nothing is drawn
		p.Seed = nil
	}
	next := voice.Of(in.Inputs, p.Sample, p.Seed, p.Temperature, p.TopK, p.TopP, p.RepeatPenalty)
	return func(i int) (string, bool) { return next(i), false }
}
