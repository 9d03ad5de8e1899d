// SPDX-License-Identifier: GPL-3.0-or-later

package bdd

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/llama-orch/llama-orch/harness/client"
	"github.com/llama-orch/llama-orch/harness/watch"
)

type event = client.Event

// stream is one subscription, read by its own goroutine and checked as it comes: framing, order, ids with their running
// hash, the shape of every event's data, nothing behind the terminal event. The first breach is err.
type stream struct {
	watch.State

	name     string
	task     string
	prior    []event // what the client held when it subscribed
	header   http.Header
	close    context.CancelFunc
	done     chan struct{}
	asserted bool // a step has said how it should end

	events  []event // guarded by State, as is what follows
	ended   bool    // the body is at its end
	hungUp  bool    // by us
	refused bool    // its only event is the error that the client holds other events
	broken  bool    // a step has said that it breaks off, and it did
	err     error

	running hash.Hash // owned by the reader, as is what follows
	seq     int
	started map[string]any
	said    *client.Log // what the numbered events say, checked by the suites' own client
}

// newStream makes the reader of a response's body. Prior are the numbered events before the one it begins with.
func newStream(name, task string, prior []event) *stream {
	s := &stream{name: name, task: task, prior: prior, done: make(chan struct{}), running: sha256.New(), said: client.NewLog()}
	for _, e := range prior {
		if err := s.numbered(e); err != nil {
			s.err = fmt.Errorf("what was held before: %w", err)
		}
	}
	return s
}

// read takes the body to its end.
func (s *stream) read(body io.ReadCloser) {
	defer close(s.done)
	err := s.frames(client.NewScanner(body))
	_ = body.Close()
	s.Update(func() {
		s.ended = true
		if !s.hungUp {
			s.err = errors.Join(s.err, err)
		}
	})
}

func (s *stream) frames(in *client.Scanner) error {
	for {
		e, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = s.take(e)
		}
		if err != nil {
			return err
		}
	}
}

func (s *stream) take(e event) (err error) {
	var last event
	var refused bool
	s.Look(func() {
		refused = s.refused
		if len(s.events) > 0 {
			last = s.events[len(s.events)-1]
		}
	})
	if last.Terminal() {
		return fmt.Errorf("%q came behind the terminal event", e.Frame())
	}
	switch {
	case e.Name == "metrics":
		if e.ID != "" {
			return fmt.Errorf("a metrics frame carries the id %s", e.ID)
		}
		if s.seq == 0 {
			return errors.New("a metrics frame came before `started`")
		}
		err = checkMetrics(e.Data)
	case e.Aside() && last.Name == "" && len(s.prior) > 0 && !refused:
		s.Update(func() { s.refused = true })
		sum := sha256.Sum256([]byte("error\n" + e.Data + "\n"))
		if want := client.AsideID + hex.EncodeToString(sum[:4]); e.ID != want {
			return fmt.Errorf("the id is %q and should be %q", e.ID, want)
		}
		_, err = object(e.Data, []string{"code", "message", "retriable"}, errorFields)
	default:
		err = s.numbered(e)
	}
	if err != nil {
		return fmt.Errorf("%w, in the frame %.300q", err, e.Frame())
	}
	s.Update(func() { s.events = append(s.events, e) })
	return nil
}

// numbered checks an event of the log.
func (s *stream) numbered(e event) error {
	// The hash of an id is over every numbered event so far: its name, LF, its data, LF.
	_, _ = io.WriteString(s.running, e.Name+"\n"+e.Data+"\n")
	if want := fmt.Sprintf("%d-%s", s.seq, hex.EncodeToString(s.running.Sum(nil)[:4])); e.ID != want {
		return fmt.Errorf("the id is %q and should be %q", e.ID, want)
	}
	if (s.seq == 0) != (e.Name == "started") {
		return fmt.Errorf("event %d is `%s`", s.seq, e.Name)
	}
	s.seq++
	switch e.Name {
	case "started":
		var err error
		s.started, err = object(e.Data, []string{"task_id", "queue_position", "predicted_start_ms", "seed", "determinism"}, nil)
		if err == nil && s.started["task_id"] != s.task {
			err = fmt.Errorf("`started` is of the task %v, not %s", s.started["task_id"], s.task)
		}
		if err != nil {
			return err
		}
		return s.said.Take(e)
	case "token":
		return s.piece(e, []string{"t", "i"}, []string{"channel", "logprobs"})
	case "tool_call":
		return s.piece(e, []string{"n", "arguments"}, []string{"id", "name"})
	case "end":
		return s.end(e)
	case "error":
		_, err := object(e.Data, []string{"code", "message", "retriable"}, errorFields)
		return err
	}
	return fmt.Errorf("there is no event `%s`", e.Name)
}

var errorFields = []string{"retry_after_ms", "policy_label", "engine", "pool_id", "hint", "reasons"}

// piece checks a piece of the answer, of the thinking or of a call. What it says, and where it belongs, the suites' client checks.
func (s *stream) piece(e event, required, optional []string) error {
	if _, err := object(e.Data, required, optional); err != nil {
		return err
	}
	return s.said.Take(e)
}

func (s *stream) end(e event) error {
	o, err := object(e.Data, []string{"tokens_in", "tokens_out", "decode_time_ms", "finish_reason", "receipt"}, []string{"tool_calls", "result", "energy_j", "energy_cost"})
	if err != nil {
		return err
	}
	raw, err := json.Marshal(o["receipt"])
	if err != nil {
		return fmt.Errorf("encode the receipt again: %w", err)
	}
	if _, err := object(string(raw), []string{
		"seed", "determinism", "fingerprint", "request_digest", "transcript_sha256", "transcript_form", "replica_id", "engine_version", "model_digest",
	}, []string{"tokens_cached", "continued_at"}); err != nil {
		return fmt.Errorf("receipt: %w", err)
	}
	return s.said.Take(e)
}

func checkMetrics(data string) error {
	o, err := object(data, []string{"phase", "queue_depth", "queue_position", "predicted_start_ms", "on_time_probability", "kv_warmth"},
		[]string{"failover", "load_progress", "budget_tokens_remaining", "budget_time_remaining_ms", "budget_cost_remaining", "budget_joules_remaining"})
	if err == nil && !slices.Contains([]any{"queued", "loading", "prefill", "decode", "moving"}, o["phase"]) {
		err = fmt.Errorf("there is no phase %v", o["phase"])
	}
	return err
}

// object decodes a JSON object and checks its fields.
func object(data string, required, optional []string) (map[string]any, error) {
	decoder := json.NewDecoder(strings.NewReader(data))
	decoder.UseNumber()
	var o map[string]any
	if err := decoder.Decode(&o); err != nil {
		return nil, fmt.Errorf("the data is no JSON object: %w", err)
	}
	if decoder.More() {
		return nil, errors.New("more follows the JSON object")
	}
	for _, name := range required {
		if o[name] == nil {
			return nil, fmt.Errorf("`%s` is missing", name)
		}
	}
	for name := range o {
		if !slices.Contains(required, name) && !slices.Contains(optional, name) {
			return nil, fmt.Errorf("`%s` is not in the contract", name)
		}
	}
	return o, nil
}

// list returns the events so far, without metrics frames, and what is wrong with the stream.
func (s *stream) list() (numbered []event, err error) {
	s.Look(func() {
		for _, e := range s.events {
			if e.Name != "metrics" {
				numbered = append(numbered, e)
			}
		}
		err = s.err
	})
	if err != nil {
		err = fmt.Errorf("stream %q: %w", s.name, err)
	}
	return numbered, err
}

// all is what a client holds that resumed: what it had, and what the stream brought.
func (s *stream) all() ([]event, error) {
	events, err := s.list()
	return slices.Concat(s.prior, events), err
}

// over waits for the end and returns the terminal event.
func (s *stream) over() (event, error) {
	if err := s.Await("the end of stream "+s.name, func() bool { return s.ended }); err != nil {
		return event{}, err
	}
	events, err := s.list()
	if err != nil {
		return event{}, err
	}
	if len(events) == 0 || !events[len(events)-1].Terminal() {
		return event{}, fmt.Errorf("stream %q ended without a terminal event", s.name)
	}
	return events[len(events)-1], nil
}

// text is what the tokens of the stream say together.
func text(events []event) string {
	var b strings.Builder
	for _, e := range events {
		var token struct {
			T string `json:"t"`
		}
		if e.Name == "token" && json.Unmarshal([]byte(e.Data), &token) == nil {
			b.WriteString(token.T)
		}
	}
	return b.String()
}

func frames(events []event) string {
	var b strings.Builder
	for _, e := range events {
		b.WriteString(e.Frame())
	}
	return b.String()
}
