// SPDX-License-Identifier: GPL-3.0-or-later

package control

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/harness/conformance/openai"
	"github.com/llama-orch/llama-orch/harness/conformance/tgi"
	"github.com/llama-orch/llama-orch/harness/conformance/triton"
	"github.com/llama-orch/llama-orch/harness/scripted"
	"github.com/llama-orch/llama-orch/service/fleet/pool"
	"github.com/llama-orch/llama-orch/service/task"
)

// answers serves fixed texts by their paths.
func answers(texts map[string]string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, ok := texts[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		_, _ = io.WriteString(w, text)
	})
}

// failed runs pools of engines that others run, and returns what the replica of each says, once it has failed for good.
func failed(t *testing.T, specs ...pool.Spec) (said []string) {
	t.Helper()
	pools, err := pool.New(pool.Options{
		Specs: specs, Kinds: EngineKinds(), RunDir: filepath.Join(t.TempDir(), "run"), Log: zap.NewNop(), Registerer: prometheus.NewRegistry(),
	})
	require.NoError(t, err)
	require.NoError(t, pools.Start(t.Context()))
	t.Cleanup(func() { require.NoError(t, pools.Stop(context.Background())) })
	for _, spec := range specs {
		var info pool.Info
		require.Eventually(t, func() bool {
			info = pools.Infos(spec.ID)[0]
			return info.State == pool.Failed || info.State == pool.Ready
		}, time.Minute, time.Millisecond, spec.ID)
		require.Equal(t, pool.Failed, info.State, spec.ID)
		said = append(said, info.LastError)
	}
	return said
}

// Whatever engine answers as another kind is recognised, and the pool says what to write.
//
// LO-460
func TestAnEngineThatIsOfAnotherKind(t *testing.T) {
	const models = `{"object":"list","data":[{"id":"m","object":"model","owned_by":"somebody"}]}`
	as := func(name string) http.Handler {
		server, err := openai.New(openai.Options{As: name})
		require.NoError(t, err)
		return server
	}
	servers := map[string]struct {
		handler http.Handler
		kind    string
	}{
		"TGI":                      {tgi.New(tgi.Options{}), task.TGI},
		"Triton":                   {triton.New(triton.Options{}), task.Triton},
		"llama-server":             {scripted.New(scripted.Options{}), task.LlamaCpp},
		"vLLM":                     {as("vllm"), task.VLLM},
		"Ollama":                   {as("ollama"), task.OpenAI},
		"SGLang":                   {as("sglang"), task.OpenAI},
		"LM Studio":                {as("lmstudio"), task.OpenAI},
		"a server of OpenAI's API": {answers(map[string]string{"/v1/models": models}), task.OpenAI},
	}
	for product, s := range servers {
		at := httptest.NewServer(s.handler)
		t.Cleanup(at.Close)
		for _, kind := range []string{task.LlamaCpp, task.VLLM, task.TGI, task.Triton} {
			if kind == s.kind {
				continue
			}
			t.Run(product+" as "+kind, func(t *testing.T) {
				said := failed(t, pool.Spec{ID: "p", Engine: kind, ModelID: "m", Mode: pool.External, URLs: []string{at.URL}})
				require.Contains(t, said[0], fmt.Sprintf("it looks like %s: write `engine: %s`", product, s.kind))
				require.Contains(t, said[0], at.URL)
			})
		}
	}
}

// LO-460
func TestAStrangerThatNobodyKnows(t *testing.T) {
	at := httptest.NewServer(answers(map[string]string{"/": "<html>", "/health": "", "/api/version": "[]"}))
	t.Cleanup(at.Close)
	for _, said := range failed(t,
		pool.Spec{ID: "a", Engine: task.TGI, ModelID: "m", Mode: pool.External, URLs: []string{at.URL}},
		pool.Spec{ID: "b", Engine: task.Triton, ModelID: "m", Mode: pool.External, URLs: []string{at.URL}},
	) {
		require.Contains(t, said, "correct the address, or start the engine there")
		require.NotContains(t, said, "looks like")
	}
}

// LO-460
func TestAnEngineThatRefusesTheKey(t *testing.T) {
	for kind, handler := range map[string]http.Handler{
		task.TGI: tgi.New(tgi.Options{Key: "right"}), task.LlamaCpp: scripted.New(scripted.Options{APIKey: "right"}),
	} {
		at := httptest.NewServer(handler)
		t.Cleanup(at.Close)
		for _, key := range []string{"", "wrong-key"} {
			said := failed(t, pool.Spec{ID: "p", Engine: kind, ModelID: "m", Mode: pool.External, URLs: []string{at.URL}, Key: key})
			require.Contains(t, said[0], "set `provisioning.key_env`")
			require.Contains(t, said[0], "Authorization: Bearer")
			require.NotContains(t, said[0], "wrong-key")
		}
	}
}

// LO-460
func TestAModelThatTheEngineDoesNotServe(t *testing.T) {
	for kind, handler := range map[string]http.Handler{
		task.TGI: tgi.New(tgi.Options{Model: "org/rain-8b"}), task.Triton: triton.New(triton.Options{Models: []string{"org/rain-8b"}, Serves: "org/rain-8b"}),
	} {
		at := httptest.NewServer(handler)
		t.Cleanup(at.Close)
		said := failed(t, pool.Spec{ID: "p", Engine: kind, ModelID: "m", ModelName: "snow", Mode: pool.External, URLs: []string{at.URL}})
		require.Contains(t, said[0], "snow")
		require.Contains(t, said[0], "org/rain-8b")
		require.Contains(t, said[0], "model.name")
		require.NotContains(t, said[0], "looks like")
	}
}
