// SPDX-License-Identifier: GPL-3.0-or-later

package enginetest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/httpsse"
	"github.com/llama-orch/llama-orch/service/fleet/engine/llamacpp"
	"github.com/llama-orch/llama-orch/service/fleet/engine/openai"
	"github.com/llama-orch/llama-orch/service/fleet/engine/tgi"
	"github.com/llama-orch/llama-orch/service/fleet/engine/triton"
	"github.com/llama-orch/llama-orch/service/task"
)

// streams are the frames of a token as engines stream it, and a job that they answer.
var streams = []struct {
	name, frame string
	chat        bool
	of          func(engine.Endpoint) engine.Engine
}{
	{"llamacpp/completion", `{"index":0,"content":" kernels","tokens":[983],"stop":false,"id_slot":-1,"tokens_predicted":1,"tokens_evaluated":22}`, false, llama},
	{"llamacpp/chat", `{"choices":[{"finish_reason":null,"index":0,"delta":{"content":" kernels"}}],"created":1764000000,"id":"chatcmpl-1","model":"m","system_fingerprint":"b1","object":"chat.completion.chunk"}`, true, llama},
	{"openai/completion", `{"id":"cmpl-1","object":"text_completion","created":1764000000,"model":"m","choices":[{"index":0,"text":" kernels","logprobs":null,"finish_reason":null,"stop_reason":null}]}`, false, served},
	{"openai/chat", `{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1764000000,"model":"m","choices":[{"index":0,"delta":{"content":" kernels"},"logprobs":null,"finish_reason":null,"token_ids":null}]}`, true, served},
	{"tgi/completion", `{"index":1,"token":{"id":983,"text":" kernels","logprob":-0.5,"special":false},"generated_text":null,"details":null}`, false, func(at engine.Endpoint) engine.Engine { return tgi.New(at) }},
	{"triton/completion", `{"model_name":"ensemble","model_version":"1","sequence_end":false,"sequence_id":0,"sequence_start":false,"text_output":" kernels"}`, false, func(at engine.Endpoint) engine.Engine { return triton.New(at) }},
	{"openai/reasoning", `{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1764000000,"model":"m","choices":[{"index":0,"delta":{"reasoning":" kernels","reasoning_content":" kernels"},"logprobs":null,"finish_reason":null}]}`, true, served},
	{"openai/call", `{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1764000000,"model":"m","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"x","type":"function","function":{"name":"f","arguments":" kernels"}}]},"logprobs":null,"finish_reason":null}]}`, true, served},
}

func llama(at engine.Endpoint) engine.Engine { return llamacpp.New(at) }

// served is vLLM's profile without what is asked over a stream's connection.
func served(at engine.Endpoint) engine.Engine {
	p := openai.VLLM
	p.Trials, p.Counts, p.CountsChats, p.Kind = nil, false, false, task.VLLM
	return openai.New(at, p)
}

// tokens has an engine generate so many tokens of a stream that never ends, with no server in between to be counted. Ready is called before the stream.
func tokens(t testing.TB, n int, of func(engine.Endpoint) engine.Engine, frame string, chat bool, ready func()) {
	e := of(engine.Endpoint{URL: "http://engine", Network: &httpsse.Network{
		Transport: transport{},
		Dial: func(context.Context, *url.URL) (net.Conn, error) {
			return &connection{asked: make(chan struct{}), head: strings.NewReader("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"), frame: chunk("data: " + frame + "\n\n")}, nil
		},
	}})
	j := engine.Job{Prompt: "x", PromptTokens: 1, MaxTokens: n + 1}
	if chat {
		j = engine.Job{PromptTokens: 1, Messages: []task.Message{{Role: task.RoleUser, Content: "x"}}, Chat: &task.Chat{
			Tools: []task.Tool{{Name: "f"}}, Reasoning: task.Reasoning{Split: true},
		}}
	}
	_, err := e.Props(t.Context())
	require.NoError(t, err)
	ready()
	done := errors.New("enough")
	_, err = e.Generate(t.Context(), j, func(task.Piece) error {
		if n--; n <= 0 {
			return done
		}
		return nil
	})
	require.ErrorIs(t, err, done)
}

// ORCH-3055, ORCH-3056, ORCH-3057, OC-ADAPT-OAI-6000
func BenchmarkToken(b *testing.B) {
	for _, s := range streams {
		b.Run(s.name, func(b *testing.B) {
			tokens(b, b.N, s.of, s.frame, s.chat, func() { b.ReportAllocs(); b.ResetTimer() })
		})
	}
}

// OC-ADAPT-OAI-6000, ORCH-3056, ORCH-3057: a token costs its text, and nothing else is allocated for it.
func TestATokenCostsItsText(t *testing.T) {
	const many = 20_000
	for _, s := range streams {
		t.Run(s.name, func(t *testing.T) {
			all := testing.AllocsPerRun(1, func() { tokens(t, many, s.of, s.frame, s.chat, func() {}) })
			require.InDelta(t, many, all, many/2, "a second one for each would be as many again; under the race detector, pools forget a few")
		})
	}
}

// chunk is a piece of a body that comes in chunks.
func chunk(text string) []byte { return fmt.Appendf(nil, "%x\r\n%s\r\n", len(text), text) }

// transport answers everything that is no stream.
type transport struct{}

func (transport) RoundTrip(r *http.Request) (*http.Response, error) {
	body := `{"prompt":"p","tokens":[1],"build_info":"b1","total_slots":1,"default_generation_settings":{"n_ctx":256},
		"chat_template_caps":{"supports_tools":true,"supports_tool_calls":true},"version":"0.11.0","data":[{"id":"m","owned_by":"vllm"}],
		"model_id":"m","max_input_tokens":256,"max_total_tokens":256,"max_concurrent_requests":8,
		"extensions":["generate"],"inputs":[{"name":"text_input"},{"name":"stream"},{"name":"max_tokens"}],"outputs":[{"name":"text_output"}]}`
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
}

// connection is one to an engine that answers at once: a head, and then the same frame again and again.
type connection struct {
	net.Conn
	asked chan struct{} // closed when it was
	head  *strings.Reader
	frame []byte
	at    int
}

func (c *connection) Read(b []byte) (int, error) {
	<-c.asked
	if c.head.Len() > 0 {
		return c.head.Read(b)
	}
	n := copy(b, c.frame[c.at:])
	c.at = (c.at + n) % len(c.frame)
	return n, nil
}

// Write has another answer follow where no stream is asked for.
func (c *connection) Write(b []byte) (int, error) {
	for path, answer := range map[string]string{
		"/apply-template": `{"prompt":"p","tokens":[1]}`, "/tokenize": `{"prompt":"p","tokens":[1]}`, "/v2/repository/index": `[{"name":"ensemble","state":"READY"}]`,
	} {
		if !bytes.HasPrefix(b, []byte("POST "+path)) {
			continue
		}
		c.head = strings.NewReader(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(answer), answer))
	}
	close(c.asked)
	return len(b), nil
}

func (*connection) Close() error                { return nil }
func (*connection) SetDeadline(time.Time) error { return nil }
