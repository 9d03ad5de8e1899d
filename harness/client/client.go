// SPDX-License-Identifier: GPL-3.0-or-later

// Package client is the suites' own client of the API: plain HTTP and a strict reader of event streams. It shares nothing
// with the product's SDK, so that the product is judged by what is on the wire.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"github.com/llama-orch/llama-orch/harness/tape"
)

// Client talks to one daemon.
type Client struct {
	url   string
	token string
	http  *http.Client
}

// New makes a client of the daemon at a base URL. An empty token sends none.
func New(url, token string) *Client {
	return &Client{url: url, token: token, http: &http.Client{
		Transport: tape.Transport(&http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 4}),
	}}
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// RefusedError is an answer that is not a success.
type RefusedError struct {
	Status  int    `json:"-"`
	Code    string `json:"code"`
	Message string `json:"message"`
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("the daemon answered %d %s: %s", e.Status, e.Code, e.Message)
}

// Admission is the 202 of a submit.
type Admission struct {
	TaskID           string `json:"task_id"`
	PoolID           string `json:"pool_id"`
	QueuePosition    int    `json:"queue_position"`
	PredictedStartMS int64  `json:"predicted_start_ms"`
	BackoffMS        int64  `json:"backoff_ms"`
	Seed             uint32 `json:"seed"`
	Determinism      string `json:"determinism"`
}

// Submit posts a task. request becomes its JSON.
func (c *Client) Submit(ctx context.Context, body []byte) (Admission, error) {
	var a Admission
	answer, err := c.do(ctx, http.MethodPost, "/v1/tasks", body, http.StatusAccepted)
	if err != nil {
		return a, err
	}
	return a, strictly(answer, &a)
}

// Get returns the body of a successful answer.
func (c *Client) Get(ctx context.Context, path string) ([]byte, error) {
	return c.do(ctx, http.MethodGet, path, nil, http.StatusOK)
}

// Post sends JSON and returns the body of an answer of the wanted status.
func (c *Client) Post(ctx context.Context, path string, body []byte, want int) ([]byte, error) {
	return c.do(ctx, http.MethodPost, path, body, want)
}

func (c *Client) do(ctx context.Context, method, path string, body []byte, want int) ([]byte, error) {
	response, err := c.send(ctx, method, path, body, want)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, fmt.Errorf("read the answer to %s %s: %w", method, path, err)
	}
	return answer, nil
}

// send returns a response of the wanted status, with its body open.
func (c *Client) send(ctx context.Context, method, path string, body []byte, want int) (*http.Response, error) {
	return c.sendWith(ctx, nil, method, path, body, want)
}

func (c *Client) sendWith(ctx context.Context, more map[string]string, method, path string, body []byte, want int) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, c.url+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("make a request: %w", err)
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	for name, value := range more {
		request.Header.Set(name, value)
	}
	if c.token != "" {
		request.Header.Set("Authorization", "Bearer "+c.token)
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, fmt.Errorf("send a request: %w", err)
	}
	if response.StatusCode == want {
		return response, nil
	}
	defer func() { _ = response.Body.Close() }()
	refused := &RefusedError{Status: response.StatusCode}
	answer, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	if err == nil {
		err = json.Unmarshal(answer, refused)
	}
	if err != nil || refused.Code == "" {
		return nil, fmt.Errorf("%s %s: status %d without the API's error envelope: %.200q", method, path, response.StatusCode, answer)
	}
	return nil, refused
}

// strictly decodes one JSON object that holds no field but the known ones.
func strictly(data []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("decode %.300q: %w", data, err)
	}
	if d.More() {
		return fmt.Errorf("more follows the JSON object in %.300q", data)
	}
	return nil
}
