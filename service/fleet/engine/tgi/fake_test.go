// SPDX-License-Identifier: GPL-3.0-or-later

package tgi_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/enginetest"
	"github.com/llama-orch/llama-orch/service/fleet/engine/tgi"
	"github.com/llama-orch/llama-orch/service/task"
)

const info = `{"model_id":"m","version":"3.3.6","max_total_tokens":64,"max_input_tokens":63,"max_concurrent_requests":4,"max_stop_sequences":4}`

// fake is a server that answers with fixed text: for faults that no engine has on demand.
func fake(t testing.TB, answers map[string]string) *tgi.Engine {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, answers[r.URL.Path])
	}))
	e := tgi.New(engine.Endpoint{URL: s.URL})
	t.Cleanup(func() { e.Close(); s.Close() })
	return e
}

const (
	one  = `data:{"index":1,"token":{"id":1,"text":"a","logprob":-1.5,"special":false},"generated_text":null,"details":null}` + "\n\n"
	last = `data:{"index":2,"token":{"id":2,"text":"b","logprob":null,"special":false},"generated_text":"ab",` +
		`"details":{"finish_reason":"length","generated_tokens":2,"input_length":5,"seed":8}}` + "\n\n"
)

// ORCH-3056
func TestBrokenStreams(t *testing.T) {
	for name, c := range map[string]struct {
		stream, text string
		code         task.Code
		says         string
	}{
		"whole":             {": ping\n\n" + one + last + one, "ab", "", ""},
		"ends early":        {one, "a", task.WorkerReset, "unexpected EOF"},
		"no JSON":           {one + "data: nonsense\n\n", "a", task.WorkerReset, "frame"},
		"no token":          {one + "data: {}\n\n", "a", task.WorkerReset, "no token"},
		"text of a number":  {`data:{"token":{"text":1}}` + "\n\n", "", task.WorkerReset, "frame"},
		"unknown end":       {`data:{"token":{"text":"a"},"details":{"finish_reason":"tired","generated_tokens":1,"input_length":1}}` + "\n\n", "a", task.WorkerReset, "tired"},
		"figure too large":  {`data:{"token":{"text":"a"},"details":{"finish_reason":"length","generated_tokens":1000000000,"input_length":1}}` + "\n\n", "a", task.WorkerReset, "generated_tokens"},
		"error of no type":  {one + `data:{"error":"boom"}` + "\n\n", "a", task.WorkerReset, "boom"},
		"error of no words": {`data:{"error":7}` + "\n\n", "", task.WorkerReset, "500"},
	} {
		e := fake(t, map[string]string{"/info": info, "/generate_stream": c.stream, "/tokenize": `[{},{}]`})
		text, r, err := enginetest.Say(t, e, job(nil))
		require.Equal(t, c.text, text, name)
		if c.code == "" {
			require.NoError(t, err, name)
			require.Equal(t, []int{5, 2}, []int{r.TokensIn, r.TokensOut})
			require.Equal(t, task.FinishLength, r.Finish)
			require.Equal(t, engine.NoSlot, r.Slot)
			continue
		}
		require.True(t, task.HasCode(err, c.code), "%s: %v", name, err)
		require.ErrorContains(t, err, c.says, name)
	}
}
