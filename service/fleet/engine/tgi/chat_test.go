// SPDX-License-Identifier: GPL-3.0-or-later

package tgi_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	conformance "github.com/llama-orch/llama-orch/harness/conformance/tgi"
	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/enginetest"
	"github.com/llama-orch/llama-orch/service/fleet/engine/tgi"
	"github.com/llama-orch/llama-orch/service/task"
)

// ORCH-3056, LO-410
func TestChatsAreWhatIsPromised(t *testing.T) {
	for name, images := range map[string]bool{"a model that sees": true, "one that does not": false} {
		features := []task.Feature{task.FeatureTools, task.FeatureFormats}
		if images {
			features = append(features, task.FeatureImages)
		}
		t.Run(name, func(t *testing.T) {
			enginetest.RunChats(t, enginetest.ChatOptions{
				Features: features, Obeys: true,
				Launch: func(t testing.TB) engine.Engine {
					e, server, _ := launch(t, conformance.Options{Images: images})
					server.SetRules(
						conformance.Rule{Tools: true, Play: []conformance.Step{
							{Call: &conformance.Call{Name: "note"}}, {Call: &conformance.Call{Arguments: `{"about":`}}, {Call: &conformance.Call{Arguments: `"rain"}`}},
						}},
						conformance.Rule{Match: "picture", Play: []conformance.Step{{Text: "A frog "}, {Text: "🐸."}}},
					)
					return e
				},
			})
		})
	}
}

func chat(change func(*engine.Job)) engine.Job {
	return job(func(j *engine.Job) {
		j.Prompt, j.Messages = "", []task.Message{{Role: task.RoleUser, Content: "Say something."}}
		if change != nil {
			change(j)
		}
	})
}

// A chat is sent as TGI's document has it: formats with a value, the schema of a tool in its arguments, no top_p that is off, and no sampler that chats lack.
//
// ORCH-3056
func TestWhatAChatSends(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*engine.Job)
		want   string
	}{
		"plain": {nil, `"messages":[{"role":"user","content":"Say something."}],"temperature":0.8,"top_p":0.95`},
		"off":   {func(j *engine.Job) { j.Sampling.TopP, j.Sampling.Temperature = 1, 0 }, `"messages":[{"role":"user","content":"Say something."}],"temperature":0`},
		"format": {
			func(j *engine.Job) {
				j.Chat = &task.Chat{Format: &task.Format{Kind: task.FormatJSON, Schema: json.RawMessage(`{"type":"object"}`)}}
			},
			`"messages":[{"role":"user","content":"Say something."}],"temperature":0.8,"top_p":0.95,"response_format":{"type":"json","value":{"type":"object"}}`,
		},
		"tools": {
			func(j *engine.Job) {
				parallel := true
				j.Chat = &task.Chat{Tools: []task.Tool{{Name: "note", Parameters: json.RawMessage(`{"type":"object"}`)}, {Name: "other"}}, ToolChoice: task.ChooseRequired, ParallelCalls: &parallel}
				j.Messages = append(j.Messages, task.Message{Role: task.RoleAssistant, ToolCalls: []task.ToolCall{{ID: "a", Name: "note", Arguments: "{}"}}},
					task.Message{Role: task.RoleTool, ToolCallID: "a", Content: "done"})
			},
			`"messages":[{"role":"user","content":"Say something."},{"role":"assistant","tool_calls":[{"id":"a","type":"function","function":{"name":"note","arguments":"{}"}}]},` +
				`{"role":"tool","tool_call_id":"a","content":"done"}],"temperature":0.8,"top_p":0.95,"tool_choice":"required",` +
				`"tools":[{"type":"function","function":{"name":"note","arguments":{"type":"object"}}},{"type":"function","function":{"name":"other","arguments":{"type":"object"}}}]`,
		},
	} {
		e, server, _ := launch(t, conformance.Options{})
		_, r, err := enginetest.Say(t, e, chat(c.change))
		require.NoError(t, err, name)
		require.Positive(t, r.TokensIn)
		all := slices.DeleteFunc(server.Requests(), func(r conformance.Request) bool { return r.Path != "/v1/chat/completions" })
		require.Len(t, all, 1)
		require.JSONEq(t, `{"model":"conformance/model","stream":true,"stream_options":{"include_usage":true},"max_tokens":8,"seed":7,`+c.want+`}`, string(all[0].Body), name)
	}
}

// ORCH-3056
func TestAChatIsCutAtItsStopStrings(t *testing.T) {
	e, server, _ := launch(t, conformance.Options{Stops: 1})
	whole, r, err := enginetest.Say(t, e, chat(func(j *engine.Job) { j.MaxTokens = 30 }))
	require.NoError(t, err)
	counted, err := e.CountChat(t.Context(), chat(nil).Messages, nil)
	require.NoError(t, err)
	require.Equal(t, counted, r.TokensIn)
	runes := []rune(whole)
	for at := 3; at+4 < len(runes); at += 3 {
		stop := string(runes[at : at+3])
		want, _, _ := strings.Cut(whole, stop)
		text, r, err := enginetest.Say(t, e, chat(func(j *engine.Job) { j.MaxTokens, j.Sampling.Stop = 30, []string{"never comes", stop, ""} }))
		require.NoError(t, err)
		require.Equal(t, want, text)
		require.Equal(t, task.FinishStop, r.Finish)
		require.Equal(t, counted, r.TokensIn)
	}
	for running := 1; running > 0; {
		running, _ = server.Load()
	}
}

// The status of an error in a chat's stream is 422 whatever it is, so it counts before the first token alone.
//
// ORCH-3056
func TestErrorsOfChats(t *testing.T) {
	for after, code := range map[int]task.Code{0: task.InvalidParams, 3: task.WorkerReset} {
		e, server, _ := launch(t, conformance.Options{})
		fails := conformance.Generation
		fails.After = after
		server.Fail(fails)
		_, _, err := enginetest.Say(t, e, chat(nil))
		require.True(t, task.HasCode(err, code), "%v", err)
	}
	e, _, _ := launch(t, conformance.Options{})
	_, _, err := enginetest.Say(t, e, chat(func(j *engine.Job) { j.Messages[0].Content = "unrenderable" }))
	require.True(t, task.HasCode(err, task.InvalidParams))
	require.ErrorContains(t, err, "chat template")
	small, _, _ := launch(t, conformance.Options{Total: 16})
	_, _, err = enginetest.Say(t, small, chat(func(j *engine.Job) { j.Messages[0].Content = strings.Repeat("rain ", 40) }))
	_, long := errors.AsType[*task.TooLongError](err)
	require.True(t, long, "%v", err)
}

// ORCH-3056, LO-458
func TestServersThatMisbehave(t *testing.T) {
	enginetest.RunFaults(t, enginetest.FaultOptions{
		Serve: func(testing.TB) http.Handler { return conformance.New(conformance.Options{}) },
		Connect: func(t testing.TB, url string) engine.Engine {
			e := tgi.New(engine.Endpoint{URL: url})
			t.Cleanup(e.Close)
			return e
		},
		Job: job(func(j *engine.Job) { j.MaxTokens = 24 }), Shape: conformance.Shape, Retries: true,
	})
}
