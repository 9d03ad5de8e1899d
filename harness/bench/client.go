// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"
)

// way is one of the ways that a token takes from the stub to the client.
type way struct {
	name   string
	url    string
	proc   *child // the process in between; nil: none
	asks   ask
	client *http.Client
}

// ask starts a generation by a way and returns its stream.
type ask func(ctx context.Context, w *way, prompt string) (io.ReadCloser, error)

func newWay(name, url string, proc *child, asks ask) *way {
	return &way{name: name, url: url, proc: proc, asks: asks, client: &http.Client{Transport: &http.Transport{
		MaxIdleConnsPerHost: 1024, DisableCompression: true,
	}}}
}

// most bounds an answer, as most clients do. No answer has as many tokens.
const most = 1 << 20

// completion asks for one as llama-server does it.
func completion(ctx context.Context, w *way, prompt string) (io.ReadCloser, error) {
	return w.send(ctx, http.MethodPost, "/completion", map[string]any{"prompt": prompt, "stream": true}, http.StatusOK)
}

// chat asks a model in OpenAI's dialect, which the stub speaks as well.
func chat(model string) ask {
	return func(ctx context.Context, w *way, prompt string) (io.ReadCloser, error) {
		return w.send(ctx, http.MethodPost, "/v1/chat/completions", map[string]any{
			"model": model, "messages": said(prompt), "stream": true, "max_tokens": most,
		}, http.StatusOK)
	}
}

// said are the messages of a chat.
func said(prompt string) []map[string]string {
	return []map[string]string{{"role": "user", "content": prompt}}
}

// prompted is the body of a task with a prompt.
func prompted(prompt string) map[string]any {
	return map[string]any{"model_ref": "bench", "prompt": prompt, "max_tokens": most}
}

// asTask submits a prompt as a task and asks for the task's stream.
func asTask(ctx context.Context, w *way, prompt string) (io.ReadCloser, error) {
	return w.task(ctx, prompted(prompt))
}

// asChatTask does the same with the messages of a chat.
func asChatTask(ctx context.Context, w *way, prompt string) (io.ReadCloser, error) {
	return w.task(ctx, map[string]any{"model_ref": "bench", "messages": said(prompt), "max_tokens": most})
}

func (w *way) task(ctx context.Context, request map[string]any) (io.ReadCloser, error) {
	id, err := w.submit(ctx, request)
	if err != nil {
		return nil, err
	}
	return w.send(ctx, http.MethodGet, "/v1/tasks/"+id+"/stream", nil, http.StatusOK)
}

func (w *way) submit(ctx context.Context, request map[string]any) (id string, err error) {
	body, err := w.send(ctx, http.MethodPost, "/v1/tasks", request, http.StatusAccepted)
	if err != nil {
		return "", err
	}
	defer body.Close()
	var a struct {
		ID string `json:"task_id"`
	}
	if err := json.NewDecoder(body).Decode(&a); err != nil {
		return "", fmt.Errorf("read the admission: %w", err)
	}
	_, _ = io.Copy(io.Discard, body) // so that the connection can be used again
	return a.ID, nil
}

func (w *way) send(ctx context.Context, method, path string, body any, want int) (io.ReadCloser, error) {
	var data []byte
	if body != nil {
		var err error
		if data, err = json.Marshal(body); err != nil {
			return nil, fmt.Errorf("encode a request: %w", err)
		}
	}
	r, err := http.NewRequestWithContext(ctx, method, w.url+path, bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("make a request: %w", err)
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	answer, err := w.client.Do(r)
	if err != nil {
		return nil, fmt.Errorf("send a request: %w", err)
	}
	if answer.StatusCode != want {
		text, _ := io.ReadAll(io.LimitReader(answer.Body, 1000))
		_ = answer.Body.Close()
		return nil, fmt.Errorf("%s %s answered %d: %s", method, path, answer.StatusCode, text)
	}
	return answer.Body, nil
}

// meter counts for all streams of a round.
type meter struct {
	open   atomic.Bool  // while it is set, latencies are noted
	gaps   bool         // gaps between tokens are noted too
	tokens atomic.Int64 // received
}

// times has the times of a stream's tokens that came while the meter was open.
type times struct {
	late []time.Duration // from the engine's write to the client's read
	gaps []time.Duration // from one token to the next, as the client sees them
}

// follow reads a stream to its end. It calls first with the first token.
func follow(body io.Reader, m *meter, first func()) (t times, err error) {
	buf := make([]byte, 32<<10)
	have, began, last := 0, false, int64(0)
	for {
		n, err := body.Read(buf[have:])
		now := time.Now().UnixNano()
		open := m.open.Load()
		rest, tokens := buf[:have+n], int64(0)
		for {
			at := bytes.IndexByte(rest, mark)
			if at < 0 {
				rest = nil
				break
			}
			if rest = rest[at:]; len(rest) <= digits {
				break // its end is still to come
			}
			sent, err := strconv.ParseInt(string(rest[1:1+digits]), 10, 64)
			if err != nil {
				return t, fmt.Errorf("a token without its time: %w", err)
			}
			if open {
				t.late = append(t.late, time.Duration(now-sent))
				if m.gaps && last > 0 {
					t.gaps = append(t.gaps, time.Duration(now-last))
				}
			}
			last = now
			tokens++
			rest = rest[1+digits:]
		}
		have = copy(buf, rest)
		m.tokens.Add(tokens)
		if tokens > 0 && !began {
			began = true
			first()
		}
		if err == io.EOF {
			return t, nil
		}
		if err != nil {
			return t, fmt.Errorf("read a stream: %w", err)
		}
	}
}
