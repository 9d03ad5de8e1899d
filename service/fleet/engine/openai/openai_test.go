// SPDX-License-Identifier: GPL-3.0-or-later

package openai_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	conformance "github.com/llama-orch/llama-orch/harness/conformance/openai"
	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/httpsse"
	"github.com/llama-orch/llama-orch/service/fleet/engine/openai"
	"github.com/llama-orch/llama-orch/service/task"
)

// LO-457: a server is known by what it says, and is sent what it takes.
func TestTheProfileIsFoundAtTheProbe(t *testing.T) {
	for name, c := range map[string]struct {
		build string
		ctx   int
		sent  []string // of what only some servers take
	}{
		"vllm":         {"vllm 0.11.0", 512, []string{"top_k", "min_p", "repetition_penalty", "stream_options"}},
		"sglang":       {"sglang 0.11.0", 512, []string{"top_k", "min_p", "repetition_penalty", "stream_options"}},
		"ollama":       {"ollama 0.11.0", 0, []string{"stream_options"}},
		"lmstudio":     {"lmstudio", 512, []string{"top_k", "repeat_penalty", "stream_options"}},
		"llama-server": {"llama-server 0.11.0", 512, []string{"top_k", "min_p", "repeat_penalty", "stream_options"}},
		"unknown":      {"unknown", 0, []string{"stream_options"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := server(t, conformance.Options{As: name, Ctx: 512}, "")
			e := connect(t, engine.Endpoint{URL: serve(t, s)})
			p, err := e.Props(t.Context())
			require.NoError(t, err)
			require.Equal(t, c.build, p.Build)
			require.Equal(t, c.ctx, p.Ctx)
			require.Zero(t, p.Slots)
			_, err = e.Generate(t.Context(), hello(), func(task.Piece) error { return nil })
			require.NoError(t, err)
			all := s.Requests()
			require.Empty(t, all[len(all)-1].Refused)
			var body map[string]json.RawMessage
			require.NoError(t, json.Unmarshal(all[len(all)-1].Body, &body))
			for _, field := range []string{"top_k", "min_p", "repetition_penalty", "repeat_penalty", "stream_options"} {
				_, sent := body[field]
				require.Equal(t, slices.Contains(c.sent, field), sent, field)
			}
		})
	}
}

func hello() engine.Job {
	return engine.Job{
		Messages: []task.Message{{Role: task.RoleUser, Content: "Hello"}}, Seed: 7, MaxTokens: 4,
		Sampling: task.Sampling{Temperature: 0.8, TopP: 0.95, TopK: 40, MinP: 0.05, RepeatPenalty: 1.1},
	}
}

// LO-457: owned_by says nothing where a proxy or an owner of a model stands there.
func TestAServerIsKnownByAPathOfItsOwn(t *testing.T) {
	for _, name := range []string{"ollama", "lmstudio", "llama-server"} {
		t.Run(name, func(t *testing.T) {
			s := server(t, conformance.Options{As: name}, "")
			e := connect(t, engine.Endpoint{URL: serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/v1/models" {
					_, _ = fmt.Fprint(w, `{"object":"list","data":[{"id":"m","owned_by":"ann"}]}`)
					return
				}
				s.ServeHTTP(w, r)
			}))})
			p, err := e.Props(t.Context())
			require.NoError(t, err)
			require.Contains(t, p.Build, name)
		})
	}
}

// LO-457: a grammar goes in the server's own field, or is refused.
func TestAGrammarGoesInTheServersField(t *testing.T) {
	for name, field := range map[string]string{"vllm": `{"grammar":"root ::= \"a\""}`, "sglang": "ebnf", "llama-server": "grammar", "ollama": "", "unknown": ""} {
		t.Run(name, func(t *testing.T) {
			s := server(t, conformance.Options{As: name}, "")
			e := connect(t, engine.Endpoint{URL: serve(t, s)})
			j := hello()
			j.Chat = &task.Chat{Format: &task.Format{Kind: task.FormatGrammar, Grammar: `root ::= "a"`}}
			_, err := e.Generate(t.Context(), j, func(task.Piece) error { return nil })
			if field == "" {
				require.True(t, task.HasCode(err, task.InvalidParams), "%v", err)
				require.ErrorContains(t, err, "takes no grammar")
				return
			}
			require.NoError(t, err)
			all := s.Requests()
			require.Contains(t, string(all[len(all)-1].Body), field)
		})
	}
}

// OC-ADAPT-OAI-6000: the model is found by its names, and where it is not, those that are served are named.
func TestTheModelIsFoundByItsNames(t *testing.T) {
	for name, c := range map[string]struct {
		served  []string
		name    string // that the configuration names
		id      string
		model   string // that is asked for
		problem string
	}{
		"by its name":           {[]string{"a", "b"}, "b", "a", "b", ""},
		"by the pool's":         {[]string{"a", "b"}, "", "a", "a", ""},
		"the only one":          {[]string{"org/long-name"}, "", "a", "org/long-name", ""},
		"without its tag":       {[]string{"qwen:0.5b", "qwen:latest"}, "qwen", "a", "qwen:latest", ""},
		"a name that is not":    {[]string{"llama-3.1-8b", "qwen3-4b"}, "qwen3-4", "a", "", "does not serve the model qwen3-4; it serves qwen3-4b, llama-3.1-8b"},
		"one of several":        {[]string{"x-large", "y-large"}, "", "a", "", "does not serve the model a; it serves x-large, y-large"},
		"the only one is other": {[]string{"x-large"}, "a", "a", "", "x-large"},
		"none":                  {[]string{}, "", "a", "", "it serves none"},
	} {
		t.Run(name, func(t *testing.T) {
			s := server(t, conformance.Options{As: "ollama", Models: c.served}, "")
			e := connect(t, engine.Endpoint{URL: serve(t, s), Model: c.name, ModelID: c.id})
			err := e.Health(t.Context())
			if c.problem != "" {
				var unserved *httpsse.UnservedError
				require.ErrorAs(t, err, &unserved)
				require.ErrorContains(t, unserved, c.problem)
				_, err = e.Props(t.Context())
				require.ErrorAs(t, err, &unserved)
				return
			}
			require.NoError(t, err)
			_, err = e.Generate(t.Context(), hello(), func(task.Piece) error { return nil })
			require.NoError(t, err)
			all := s.Requests()
			require.Contains(t, string(all[len(all)-1].Body), fmt.Sprintf(`"model":%q`, c.model))
		})
	}
}

// OC-ADAPT-OAI-6000: a key is sent, and no error has it.
func TestAKeyIsSentAndNeverShown(t *testing.T) {
	for _, key := range []string{"", "sk-wrong-5fd1"} {
		e := connect(t, engine.Endpoint{URL: serve(t, server(t, conformance.Options{As: "vllm", Key: "sk-right"}, "")), Key: key})
		err := e.Health(t.Context())
		var status *httpsse.StatusError
		require.ErrorAs(t, err, &status)
		require.Equal(t, http.StatusUnauthorized, status.Status)
		require.NotContains(t, fmt.Sprintf("%+v", err), "5fd1")
	}
	e := connect(t, engine.Endpoint{URL: serve(t, server(t, conformance.Options{As: "vllm", Key: "sk-right"}, "")), Key: "sk-right"})
	_, err := e.Generate(t.Context(), hello(), func(task.Piece) error { return nil })
	require.NoError(t, err)
}

// OC-ADAPT-OAI-6000: what the policy says in the middle of a probe is no answer of the server.
func TestTheProbeEndsWhereThePolicySaysNo(t *testing.T) {
	direct := httpsse.Direct(nil)
	defer direct.CloseIdleConnections()
	for _, name := range []string{"vllm", "ollama"} { // what they can is asked over a stream's connection
		s := server(t, conformance.Options{As: name}, "")
		e := connect(t, engine.Endpoint{URL: serve(t, s), Network: &httpsse.Network{
			Transport: direct,
			Dial: func(context.Context, *url.URL) (net.Conn, error) {
				return nil, task.Errorf(task.PolicyDenied, "not there")
			},
		}})
		_, err := e.Props(t.Context())
		require.True(t, task.HasCode(err, task.PolicyDenied), "%s: %v", name, err)
	}
}

// OC-ADAPT-OAI-6000: a certificate that nobody knows is not taken.
func TestACertificateIsVerified(t *testing.T) {
	s := httptest.NewUnstartedServer(server(t, conformance.Options{}, ""))
	s.Config.ErrorLog = nil
	s.StartTLS()
	defer s.Close()
	e := connect(t, engine.Endpoint{URL: s.URL})
	err := e.Health(t.Context())
	require.True(t, task.HasCode(err, task.WorkerReset))
	require.ErrorContains(t, task.AsError(err).Err, "certificate")
	direct := openai.New(engine.Endpoint{URL: s.URL}, openai.VLLM)
	defer direct.Close()
	require.ErrorContains(t, task.AsError(direct.Client().Post(t.Context(), "/v1/chat/completions", struct{}{}, nil)).Err, "certificate")
}
