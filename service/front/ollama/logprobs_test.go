// SPDX-License-Identifier: GPL-3.0-or-later

package ollama

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/front/exchange/exchangetest"
	"github.com/llama-orch/llama-orch/service/task"
)

// LO-452: the lines that have text have its log probabilities, and so has a whole answer.
func TestLogprobs(t *testing.T) {
	l := exchangetest.New()
	said := exchangetest.Text("a")
	said.Logprobs = task.EncodeLogprobs([]task.Logprob{{Likely: task.Likely{Token: "a", Logprob: -0.5, Bytes: task.Octets("a")}}})
	l.Says(t, exchangetest.Reasoning("hm"), said, said)
	l.Ends(task.FinishStop)
	url := serve(t, l, &library{})
	const one = `{"token":"a","logprob":-0.5,"bytes":[97],"top_logprobs":[]}`
	for path, body := range map[string]string{"/api/chat": `{` + hello, "/api/generate": `{"model":"m","prompt":"p"`} {
		got := exchangetest.Read(t, exchangetest.Post(t, url+path, body+`,"logprobs":true,"top_logprobs":3}`).Body)
		require.Contains(t, got, `,"logprobs":[`+one+`],"done":false}`+"\n")
		require.Contains(t, got, `"thinking":"hm"`)
		require.NotContains(t, got, `[]],"done":true`)
		require.Equal(t, &task.Logprobs{Top: 3}, l.Last().Chat.Logprobs)
		got = exchangetest.Read(t, exchangetest.Post(t, url+path, body+`,"logprobs":true,"stream":false}`).Body)
		require.Contains(t, got, `"logprobs":[`+one+`,`+one+`]`)
		require.Equal(t, &task.Logprobs{}, l.Last().Chat.Logprobs)
	}
}
