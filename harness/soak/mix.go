// SPDX-License-Identifier: GPL-3.0-or-later

package soak

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/llama-orch/llama-orch/harness/client"
)

// act is one thing that a client does, from its first request to its last.
type act struct {
	name   string
	weight int
	run    func(*visitor) error
}

// acts are what clients do. The weights are shares of all acts; most of them are one task.
var acts = []act{
	{"a chat, streamed", 20, (*visitor).chat},
	{"a task, streamed", 20, (*visitor).task},
	{"a strict task on the built-in worker", 14, (*visitor).strict},
	{"a message, whole", 6, (*visitor).message},
	{"a chat of Ollama", 5, (*visitor).ollama},
	{"canceled", 6, (*visitor).cancel},
	{"hung up on", 6, (*visitor).hangUp},
	{"read in two parts", 4, (*visitor).resume},
	{"never read", 3, (*visitor).unread},
	{"asked for twice with one key", 2, (*visitor).keyed},
	{"a session of two turns, ended", 2, (*visitor).session},
	{"a session that is left alone", 1, (*visitor).leave},
	{"an artifact", 3, (*visitor).artifact},
	{"a response in the background", 2, (*visitor).response},
	{"a batch of messages", 1, (*visitor).batch},
	{"a batch of chats, its files deleted", 1, (*visitor).chats},
	{"a file, deleted", 1, (*visitor).file},
	{"with a deadline", 2, (*visitor).deadline},
	{"deleted at its end", 2, (*visitor).erase},
	{"refused", 2, (*visitor).refused},
	{"looking around", 2, (*visitor).look},
}

// visitor is a client. Its acts come one after the other.
type visitor struct {
	*crowd
	ctx context.Context
	r   *rand.Rand
	n   int // acts so far
	me  int
}

// crowd is what all clients share.
type crowd struct {
	url    string
	native *client.Client
	http   *http.Client
	run    string // goes into names, so that they are this run's

	open sync.RWMutex // held by each act to read; who holds it to write has no client at work

	mu   sync.Mutex
	ends map[string]map[string]int // how acts ended, by act
	odd  []string                  // of what should not have been: the first of each kind, in words
}

// well is how an act ends that got what it wanted.
const well = "well"

// usual is what may come of an act where workers die, connections break and pools are replaced: the client is told so, and when to come again.
var usual = []string{
	well, "ADMISSION_REJECT", "POOL_UNREADY", "POOL_UNAVAILABLE", "REPLICA_EXHAUSTED", "WORKER_RESET", "status 429", "status 502", "status 503",
}

// note counts how an act ended.
func (c *crowd) note(what string, err error) {
	how := well
	var refused *client.RefusedError
	var failed failedError
	switch {
	case errors.As(err, &refused):
		how = refused.Code
	case errors.As(err, &failed):
		how = string(failed)
	case err != nil:
		how = "broken"
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ends[what] == nil {
		c.ends[what] = map[string]int{}
	}
	c.ends[what][how]++
	if c.ends[what][how] == 1 && !slices.Contains(usual, how) {
		c.odd = append(c.odd, fmt.Sprintf("%s: %v", what, err))
	}
}

// failedError is how a stream ended, or a request of a front.
type failedError string

func (e failedError) Error() string { return string(e) }

// next chooses an act.
func (v *visitor) next() act {
	total := 0
	for _, a := range acts {
		total += a.weight
	}
	at := v.r.IntN(total)
	for _, a := range acts {
		if at -= a.weight; at < 0 {
			return a
		}
	}
	panic("the weights are those that were added up")
}

// id is a name that nobody has had.
func (v *visitor) id() string {
	v.n++
	return fmt.Sprintf("%s-%d-%d", v.run, v.me, v.n)
}

func (v *visitor) ask() string {
	return fmt.Sprintf("Write a haiku about %s containing %q.\n\n", []string{"rain", "snow", "the sea", "a cat"}[v.r.IntN(4)], []string{"one", "seven", "nine"}[v.r.IntN(3)])
}

// The models: the stand-in that answers at once, and slowly where the prompt has the word; and the bundled one.
const (
	quick    = "quick"
	slowly   = "slowly"
	haiku    = "haiku"
	atATime  = 20 // milliseconds between the tokens of a slow answer
	upTo     = 24 // tokens of an answer
	pollTime = 100 * time.Millisecond
)

// submit sends a task.
func (v *visitor) submit(model, prompt string, more map[string]any) (string, error) {
	id := v.id()
	body := map[string]any{"task_id": id, "model_ref": model, "prompt": prompt, "max_tokens": 1 + v.r.IntN(upTo)}
	maps.Copy(body, more)
	_, err := v.native.Submit(v.ctx, encode(body))
	return id, err
}

// read reads a task's stream to its end.
func (v *visitor) read(id string) error {
	stream, err := v.native.Open(v.ctx, id)
	if err != nil {
		return err
	}
	defer stream.Close()
	if err := stream.Rest(); err != nil {
		return err
	}
	if stream.Fail != nil {
		return failedError(stream.Fail.Code)
	}
	return nil
}

func (v *visitor) whole(model, prompt string, more map[string]any) error {
	id, err := v.submit(model, prompt, more)
	if err != nil {
		return err
	}
	return v.read(id)
}

func (v *visitor) task() error { return v.whole(quick, v.ask(), nil) }

func (v *visitor) strict() error {
	pool := []string{calm, calm, killed, changed}[v.r.IntN(4)]
	return v.whole(haiku, v.ask(), map[string]any{"determinism": "strict", "placement": map[string]any{"mode": "pin", "pool_id": pool}})
}

func (v *visitor) cancel() error {
	id, err := v.submit(quick, slowly, map[string]any{"max_tokens": 200})
	if err != nil {
		return err
	}
	if v.r.IntN(3) > 0 { // else it may still wait
		frames, err := v.native.Follow(v.ctx, id, "", false)
		if err != nil {
			return err
		}
		defer frames.Close()
		for range v.r.IntN(8) {
			if _, err := frames.Next(); err != nil {
				return err
			}
		}
	}
	_, err = v.native.Cancel(v.ctx, id)
	return err
}

func (v *visitor) resume() error {
	id, err := v.submit(quick, slowly, nil)
	if err != nil {
		return err
	}
	frames, err := v.native.Follow(v.ctx, id, "", false)
	if err != nil {
		return err
	}
	last := ""
	for range 1 + v.r.IntN(5) {
		e, err := frames.Next()
		if err != nil || e.Terminal() {
			frames.Close()
			return err
		}
		if e.ID != "" {
			last = e.ID
		}
	}
	frames.Close()
	frames, err = v.native.Follow(v.ctx, id, last, false)
	if err != nil {
		return err
	}
	defer frames.Close()
	for {
		e, err := frames.Next()
		if err != nil || e.Terminal() {
			return err
		}
	}
}

func (v *visitor) unread() error {
	_, err := v.submit(quick, v.ask(), nil)
	return err
}

func (v *visitor) deadline() error {
	err := v.whole(quick, slowly, map[string]any{"deadline_ms": 1 + v.r.IntN(300)})
	var refused *client.RefusedError
	if errors.Is(err, failedError("DEADLINE_UNMET")) || errors.As(err, &refused) && refused.Code == "DEADLINE_UNMET" {
		return nil
	}
	return err
}

func (v *visitor) erase() error {
	id, err := v.submit(quick, v.ask(), nil)
	if err == nil {
		err = v.read(id)
	}
	if err != nil {
		return err
	}
	return v.plain(http.MethodDelete, "/v1/tasks/"+id, nil)
}

func (v *visitor) session() error {
	id := uuid.NewString()
	for range 2 {
		if err := v.whole(haiku, v.ask(), map[string]any{"session_id": id}); err != nil {
			return err
		}
	}
	return v.plain(http.MethodDelete, "/v1/sessions/"+id, nil)
}

func (v *visitor) leave() error {
	return v.whole(haiku, v.ask(), map[string]any{"session_id": uuid.NewString()})
}

func (v *visitor) artifact() error {
	name := v.id()
	answer, err := v.native.Post(v.ctx, "/v1/artifacts", encode(map[string]any{"kind": "plan", "content": strings.Repeat(name+" ", 100), "tags": []string{"soak"}}), http.StatusCreated)
	if err != nil {
		return err
	}
	var made struct{ ID string }
	if err := json.Unmarshal(answer, &made); err != nil {
		return fmt.Errorf("decode an artifact: %w", err)
	}
	_, err = v.native.Get(v.ctx, "/v1/artifacts/"+made.ID+"/content")
	return err
}

func (v *visitor) look() error {
	paths := []string{"/v1/tasks?limit=20", "/v1/pools", "/v1/capabilities", "/v1/gpus", "/v1/artifacts?limit=20", "/v1/models", "/readyz", "/v1/catalog/models", "/"}
	_, err := v.native.Get(v.ctx, paths[v.r.IntN(len(paths))])
	return err
}

func (v *visitor) refused() error {
	_, err := v.native.Submit(v.ctx, [][]byte{[]byte(`{"model_ref":`), []byte(`{"model_ref": "nobody", "prompt": "x"}`)}[v.r.IntN(2)])
	var refused *client.RefusedError
	if errors.As(err, &refused) && (refused.Code == "INVALID_PARAMS" || refused.Code == "MODEL_NOT_FOUND") {
		return nil
	}
	return fmt.Errorf("it was not refused as it should: %w", err)
}

// What follows is by the fronts.

// send sends a request and returns the answer with its body open.
func (v *visitor) send(method, path, kind string, body []byte, key string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(v.ctx, method, v.url+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("make a request: %w", err)
	}
	if body != nil {
		r.Header.Set("Content-Type", kind)
	}
	if key != "" {
		r.Header.Set("Idempotency-Key", key)
	}
	res, err := v.http.Do(r)
	if err != nil {
		return nil, fmt.Errorf("send a request: %w", err)
	}
	if res.StatusCode < http.StatusMultipleChoices {
		return res, nil
	}
	_, _ = io.Copy(io.Discard, res.Body)
	_ = res.Body.Close()
	return nil, failedError(fmt.Sprintf("status %d", res.StatusCode))
}

// plain sends a request whose answer does not matter, but for its status.
func (v *visitor) plain(method, path string, body []byte) error {
	_, err := v.answer(method, path, body, "")
	return err
}

func (v *visitor) answer(method, path string, body []byte, key string) ([]byte, error) {
	res, err := v.send(method, path, "application/json", body, key)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, fmt.Errorf("read an answer: %w", err)
	}
	return answer, nil
}

// asked is a request of a chat.
func (v *visitor) asked(prompt string, more map[string]any) []byte {
	body := map[string]any{"model": quick, "max_tokens": 1 + v.r.IntN(upTo), "messages": []map[string]any{{"role": "user", "content": prompt}}}
	maps.Copy(body, more)
	return encode(body)
}

func (v *visitor) chat() error {
	return v.plain(http.MethodPost, "/v1/chat/completions", v.asked(v.ask(), map[string]any{"stream": true}))
}

func (v *visitor) message() error {
	return v.plain(http.MethodPost, "/v1/messages", v.asked(v.ask(), nil))
}

func (v *visitor) ollama() error {
	return v.plain(http.MethodPost, "/api/chat", encode(map[string]any{
		"model": quick, "options": map[string]any{"num_predict": 1 + v.r.IntN(upTo)}, "messages": []map[string]any{{"role": "user", "content": v.ask()}},
	}))
}

// hangUp goes in the middle of an answer.
func (v *visitor) hangUp() error {
	res, err := v.send(http.MethodPost, "/v1/chat/completions", "application/json", v.asked(slowly, map[string]any{"stream": true, "max_tokens": 200}), "")
	if err != nil {
		return err
	}
	_, err = io.CopyN(io.Discard, res.Body, int64(1+v.r.IntN(1500)))
	_ = res.Body.Close()
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func (v *visitor) keyed() error {
	key, body := v.id(), v.asked(v.ask(), nil)
	for range 2 {
		if _, err := v.answer(http.MethodPost, "/v1/chat/completions", body, key); err != nil {
			return err
		}
	}
	return nil
}

// ended is an object that ends in its time.
type ended struct {
	ID     string `json:"id"`
	Status string `json:"status"`
	State  string `json:"processing_status"`
	Output string `json:"output_file_id"`
	Errors string `json:"error_file_id"`
}

// until looks at an object until it has ended.
func (v *visitor) until(path string, over func(ended) bool) error {
	for {
		answer, err := v.answer(http.MethodGet, path, nil, "")
		if err != nil {
			return err
		}
		var is ended
		if err := json.Unmarshal(answer, &is); err != nil {
			return fmt.Errorf("decode %s: %w", path, err)
		}
		if over(is) {
			return nil
		}
		if !pause(v.ctx, pollTime) {
			return v.ctx.Err()
		}
	}
}

func (v *visitor) response() error {
	answer, err := v.answer(http.MethodPost, "/v1/responses", encode(map[string]any{"model": quick, "input": v.ask(), "max_output_tokens": 1 + v.r.IntN(upTo), "background": true}), "")
	if err != nil {
		return err
	}
	var made ended
	if err := json.Unmarshal(answer, &made); err != nil {
		return fmt.Errorf("decode a response: %w", err)
	}
	return v.until("/v1/responses/"+made.ID, func(e ended) bool { return e.Status != "queued" && e.Status != "in_progress" })
}

func (v *visitor) batch() error {
	var lines []map[string]any
	for i := range 4 {
		lines = append(lines, map[string]any{"custom_id": fmt.Sprintf("line-%d", i), "params": json.RawMessage(v.asked(v.ask(), nil))})
	}
	answer, err := v.answer(http.MethodPost, "/v1/messages/batches", encode(map[string]any{"requests": lines}), "")
	if err != nil {
		return err
	}
	var made ended
	if err := json.Unmarshal(answer, &made); err != nil {
		return fmt.Errorf("decode a batch: %w", err)
	}
	path := "/v1/messages/batches/" + made.ID
	if err := v.until(path, func(e ended) bool { return e.State == "ended" }); err != nil {
		return err
	}
	if err := v.plain(http.MethodGet, path+"/results", nil); err != nil {
		return err
	}
	return v.plain(http.MethodDelete, path, nil)
}

// chats is a batch as OpenAI's clients make one. Nobody can delete the batch itself.
func (v *visitor) chats() error {
	file, err := v.upload()
	if err != nil {
		return err
	}
	answer, err := v.answer(http.MethodPost, "/v1/batches", encode(map[string]any{"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}), "")
	if err != nil {
		return err
	}
	var made ended
	if err := json.Unmarshal(answer, &made); err != nil {
		return fmt.Errorf("decode a batch: %w", err)
	}
	if err := v.until("/v1/batches/"+made.ID, func(e ended) bool {
		made = e
		return slices.Contains([]string{"completed", "failed", "expired"}, e.Status)
	}); err != nil {
		return err
	}
	for _, id := range []string{made.Output, made.Errors, file} {
		if id == "" {
			continue
		}
		if err := v.plain(http.MethodDelete, "/v1/files/"+id, nil); err != nil {
			return err
		}
	}
	return nil
}

func (v *visitor) file() error {
	id, err := v.upload()
	if err != nil {
		return err
	}
	return v.plain(http.MethodDelete, "/v1/files/"+id, nil)
}

// upload uploads a file for a batch of two lines, and returns its id.
func (v *visitor) upload() (id string, err error) {
	name := v.id()
	var lines strings.Builder
	for n := range 2 {
		fmt.Fprintf(&lines, `{"custom_id":"%s-%d","method":"POST","url":"/v1/chat/completions","body":%s}`+"\n", name, n, v.asked(v.ask(), nil))
	}
	form, kind := form(name+".jsonl", lines.String())
	res, err := v.send(http.MethodPost, "/v1/files", kind, form, "")
	if err != nil {
		return "", err
	}
	var made ended
	err = json.NewDecoder(res.Body).Decode(&made)
	_ = res.Body.Close()
	if err != nil {
		return "", fmt.Errorf("decode a file: %w", err)
	}
	return made.ID, nil
}
