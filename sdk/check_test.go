// SPDX-License-Identifier: GPL-3.0-or-later

package sdk

import (
	"encoding/json"
	"math"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/internal/plainjson"
)

// A request that breaks the contract is refused by its field, and the server hears nothing of it.
//
// LO-903
func TestWhatBreaksTheContractIsNotSent(t *testing.T) {
	t.Parallel()
	sent := 0
	c, _ := setup(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { sent++ }))
	ctx := t.Context()
	task := func(change func(*TaskRequest)) func() error {
		return func() error {
			r := &TaskRequest{ModelRef: "m", Prompt: "p"}
			change(r)
			_, err := c.Submit(ctx, r)
			return err
		}
	}
	for name, test := range map[string]struct {
		field, why string
		call       func() error
	}{
		"no model":      {"model_ref", "at least 1", task(func(r *TaskRequest) { r.ModelRef = "" })},
		"a task's id":   {"task_id", "must match", task(func(r *TaskRequest) { r.TaskID = "a b" })},
		"a seed":        {"seed", "greater than 4294967294", task(func(r *TaskRequest) { r.Seed = new(int64(math.MaxUint32)) })},
		"a temperature": {"params.temperature", "less than 0", task(func(r *TaskRequest) { r.Params = &Params{Temperature: new(-1.0)} })},
		"no number":     {"params.top_p", "NaN", task(func(r *TaskRequest) { r.Params = &Params{TopP: new(math.NaN())} })},
		"a role": {"messages[1].role", "someone", task(func(r *TaskRequest) {
			r.Prompt, r.Messages = "", []Message{Say(RoleUser, "x"), Say("someone", "y")}
		})},
		"a part": {"messages[0].content[0].media_type", "image/tiff", task(func(r *TaskRequest) {
			r.Prompt, r.Messages = "", []Message{{Role: RoleUser, Content: Content{Parts: []Part{{Type: PartTypeImage, MediaType: "image/tiff", Data: "AA=="}}}}}
		})},
		"a schema":        {"tools[0].parameters", "unexpected end of JSON", task(func(r *TaskRequest) { r.Tools = []Tool{{Name: "t", Parameters: json.RawMessage("{")}} })},
		"no stop":         {"params.stop[1]", "at least 1", task(func(r *TaskRequest) { r.Params = &Params{Stop: []string{"a", ""}} })},
		"a session":       {"session_id", "no UUID", task(func(r *TaskRequest) { r.SessionID = "mine" })},
		"a workload":      {"workload", "opaque", task(func(r *TaskRequest) { r.Workload = WorkloadOpaque })},
		"a path":          {"id", "must match", func() error { _, err := c.Get(ctx, "../v1/pools"); return err }},
		"a stream":        {"after", "at least 10", func() error { _, _, err := read(ctx, c, "5"); return err }},
		"a limit":         {"limit", "501", func() error { _, err := c.List(ctx, "", 501); return err }},
		"a state":         {"state", "sleeping", func() error { _, err := c.List(ctx, "sleeping", 0); return err }},
		"a long deadline": {"deadline_ms", "greater than 86400000", func() error { _, err := c.Drain(ctx, "p", 25*time.Hour); return err }},
		"a model's ref":   {"new_model_ref", "at least 1", func() error { _, err := c.Reload(ctx, "p", ""); return err }},
		"an artifact": {"tags[0]", "must match", func() error {
			_, err := c.PutArtifact(ctx, &ArtifactRequest{Kind: "plan", Content: "x", Tags: []string{"!"}})
			return err
		}},
		"a budget": {"budget.tokens", "less than 1", func() error {
			_, err := c.CreateSession(ctx, &SessionRequest{Budget: &Budget{Tokens: -1}})
			return err
		}},
	} {
		var got *RequestError
		require.ErrorAs(t, test.call(), &got, name)
		require.Equal(t, test.field, got.Field, name)
		require.Contains(t, got.Why, test.why, name)
		require.ErrorContains(t, got, "the field `"+test.field+"` of the request", name)
	}
	require.Zero(t, sent)
}

// LO-901
func TestContentIsATextOrParts(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		`{"role":"user","content":"a <b>"}`,
		`{"role":"user","content":[{"type":"text","text":"a"}]}`,
		`{"role":"assistant","tool_calls":[{"id":"c","name":"n","arguments":"{}"}]}`,
	} {
		var m Message
		require.NoError(t, json.Unmarshal([]byte(text), &m))
		again, err := plainjson.Encode(m)
		require.NoError(t, err)
		require.JSONEq(t, text, string(again))
	}
	var m Message
	require.Error(t, json.Unmarshal([]byte(`{"role":"user","content":7}`), &m))
}

// An error is the same in JSON as the server sends it.
//
// LO-901, OC-CTRL-2030
func TestAnErrorIsItsEnvelope(t *testing.T) {
	t.Parallel()
	const text = `{"code":"POOL_UNREADY","message":"m","retriable":true,"retry_after_ms":1250,"policy_label":"l","engine":"e","pool_id":"p","hint":"h",
		"reasons":[{"pool_id":"p","code":"POOL_UNREADY","message":"loading"}]}`
	var e Error
	require.NoError(t, json.Unmarshal([]byte(text), &e))
	require.Equal(t, 1250*time.Millisecond, e.RetryAfter)
	require.Equal(t, "loading", e.Reasons[0].Message)
	again, err := json.Marshal(e)
	require.NoError(t, err)
	require.JSONEq(t, text, string(again))
	require.Error(t, json.Unmarshal([]byte(`{"code":7}`), &e))
}
