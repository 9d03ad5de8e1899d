// SPDX-License-Identifier: GPL-3.0-or-later

package vllm_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	conformance "github.com/llama-orch/llama-orch/harness/conformance/openai"
	"github.com/llama-orch/llama-orch/harness/scripted"
	"github.com/llama-orch/llama-orch/harness/watch"
	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/enginetest"
	"github.com/llama-orch/llama-orch/service/fleet/engine/httpsse"
	"github.com/llama-orch/llama-orch/service/fleet/engine/vllm"
	"github.com/llama-orch/llama-orch/service/task"
)

func server(t testing.TB, o conformance.Options, script string) *conformance.Server {
	t.Helper()
	o.As = "vllm"
	if script != "" {
		s, err := scripted.Parse([]byte(script))
		require.NoError(t, err)
		o.Script = s
	}
	s, err := conformance.New(o)
	require.NoError(t, err)
	return s
}

func connect(t testing.TB, h http.Handler) *vllm.Engine {
	t.Helper()
	s := httptest.NewServer(h)
	e := vllm.New(engine.Endpoint{URL: s.URL})
	t.Cleanup(func() { e.Close(); s.Close() })
	return e
}

// ORCH-3055, ORCH-3026
func TestVLLMKeepsTheEnginesPromises(t *testing.T) {
	enginetest.Run(t, enginetest.Options{
		Launch: func(t testing.TB, _ task.Workload, slow bool) enginetest.Replica {
			o := conformance.Options{Ctx: 256}
			if slow {
				o.Pace = 10 * time.Millisecond
			}
			at := enginetest.Serve(t, server(t, o, ""))
			e := vllm.New(engine.Endpoint{URL: at.URL})
			t.Cleanup(e.Close)
			return enginetest.Behind(e, at)
		},
		Ctx: 256, Rerank: true,
	})
}

// A vLLM does not tell whether it reads its model's calls, or whether the model sees: it is tried.
//
// LO-410, ORCH-3055
func TestChatsOfVLLM(t *testing.T) {
	const script = `{"rules": [
		{"tools": true, "play": [{"reasoning": "hm"}, {"text": "Well."},
			{"call": {"n": 0, "name": "note", "arguments": "{\"about\":\"rain\"}"}, "cut": 3}, {"call": {"n": 1, "name": "note", "arguments": "{\"about\":\"snow\"}"}}]},
		{"match": "JSON", "play": [{"text": "{\"mood\":\"calm\"}", "cut": 3}]},
		{"match": "think", "play": [{"reasoning": "hm, rain 蛙", "cut": 2}, {"text": "Rain."}]},
		{"play": [{"text": "Something."}]}]}`
	rest := []task.Feature{task.FeatureFormats, task.FeatureGrammars, task.FeatureReasoning, task.FeatureArguments, task.FeatureBias, task.FeatureLogprobs}
	for name, c := range map[string]struct {
		of   conformance.Options
		more []task.Feature
	}{
		"all":      {conformance.Options{}, []task.Feature{task.FeatureTools, task.FeatureImages}},
		"no tools": {conformance.Options{NoTools: true}, []task.Feature{task.FeatureImages}},
		"blind":    {conformance.Options{Blind: true}, []task.Feature{task.FeatureTools}},
	} {
		t.Run(name, func(t *testing.T) {
			enginetest.RunChats(t, enginetest.ChatOptions{
				Features: append(c.more, rest...), Obeys: true,
				Launch: func(t testing.TB) engine.Engine { return connect(t, server(t, c.of, script)) },
			})
		})
	}
}

// LO-458
func TestVLLMsThatMisbehave(t *testing.T) {
	const script = `{"rules": [{"match": "Say", "play": [{"reasoning": "Hm."}, {"text": "The frog 蛙 sits, 👩‍👩‍👧 watch it.", "cut": 1}]}]}`
	enginetest.RunFaults(t, enginetest.FaultOptions{
		Serve: func(t testing.TB) http.Handler { return server(t, conformance.Options{}, script) },
		Connect: func(t testing.TB, url string) engine.Engine {
			e := vllm.New(engine.Endpoint{URL: url})
			t.Cleanup(e.Close)
			return e
		},
		Job:   engine.Job{Messages: []task.Message{{Role: task.RoleUser, Content: "Say something."}}, MaxTokens: 100, Sampling: task.Sampling{TopP: 1, RepeatPenalty: 1}},
		Shape: conformance.Shape, Retries: true,
	})
}

// LO-456: the running count falls when a connection is closed, and is what a cancel waits for.
func TestACancelIsSeenByTheRunningCount(t *testing.T) {
	s := server(t, conformance.Options{}, `{"rules": [{"match": "wait", "play": [{"text": "a"}, {"wait": true}]}]}`)
	e := connect(t, s)
	cause := errors.New("the user has gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	_, err := e.Generate(ctx, engine.Job{Prompt: "wait", MaxTokens: 9, Sampling: task.Sampling{TopP: 1, RepeatPenalty: 1}}, func(task.Piece) error {
		busy, err := e.Busy(t.Context())
		require.NoError(t, err)
		require.Equal(t, 1, busy)
		cancel(cause)
		return nil
	})
	require.ErrorIs(t, err, cause)
	patient, done := context.WithTimeout(t.Context(), watch.Patience)
	defer done()
	require.NoError(t, s.Until(patient, s.Idle))
	require.True(t, engine.AwaitIdle(held{e}, watch.Patience))
}

type held struct{ e engine.Engine }

func (h held) Engine() engine.Engine { return h.e }
func (held) Others() int             { return 0 }
func (held) Lost() <-chan struct{}   { return nil }

// LO-454
func TestTheLoadIsReadFromTheMetrics(t *testing.T) {
	const two = `# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 2.0
vllm:num_requests_waiting{engine="0",model_name="m"} 4.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 4.0
`
	for name, c := range map[string]struct {
		text string
		want engine.Load
		err  string
	}{
		"two engines": {two + `vllm:kv_cache_usage_perc{engine="0"} 0.25
vllm:kv_cache_usage_perc{engine="1"} 0.75
vllm:prefix_cache_queries_total{engine="0"} 1.2e+03
vllm:prefix_cache_hits_total{engine="0"} 600.0
`, engine.Load{Running: 5, Waiting: 4, KV: 0.75, PrefixQueries: 1200, PrefixHits: 600, Prefix: true}, ""},
		"an older one":       {two + "vllm:gpu_cache_usage_perc{engine=\"0\"} 0.5\n", engine.Load{Running: 5, Waiting: 4, KV: 0.5}, ""},
		"the least":          {two, engine.Load{Running: 5, Waiting: 4, KV: -1}, ""},
		"none":               {"# HELP\n", engine.Load{}, "does not tell how many requests run"},
		"more than there is": {two + "vllm:kv_cache_usage_perc 75.0\n", engine.Load{}, "cannot be"},
		"below none":         {"vllm:num_requests_running -1\n", engine.Load{}, "cannot be"},
	} {
		t.Run(name, func(t *testing.T) {
			e := connect(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/metrics" {
					_, _ = io.WriteString(w, c.text)
				}
			}))
			l, err := e.Load(t.Context())
			if c.err != "" {
				require.ErrorContains(t, err, c.err)
				require.True(t, task.HasCode(err, task.WorkerReset))
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.want, l)
		})
	}
}

// ORCH-3055: a grammar is sent as the version takes it.
func TestOlderVersionsTakeOtherFields(t *testing.T) {
	for version, field := range map[string]string{"0.10.1.1": "guided_grammar", "0.11.0": "structured_outputs", "1.0": "structured_outputs", "dev": "structured_outputs"} {
		t.Run(version, func(t *testing.T) {
			var body map[string]json.RawMessage
			e := connect(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch r.URL.Path {
				case "/version":
					_, _ = fmt.Fprintf(w, `{"version":%q}`, version)
				case "/v1/models":
					_, _ = io.WriteString(w, `{"data":[{"id":"m","owned_by":"vllm","max_model_len":512}]}`)
				case "/v1/completions":
					_ = json.NewDecoder(r.Body).Decode(&body) // the test looks
					w.Header().Set("Content-Type", "text/event-stream")
					_, _ = io.WriteString(w, `data: {"choices":[{"index":0,"text":"a","finish_reason":"stop"}],"usage":{"prompt_tokens":2,"completion_tokens":1}}`+"\n\ndata: [DONE]\n\n")
				default:
					w.WriteHeader(http.StatusNotFound)
				}
			}))
			_, err := e.Generate(t.Context(), engine.Job{Prompt: "p", MaxTokens: 5, Chat: &task.Chat{Format: &task.Format{Kind: task.FormatGrammar, Grammar: "g"}}},
				func(task.Piece) error { return nil })
			require.NoError(t, err)
			require.Contains(t, body, field)
		})
	}
}

// ORCH-3055: another server is none, however much of OpenAI's API it has.
func TestAnotherServerIsNoVLLM(t *testing.T) {
	s, err := conformance.New(conformance.Options{As: "ollama"})
	require.NoError(t, err)
	_, err = connect(t, s).Props(t.Context())
	var stranger *httpsse.StrangerError
	require.ErrorAs(t, err, &stranger)
}
