// SPDX-License-Identifier: GPL-3.0-or-later

package control

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	conformance "github.com/llama-orch/llama-orch/harness/conformance/openai"
	"github.com/llama-orch/llama-orch/harness/conformance/tgi"
	"github.com/llama-orch/llama-orch/harness/conformance/triton"
	"github.com/llama-orch/llama-orch/harness/fakeengine"
	"github.com/llama-orch/llama-orch/harness/scripted"
	"github.com/llama-orch/llama-orch/service/config"
	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/pool"
	"github.com/llama-orch/llama-orch/service/flow/scheduler"
	"github.com/llama-orch/llama-orch/service/front/opaque"
	"github.com/llama-orch/llama-orch/service/supply/policy"
	"github.com/llama-orch/llama-orch/service/task"
)

// gateway is a policy between a kind's adapter and a server that counts.
type gateway struct {
	*policy.Policy

	at                          engine.Endpoint
	lines                       *observer.ObservedLogs
	requests, accepted, dialled atomic.Int64
}

func newGateway(t *testing.T, h http.Handler) *gateway {
	t.Helper()
	g := &gateway{}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.requests.Add(1)
		h.ServeHTTP(w, r)
	}))
	server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			g.accepted.Add(1)
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	core, lines := observer.New(zapcore.DebugLevel)
	g.lines = lines
	var err error
	g.Policy, err = policy.New(policy.Options{
		Log: zap.New(core), Registerer: prometheus.NewRegistry(),
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			g.dialled.Add(1)
			return new(net.Dialer).DialContext(ctx, network, address)
		},
	})
	require.NoError(t, err)
	g.at = engine.Endpoint{URL: server.URL, ModelID: "m", Health: "/health", Network: Outbound(g.Policy)}
	return g
}

// told counts the lines about decisions, and forgets them.
func (g *gateway) told(t *testing.T) (allowed, denied int) {
	t.Helper()
	for _, line := range g.lines.TakeAll() {
		of := line.ContextMap()
		require.Equal(t, "adapter", of["action"])
		require.Equal(t, g.at.URL, of["target"])
		switch of["decision"] {
		case "allow":
			allowed++
		case "deny":
			require.Equal(t, zapcore.WarnLevel, line.Level)
			require.Equal(t, "deny 127.0.0.1", of["rule"])
			denied++
		}
	}
	return allowed, denied
}

// call is one that an adapter can make of its engine.
type call struct {
	name string
	do   func(context.Context) error
}

// calls are all that the engine has, by its faces.
func calls(e engine.Engine, at engine.Endpoint) (all []call) {
	add := func(name string, do func(context.Context) error) { all = append(all, call{name, do}) }
	plain := engine.Job{Prompt: "rain", Inputs: []string{"rain"}, MaxTokens: 2, Sampling: task.Sampling{TopP: 1, RepeatPenalty: 1}}
	messages := []task.Message{{Role: task.RoleUser, Content: "rain"}}
	generate := func(j engine.Job) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := e.Generate(ctx, j, func(task.Piece) error { return nil })
			return err
		}
	}
	add("health", e.Health)
	if at.Health == "" { // the server is no engine that takes tasks
		add("probe", func(ctx context.Context) error { _, err := e.Props(ctx); return err })
		add("completion", generate(plain))
	}
	if _, ok := e.(engine.Chatter); ok {
		chat, seen := plain, plain
		chat.Prompt, chat.Messages = "", messages
		add("chat", generate(chat))
		seen.Prompt, seen.Messages = "", []task.Message{{Role: task.RoleUser, Parts: []task.Part{{Image: &task.Image{MIME: "image/png", Data: []byte("\x89PNG\r\n\x1a\n")}}, {Text: "picture"}}}}
		add("a chat with an image", generate(seen))
	}
	if f, ok := e.(engine.TokenCounter); ok {
		add("token count", func(ctx context.Context) error { _, err := f.CountTokens(ctx, "rain"); return err })
	}
	if f, ok := e.(engine.ChatCounter); ok {
		add("count of a chat", func(ctx context.Context) error { _, err := f.CountChat(ctx, messages, nil); return err })
	}
	if f, ok := e.(engine.Templater); ok {
		add("template", func(ctx context.Context) error { _, err := f.ApplyTemplate(ctx, messages, nil); return err })
	}
	if f, ok := e.(engine.Embedder); ok {
		add("embeddings", func(ctx context.Context) error { _, _, err := f.Embed(ctx, plain); return err })
	}
	if f, ok := e.(engine.Reranker); ok {
		add("rerank", func(ctx context.Context) error { _, _, err := f.Rerank(ctx, plain); return err })
	}
	if f, ok := e.(engine.BusyCounter); ok {
		add("cancel", func(ctx context.Context) error { _, err := f.Busy(ctx); return err })
	}
	if f, ok := e.(engine.Meter); ok {
		add("metrics", func(ctx context.Context) error { _, err := f.Load(ctx); return err })
	}
	if f, ok := e.(engine.Keeper); ok {
		add("slots", func(ctx context.Context) error { _, err := f.Slots(ctx); return err })
		add("erase", func(ctx context.Context) error { return f.Erase(ctx, 0) })
	}
	return all
}

// llamaServer is all of a llama-server: chats by the scripted engine, embeddings and ranks by the fake one, and metrics.
func llamaServer() http.Handler {
	mux, fake := http.NewServeMux(), fakeengine.New(fakeengine.Options{})
	mux.Handle("/", scripted.New(scripted.Options{Vision: true}))
	mux.Handle("/embedding", fake)
	mux.Handle("/embeddings", fake)
	mux.Handle("/reranking", fake)
	mux.HandleFunc("/metrics", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "llamacpp:requests_processing 0\n")
	})
	return mux
}

// Of each kind, each kind of call asks the policy each time, by a new connection or a kept one. None leaves where the policy says no: also not over a connection
// that is there already.
//
// OC-ADAPT-OAI-6000, ORCH-3080
func TestEachCallOfEachKindAsksThePolicy(t *testing.T) {
	as := func(name string) http.Handler {
		s, err := conformance.New(conformance.Options{As: name})
		require.NoError(t, err)
		return s
	}
	servers := map[string]http.Handler{
		task.LlamaCpp: llamaServer(), task.VLLM: as("vllm"), task.OpenAI: as("llama-server"), task.TGI: tgi.New(tgi.Options{Images: true}),
		task.Triton: triton.New(triton.Options{Metrics: true}), task.Command: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}),
	}
	for _, kind := range EngineKinds() {
		t.Run(kind.Name, func(t *testing.T) {
			require.Contains(t, servers, kind.Name, "each kind has a server here")
			g := newGateway(t, servers[kind.Name])
			at := g.at
			if kind.Name != task.Command {
				at.Health = ""
			}
			connect := func() engine.Engine {
				e := kind.New(at)
				if c, ok := e.(engine.Closer); ok {
					t.Cleanup(c.Close)
				}
				return e
			}
			known := connect()
			for range 2 {
				for _, c := range calls(known, at) {
					before := g.requests.Load()
					require.NoError(t, c.do(t.Context()), c.name)
					allowed, denied := g.told(t)
					require.Equal(t, int(g.requests.Load()-before), allowed, c.name)
					require.NotZero(t, allowed, c.name)
					require.Zero(t, denied, c.name)
				}
			}
			require.Eventually(t, func() bool { return g.accepted.Load() == g.dialled.Load() }, time.Minute, time.Millisecond, "no connection goes past the policy")
			require.Greater(t, g.requests.Load(), g.accepted.Load(), "some went over a connection that was kept")

			require.NoError(t, g.Replace(policy.Rules{Deny: []string{"127.0.0.1"}}))
			before, made := g.requests.Load(), g.dialled.Load()
			for _, e := range []engine.Engine{known, connect()} {
				for _, c := range calls(e, at) {
					err := c.do(t.Context())
					require.True(t, task.HasCode(err, task.PolicyDenied), "%s: %v", c.name, err)
					require.Contains(t, task.AsError(err).Message, "deny 127.0.0.1", c.name)
					require.Equal(t, kind.Name, task.AsError(err).Engine, c.name)
					require.False(t, task.AsError(err).Retriable, c.name)
					allowed, denied := g.told(t)
					require.Zero(t, allowed, c.name)
					require.NotZero(t, denied, c.name)
				}
			}
			product, _ := engine.Recognise(t.Context(), at)
			require.Empty(t, product)
			require.Equal(t, before, g.requests.Load())
			require.Equal(t, made, g.dialled.Load())
		})
	}
}

// passes is a passage, and a lease of its engine, that asks the engine once.
type passes struct {
	scheduler.Lease

	at pool.Reach
}

func (p passes) Reach() pool.Reach   { return p.at }
func (passes) Queued(task.Admission) {}
func (passes) Serve(ctx context.Context, e opaque.Engine, _, _ func()) error {
	return get(ctx, e.Transport, e.URL.String())
}

func get(ctx context.Context, by http.RoundTripper, url string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	answer, err := by.RoundTrip(r)
	if err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, answer.Body) // so that the connection is kept
	return answer.Body.Close()
}

// Requests that are passed through ask the policy, too: those in the line, and those past it.
//
// OC-ADAPT-OAI-6000, LO-427, LO-467
func TestEachRequestThatIsPassedThroughAsksThePolicy(t *testing.T) {
	g := newGateway(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	reach := pool.Reach{Endpoint: g.at}
	past, err := (&Upstream{}).engine(config.Pool{}, reach, nil)
	require.NoError(t, err)
	ways := map[string]func() error{
		"in the line": func() error {
			return passage{&Opaque{}, passes{}}.Pass(t.Context(), passes{at: reach}, scheduler.Signs{})
		},
		"past it": func() error { return get(t.Context(), past.Transport, past.URL.String()) },
	}
	for range 2 {
		for name, pass := range ways {
			before := g.requests.Load()
			require.NoError(t, pass(), name)
			allowed, _ := g.told(t)
			require.Equal(t, []int{1, 1}, []int{allowed, int(g.requests.Load() - before)}, name)
		}
	}
	require.NoError(t, g.Replace(policy.Rules{Deny: []string{"127.0.0.1"}}))
	before := g.requests.Load()
	for name, pass := range ways {
		require.True(t, task.HasCode(pass(), task.PolicyDenied), name)
		_, denied := g.told(t)
		require.Equal(t, 1, denied, name)
	}
	require.Equal(t, before, g.requests.Load())
}
