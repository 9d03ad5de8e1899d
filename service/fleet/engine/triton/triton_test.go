// SPDX-License-Identifier: GPL-3.0-or-later

package triton_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	conformance "github.com/llama-orch/llama-orch/harness/conformance/triton"
	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/enginetest"
	"github.com/llama-orch/llama-orch/service/fleet/engine/httpsse"
	"github.com/llama-orch/llama-orch/service/fleet/engine/triton"
	"github.com/llama-orch/llama-orch/service/task"
)

// launch starts a conformance server, and an adapter for the model of that name.
func launch(t testing.TB, o conformance.Options, model string) (*triton.Engine, *conformance.Server, *httptest.Server) {
	t.Helper()
	server := conformance.New(o)
	at := enginetest.Serve(t, server)
	return connect(t, at, model), server, at
}

func connect(t testing.TB, at *httptest.Server, model string) *triton.Engine {
	t.Helper()
	e := triton.New(engine.Endpoint{URL: at.URL, Model: model, ModelID: "rain"})
	t.Cleanup(e.Close)
	return e
}

// ORCH-3057, ORCH-3026
func TestTheEngineKeepsItsPromises(t *testing.T) {
	for name, metrics := range map[string]bool{"with metrics": true, "without": false} {
		t.Run(name, func(t *testing.T) {
			enginetest.Run(t, enginetest.Options{
				Launch: func(t testing.TB, _ task.Workload, slow bool) enginetest.Replica {
					o := conformance.Options{Metrics: metrics, Input: 128}
					if slow {
						o.Interval = 10 * time.Millisecond
					}
					e, _, at := launch(t, o, "")
					return enginetest.Behind(e, at)
				},
				Ctx: 128, Uncounted: true,
			})
		})
	}
}

func job(change func(*engine.Job)) engine.Job {
	j := engine.Job{
		Workload: task.Completion, Prompt: "rain", Seed: 7, MaxTokens: 8,
		Sampling: task.Sampling{Temperature: 0.5, TopP: 0.95, TopK: 40, MinP: 0.05, RepeatPenalty: 1},
	}
	if change != nil {
		change(&j)
	}
	return j
}

// The ensemble's inputs have changed over time, so the model is told only what it takes.
//
// ORCH-3057
func TestWhatIsSent(t *testing.T) {
	for name, c := range map[string]struct {
		of     conformance.Options
		change func(*engine.Job)
		want   string
	}{
		"all":    {conformance.Options{}, nil, `"stop_words":"","random_seed":7,"temperature":0.5,"top_k":40,"top_p":0.95,"repetition_penalty":1`},
		"greedy": {conformance.Options{}, func(j *engine.Job) { j.Sampling.Temperature = 0 }, `"stop_words":"","random_seed":7,"temperature":1,"top_k":1,"top_p":1,"repetition_penalty":1`},
		"stops":  {conformance.Options{}, func(j *engine.Job) { j.Sampling.Stop = []string{"a", "b"} }, `"stop_words":["a","b"],"random_seed":7,"temperature":0.5,"top_k":40,"top_p":0.95,"repetition_penalty":1`},
		"newer": {
			conformance.Options{Without: []string{"random_seed", "stop_words"}, Inputs: []string{"seed", "min_p", "exclude_input_in_output"}},
			nil,
			`"seed":7,"min_p":0.05,"exclude_input_in_output":true,"temperature":0.5,"top_k":40,"top_p":0.95,"repetition_penalty":1`,
		},
	} {
		e, server, _ := launch(t, c.of, "")
		_, _, err := enginetest.Say(t, e, job(c.change))
		require.NoError(t, err, name)
		all := server.Requests()
		require.Len(t, all, 1)
		require.JSONEq(t, `{"text_input":"rain","stream":true,"max_tokens":8,"bad_words":"",`+c.want+`}`, string(all[0].Body), name)
	}
}

// ORCH-3057
func TestTheModelsName(t *testing.T) {
	for _, c := range []struct {
		of    conformance.Options
		wants string
		found bool
	}{
		{conformance.Options{}, "", true},
		{conformance.Options{Serves: "tensorrt_llm_bls"}, "", true},
		{conformance.Options{Serves: "rain"}, "", true}, // the name by which clients know it
		{conformance.Options{Serves: "llama 8b", Models: []string{"llama 8b"}}, "", true},
		{conformance.Options{Serves: "mine", Models: []string{"ensemble", "mine"}}, "mine", true},
		{conformance.Options{Serves: "a", Models: []string{"a", "b"}}, "", false},
		{conformance.Options{}, "broken", false},
	} {
		e, server, _ := launch(t, c.of, c.wants)
		_, _, err := enginetest.Say(t, e, job(nil))
		if c.found {
			require.NoError(t, err)
			require.Contains(t, server.Requests()[0].Path, "/"+c.of.Serves)
			require.NoError(t, e.Health(t.Context()))
			continue
		}
		unserved, ok := errors.AsType[*httpsse.UnservedError](err)
		require.True(t, ok)
		require.Subset(t, unserved.Served, c.of.Models)
		require.NotContains(t, unserved.Served, "broken", "it is not ready")
	}
}

// ORCH-3057
func TestAModelThatTakesNoText(t *testing.T) {
	e, _, _ := launch(t, conformance.Options{}, "preprocessing")
	_, err := e.Props(t.Context())
	require.ErrorContains(t, errors.Unwrap(task.AsError(err)), "text_input")
}

// ORCH-3057
func TestErrors(t *testing.T) {
	for _, after := range []int{0, 3} {
		e, server, _ := launch(t, conformance.Options{}, "")
		server.Fail("CUDA error", after)
		text, _, err := enginetest.Say(t, e, job(nil))
		require.True(t, task.HasCode(err, task.WorkerReset))
		require.ErrorContains(t, errors.Unwrap(task.AsError(err)), "CUDA error")
		require.Equal(t, after > 0, text != "")
		server.Fail("Encountered error: Prompt length (9) exceeds maximum input length (8)", after)
		_, _, err = enginetest.Say(t, e, job(nil))
		require.True(t, task.HasCode(err, task.InvalidParams))
	}
	e, server, _ := launch(t, conformance.Options{}, "")
	for name, change := range map[string]func(*engine.Job){
		"messages": func(j *engine.Job) { j.Prompt, j.Messages = "", []task.Message{{Role: "user", Content: "rain"}} },
		"format":   func(j *engine.Job) { j.Chat = &task.Chat{Format: &task.Format{Kind: task.FormatJSON}} },
	} {
		_, _, err := enginetest.Say(t, e, job(change))
		require.True(t, task.HasCode(err, task.InvalidParams), name)
	}
	require.Empty(t, server.Requests())
}

// Stop words are cut here, also where the model takes none.
//
// ORCH-3057
func TestStopStringsAreCutHere(t *testing.T) {
	for _, without := range [][]string{nil, {"stop_words"}} {
		e, server, _ := launch(t, conformance.Options{Without: without}, "")
		whole, r, err := enginetest.Say(t, e, job(nil))
		require.NoError(t, err)
		require.Equal(t, task.FinishLength, r.Finish)
		require.Zero(t, r.TokensIn, "nobody tells")
		require.Equal(t, 8, r.TokensOut)
		runes := []rune(whole)
		for at := 3; at+4 < len(runes); at += 2 {
			stop := string(runes[at : at+3])
			want, _, _ := strings.Cut(whole, stop)
			text, r, err := enginetest.Say(t, e, job(func(j *engine.Job) { j.Sampling.Stop = []string{stop} }))
			require.NoError(t, err)
			require.Equal(t, want, text)
			require.Equal(t, task.FinishStop, r.Finish)
		}
		require.Eventually(t, func() bool { return server.Running() == 0 }, time.Minute, time.Millisecond)
	}
}

// ORCH-3057
func TestBrokenStreams(t *testing.T) {
	const one = `data: {"model_name":"ensemble","text_output":"a"}` + "\n\n"
	for name, c := range map[string]struct {
		stream, text, says string
	}{
		"whole":     {": ping\r\n\r\n" + one + `data: {"text_output":"b"}` + "\n\n" + `data: {"text_output":""}` + "\n\n", "ab", ""},
		"half":      {one + `data: {"text_o`, "a", "unexpected EOF"},
		"no JSON":   {one + "data: nonsense\n\n", "a", "event"},
		"no text":   {one + "data: {}\n\n", "a", "text_output"},
		"a number":  {`data: {"text_output":1}` + "\n\n", "", "event"},
		"no answer": {"", "", "answered nothing"},
	} {
		server := conformance.New(conformance.Options{})
		at := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !strings.HasSuffix(r.URL.Path, "/generate_stream") {
				server.ServeHTTP(w, r)
				return
			}
			_, _ = io.WriteString(w, c.stream)
		}))
		t.Cleanup(at.Close)
		text, _, err := enginetest.Say(t, connect(t, at, ""), job(nil))
		require.Equal(t, c.text, text, name)
		if c.says == "" {
			require.NoError(t, err, name)
			continue
		}
		require.True(t, task.HasCode(err, task.WorkerReset), "%s: %v", name, err)
		require.ErrorContains(t, err, c.says, name)
	}
}

// An answer whose end is that of its connection may have been cut off anywhere.
//
// ORCH-3057
func TestAnAnswerThatDoesNotSayWhereItEnds(t *testing.T) {
	server := conformance.New(conformance.Options{})
	at := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/generate_stream") {
			server.ServeHTTP(w, r)
			return
		}
		conn, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: {\"text_output\":\"a\"}\n\n")
			_ = conn.Close()
		}
	}))
	t.Cleanup(at.Close)
	text, _, err := enginetest.Say(t, connect(t, at, ""), job(nil))
	require.Empty(t, text)
	require.True(t, task.HasCode(err, task.WorkerReset))
	require.ErrorContains(t, err, "does not say where it ends")
}

// ORCH-3057
func TestAnAnswerThatIsNoTritons(t *testing.T) {
	for _, body := range []string{`{}`, `[]`, `<html>`, `{"version":"1"}`} {
		at := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }))
		t.Cleanup(at.Close)
		_, err := connect(t, at, "").Props(t.Context())
		_, is := errors.AsType[*httpsse.StrangerError](err)
		require.True(t, is, body)
	}
}

// ORCH-3057
func TestWhatIsOursAlone(t *testing.T) {
	own := triton.Kind().Own
	for _, path := range []string{"/v2/repository/models/x/load", "/v2/repository/models/x/unload", "/v2/systemsharedmemory/region/a/register", "/v2/trace/setting", "/v2/logging"} {
		require.True(t, own(http.MethodPost, path), path)
		require.False(t, own(http.MethodGet, path), path)
	}
	require.False(t, slices.ContainsFunc([]string{"/v2/models/x/generate", "/v2/models/x/infer", "/v2/repository/index"}, func(p string) bool { return own(http.MethodPost, p) }))
}
