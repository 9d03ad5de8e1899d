// SPDX-License-Identifier: GPL-3.0-or-later

package tgi_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	conformance "github.com/llama-orch/llama-orch/harness/conformance/tgi"
	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/enginetest"
	"github.com/llama-orch/llama-orch/service/fleet/engine/httpsse"
	"github.com/llama-orch/llama-orch/service/fleet/engine/tgi"
	"github.com/llama-orch/llama-orch/service/task"
)

// launch starts a conformance server, and an adapter for it.
func launch(t testing.TB, o conformance.Options) (*tgi.Engine, *conformance.Server, *httptest.Server) {
	t.Helper()
	server := conformance.New(o)
	at := enginetest.Serve(t, server)
	e := tgi.New(engine.Endpoint{URL: at.URL, Key: o.Key})
	t.Cleanup(e.Close)
	return e, server, at
}

// ORCH-3056, ORCH-3026
func TestTheEngineKeepsItsPromises(t *testing.T) {
	enginetest.Run(t, enginetest.Options{
		Launch: func(t testing.TB, _ task.Workload, slow bool) enginetest.Replica {
			o := conformance.Options{Total: 256, Key: "secret"}
			if slow {
				o.Interval = 10 * time.Millisecond
			}
			e, _, at := launch(t, o)
			return enginetest.Behind(e, at)
		},
		Ctx: 256,
	})
}

func job(change func(*engine.Job)) engine.Job {
	j := engine.Job{
		Workload: task.Completion, Prompt: "Write a haiku about rain.", Seed: 7, MaxTokens: 8,
		Sampling: task.Sampling{Temperature: 0.8, TopP: 0.95, TopK: 40, MinP: 0.05, RepeatPenalty: 1},
	}
	if change != nil {
		change(&j)
	}
	return j
}

// What is sent is what TGI takes: it has no min_p, no seed 0, and takes a sampler that is off for a mistake.
//
// ORCH-3056
func TestWhatIsSent(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*engine.Job)
		want   string
	}{
		"all": {nil, `"do_sample":true,"seed":8,"temperature":0.8,"top_k":40,"top_p":0.95`},
		"greedy": {
			func(j *engine.Job) { j.Sampling.Temperature, j.Seed = 0, 0 }, `"do_sample":false,"seed":1`,
		},
		"off": {
			func(j *engine.Job) { j.Sampling = task.Sampling{Temperature: 1, TopP: 1, RepeatPenalty: 1.1} },
			`"do_sample":true,"seed":8,"temperature":1,"repetition_penalty":1.1`,
		},
		"stops": {
			func(j *engine.Job) {
				j.Sampling = task.Sampling{TopP: 1, RepeatPenalty: 1, Stop: []string{"", "v", "w", "x", "y", "z"}}
			},
			`"do_sample":false,"seed":8,"stop":["v","w","x","y"]`,
		},
		"format": {
			func(j *engine.Job) {
				j.Sampling = task.Sampling{TopP: 1, RepeatPenalty: 1}
				j.Chat = &task.Chat{Format: &task.Format{Kind: task.FormatJSON}}
			},
			`"do_sample":false,"seed":8,"grammar":{"type":"json","value":{"type":"object"}}`,
		},
	} {
		e, server, _ := launch(t, conformance.Options{})
		_, _, err := enginetest.Say(t, e, job(c.change))
		require.NoError(t, err, name)
		all := slices.DeleteFunc(server.Requests(), func(r conformance.Request) bool { return r.Path != "/generate_stream" })
		require.Len(t, all, 1)
		require.JSONEq(t, `{"inputs":"Write a haiku about rain.","parameters":{"details":true,"decoder_input_details":false,"return_full_text":false,"max_new_tokens":8,`+c.want+`}}`,
			string(all[0].Body), name)
	}
}

// Errors come as an answer's status, as the document says, or as an event of an answer 200, as the router does it. They mean the same.
//
// ORCH-3056
func TestErrors(t *testing.T) {
	for _, c := range []struct {
		fails     conformance.Error
		code      task.Code
		retriable bool
	}{
		{conformance.Validation, task.InvalidParams, false},
		{conformance.Overloaded, task.WorkerReset, true},
		{conformance.Generation, task.WorkerReset, true},
		{conformance.Incomplete, task.WorkerReset, true},
	} {
		for _, at := range []struct {
			head  bool
			after int
		}{{true, 0}, {false, 0}, {false, 3}} {
			e, server, _ := launch(t, conformance.Options{})
			c.fails.Head, c.fails.After = at.head, at.after
			server.Fail(c.fails)
			text, _, err := enginetest.Say(t, e, job(nil))
			if at.head && c.fails.Status == http.StatusTooManyRequests {
				require.NoError(t, err, "before the first token it is tried again")
				continue
			}
			require.True(t, task.HasCode(err, c.code), "%v: %v", c.fails, err)
			require.Equal(t, c.retriable, task.AsError(err).Retriable)
			require.Equal(t, at.after > 0, text != "")
			status, ok := errors.AsType[*httpsse.StatusError](err)
			require.True(t, ok)
			require.Equal(t, c.fails.Status, status.Status)
			require.Equal(t, c.fails.Text, status.Message)
			_, r, err := enginetest.Say(t, e, job(nil))
			require.NoError(t, err)
			require.Equal(t, 8, r.TokensOut)
		}
	}
}

// TGI leaves a stop string in its text, and does not see one that ends within a token, nor more than it takes. Clients never see one.
//
// ORCH-3056
func TestStopStringsAreCutHere(t *testing.T) {
	e, server, _ := launch(t, conformance.Options{Stops: 1})
	whole, _, err := enginetest.Say(t, e, job(func(j *engine.Job) { j.MaxTokens = 40 }))
	require.NoError(t, err)
	runes := []rune(whole)
	for at := 3; at+4 < len(runes); at += 3 {
		stop := string(runes[at : at+3])
		want, _, _ := strings.Cut(whole, stop)
		for _, all := range [][]string{{stop}, {"never comes", stop}} {
			text, r, err := enginetest.Say(t, e, job(func(j *engine.Job) { j.MaxTokens, j.Sampling.Stop = 40, all }))
			require.NoError(t, err)
			require.Equal(t, want, text)
			require.Equal(t, task.FinishStop, r.Finish)
			require.Positive(t, r.TokensIn)
			require.Positive(t, r.TokensOut)
			require.LessOrEqual(t, r.TokensOut, 40)
		}
	}
	require.Eventually(t, func() bool { running, _ := server.Load(); return running == 0 }, time.Minute, time.Millisecond)
}

// A format binds the answer, and one that TGI does not know is refused by its name.
//
// ORCH-3056
func TestFormats(t *testing.T) {
	e, _, _ := launch(t, conformance.Options{})
	text, r, err := enginetest.Say(t, e, job(func(j *engine.Job) {
		j.Chat = &task.Chat{Format: &task.Format{Kind: task.FormatJSON, Schema: json.RawMessage(`{"type":"object","properties":{"mood":{"enum":["calm"]}}}`)}}
	}))
	require.NoError(t, err)
	require.JSONEq(t, `{"mood":"calm"}`, text)
	require.Equal(t, task.FinishStop, r.Finish)
	require.Equal(t, 5, r.TokensOut, "the end of sequence is a token, and none of the text")
	_, _, err = enginetest.Say(t, e, job(func(j *engine.Job) {
		j.Chat = &task.Chat{Format: &task.Format{Kind: task.FormatGrammar, Grammar: "root ::= \"a\""}}
	}))
	require.True(t, task.HasCode(err, task.InvalidParams))
	require.ErrorContains(t, err, "grammar")
	_, _, err = enginetest.Say(t, e, job(func(j *engine.Job) { j.Chat = &task.Chat{LogitBias: []task.Bias{{Token: 1, Bias: 2}}} }))
	require.True(t, task.HasCode(err, task.InvalidParams))
}

// ORCH-3056
func TestAnAnswerThatIsNoTGIs(t *testing.T) {
	for name, body := range map[string]string{"nothing": `{}`, "another's": `{"model_id":"m"}`, "a list": `[]`, "a page": `<html>`} {
		at := fake(t, map[string]string{"/info": body})
		_, err := at.Props(t.Context())
		_, is := errors.AsType[*httpsse.StrangerError](err)
		require.True(t, is, name)
	}
	at := fake(t, map[string]string{"/info": `{"model_id":"m","version":"3","max_total_tokens":1000000000,"max_concurrent_requests":1}`})
	_, err := at.Props(t.Context())
	require.ErrorContains(t, err, "cannot be")
}

// ORCH-3056
func TestAModelWithoutATokenizer(t *testing.T) {
	e, _, _ := launch(t, conformance.Options{NoCount: true})
	_, err := e.CountTokens(t.Context(), "rain")
	require.True(t, task.HasCode(err, task.WorkerReset))
	require.ErrorContains(t, errors.Unwrap(task.AsError(err)), "no fast tokenizer")
}
