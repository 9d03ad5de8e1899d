// SPDX-License-Identifier: GPL-3.0-or-later

package openai

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/front/exchange/exchangetest"
	"github.com/llama-orch/llama-orch/service/task"
)

// frog is 蛙 in two tokens, behind an a.
var frog = []task.Logprob{
	{Likely: task.Likely{Token: "a", Logprob: -0.5, Bytes: task.Octets("a")}, Top: []task.Likely{{Token: "b", Logprob: -0.25, Bytes: task.Octets("b")}}},
	{Likely: task.Likely{Token: "�", Logprob: -1, Bytes: task.Octets{0xe8, 0x9b}}, Top: []task.Likely{{Token: "�", Logprob: -1, Bytes: task.Octets{0xe8, 0x9b}}}},
	{Likely: task.Likely{Token: "�", Logprob: -2, Bytes: task.Octets{0x99}}, Top: []task.Likely{{Token: "c", Logprob: -1.5, Bytes: task.Octets("c")}}},
}

// likely is a line whose task says "hm", "é", and "a蛙", the last with log probabilities.
func likely(t *testing.T) *exchangetest.Line {
	l := exchangetest.New()
	first := exchangetest.Text("é")
	first.Logprobs = task.EncodeLogprobs([]task.Logprob{{Likely: task.Likely{Token: "é", Bytes: task.Octets("é")}}})
	second := exchangetest.Text("a蛙")
	second.Logprobs = task.EncodeLogprobs(frog)
	l.Says(t, exchangetest.Reasoning("hm"), first, second)
	l.Ends(task.FinishStop)
	return l
}

const first = `{"token":"é","logprob":0,"bytes":[195,169],"top_logprobs":[]}`

// LO-452: a chat has them in the form in which the task has them, whole and streamed.
func TestLogprobsOfAChat(t *testing.T) {
	l := likely(t)
	url := serve(t, l) + "/v1/chat/completions"
	second := strings.Trim(task.EncodeLogprobs(frog), "[]")
	got := exchangetest.Read(t, exchangetest.Post(t, url, `{`+hello+`,"logprobs":true,"top_logprobs":1}`).Body)
	require.Contains(t, got, `"logprobs":{"content":[`+first+`,`+second)
	require.Equal(t, &task.Logprobs{Top: 1}, l.Last().Chat.Logprobs)
	got = exchangetest.Read(t, exchangetest.Post(t, url, `{`+hello+`,"logprobs":true,"stream":true}`).Body)
	require.Contains(t, got, `"delta":{"reasoning_content":"hm"},"logprobs":null`)
	require.Contains(t, got, `"delta":{"content":"é"},"logprobs":{"content":[`+first+`],"refusal":null},"finish_reason":null`)
	require.Contains(t, got, `"delta":{"content":"a蛙"},"logprobs":{"content":[`+second)
	require.Equal(t, &task.Logprobs{}, l.Last().Chat.Logprobs)
}

// LO-452: a completion has the older form, in which a token that is no text is called by its bytes.
func TestLogprobsOfACompletion(t *testing.T) {
	l := exchangetest.New()
	for _, list := range [][]task.Logprob{{{Likely: task.Likely{Token: "é", Bytes: task.Octets("é")}}}, frog, nil} {
		p := exchangetest.Text(map[int]string{1: "é", 3: "a蛙", 0: "z"}[len(list)])
		p.Logprobs = task.EncodeLogprobs(list)
		l.Says(t, p)
	}
	l.Ends(task.FinishStop)
	url := serve(t, l) + "/v1/completions"
	got := exchangetest.Read(t, exchangetest.Post(t, url, `{"model":"c","prompt":"x","logprobs":1}`).Body)
	require.Contains(t, got, `"logprobs":{"tokens":["é","a","bytes:\\xe8\\x9b","bytes:\\x99"],"token_logprobs":[0,-0.5,-1,-2],`+
		`"top_logprobs":[{"é":0},{"a":-0.5,"b":-0.25},{"bytes:\\xe8\\x9b":-1},{"bytes:\\x99":-2,"c":-1.5}],"text_offset":[0,1,2,2]}`)
	require.Equal(t, &task.Logprobs{Top: 1}, l.Last().Chat.Logprobs)
	got = exchangetest.Read(t, exchangetest.Post(t, url, `{"model":"c","prompt":"x","logprobs":0,"stream":true}`).Body)
	require.Contains(t, got, `"text":"é","logprobs":{"tokens":["é"],"token_logprobs":[0],"top_logprobs":[{"é":0}],"text_offset":[0]}`)
	require.Contains(t, got, `"text_offset":[1,2,2]}`)
	require.Contains(t, got, `"text":"z","logprobs":null`)
	require.Equal(t, &task.Logprobs{}, l.Last().Chat.Logprobs)
}

// LO-452: a response has them with bytes in its items, and without in its events. It is kept with them.
func TestLogprobsOfAResponse(t *testing.T) {
	l := likely(t)
	url := serve(t, l) + "/v1/responses"
	sent := exchangetest.Read(t, exchangetest.Post(t, url, `{`+ask+`,"include":["message.output_text.logprobs"],"top_logprobs":1}`).Body)
	require.Contains(t, sent, `"text":"éa蛙","annotations":[],"logprobs":[`+first+`,{"token":"a","logprob":-0.5,"bytes":[97]`)
	require.Contains(t, sent, `"top_logprobs":1,"top_p"`)
	require.Equal(t, &task.Logprobs{Top: 1}, l.Last().Chat.Logprobs)
	require.Equal(t, sent, exchangetest.Read(t, exchangetest.Do(t, http.MethodGet, url+"/resp_t1", "").Body))
	got := exchangetest.Read(t, exchangetest.Post(t, url, `{`+ask+`,"include":["message.output_text.logprobs"],"stream":true}`).Body)
	require.Contains(t, got, `"delta":"é","logprobs":[{"token":"é","logprob":0,"top_logprobs":[]}]`)
	require.Contains(t, got, `"delta":"a蛙","logprobs":[{"token":"a","logprob":-0.5,"top_logprobs":[{"token":"b","logprob":-0.25}]},`)
	require.Contains(t, got, `"text":"éa蛙","logprobs":[{"token":"é","logprob":0,"top_logprobs":[]},{"token":"a","logprob":-0.5,`)
	require.Equal(t, &task.Logprobs{}, l.Last().Chat.Logprobs)
	exchangetest.Post(t, url, `{`+ask+`,"top_logprobs":2}`)
	require.Equal(t, &task.Logprobs{Top: 2}, l.Last().Chat.Logprobs, "alternatives ask for them, too")
	exchangetest.Post(t, url, `{`+ask+`,"top_logprobs":0,"include":["reasoning.encrypted_content"]}`)
	require.Nil(t, l.Last().Chat.Logprobs)
}

// LO-450, LO-452: what is refused, by the client's name.
func TestLogprobsThatAreRefused(t *testing.T) {
	chat := func(more string) string { return `{` + hello + `,` + more + `}` }
	const tools = `"tools":[{"type":"function","function":{"name":"f"}}],`
	refuses(t, "/v1/chat/completions", map[string]string{
		chat(`"top_logprobs":1`):                             "top_logprobs",
		chat(`"logprobs":false,"top_logprobs":1`):            "top_logprobs",
		chat(`"logprobs":true,"top_logprobs":21`):            "top_logprobs",
		chat(`"logprobs":true,"top_logprobs":-1`):            "top_logprobs",
		chat(`"logprobs":true,"top_logprobs":1.5`):           "top_logprobs",
		chat(`"logprobs":true,"top_logprobs":"1"`):           "top_logprobs",
		chat(`"logprobs":3`):                                 "logprobs",
		chat(tools + `"logprobs":true`):                      "logprobs",
		chat(`"logprobs":true,"top_logprobs":1000000000000`): "top_logprobs",
	})
	refuses(t, "/v1/completions", map[string]string{
		`{"model":"c","prompt":"a","logprobs":21}`: "logprobs", `{"model":"c","prompt":"a","logprobs":-1}`: "logprobs",
		`{"model":"c","prompt":"a","logprobs":true}`: "logprobs",
	})
	refuses(t, "/v1/responses", map[string]string{
		`{` + ask + `,"top_logprobs":21}`: "top_logprobs", `{` + ask + `,"top_logprobs":-1}`: "top_logprobs", `{` + ask + `,"include":3}`: "include",
		`{` + ask + `,"include":["message.output_text.logprobs"],"tools":[{"type":"function","name":"f"}]}`: "include",
	})
	l := exchangetest.New()
	l.Ends(task.FinishStop)
	url := serve(t, l)
	for path, body := range map[string]string{
		"/v1/chat/completions": chat(`"logprobs":false,"top_logprobs":0`), "/v1/completions": `{"model":"c","prompt":"a","logprobs":null}`,
	} {
		require.Equal(t, http.StatusOK, exchangetest.Post(t, url+path, body).StatusCode)
		require.True(t, l.Last().Chat == nil || l.Last().Chat.Logprobs == nil)
	}
	require.Equal(t, http.StatusOK, exchangetest.Post(t, url+"/v1/chat/completions", chat(tools+`"tool_choice":"none","logprobs":true`)).StatusCode)
}
