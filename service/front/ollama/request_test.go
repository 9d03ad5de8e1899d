// SPDX-License-Identifier: GPL-3.0-or-later

package ollama

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/front/exchange/exchangetest"
	"github.com/llama-orch/llama-orch/service/front/lenient"
	"github.com/llama-orch/llama-orch/service/task"
)

var png = base64.StdEncoding.EncodeToString([]byte("\x89PNG\r\n\x1a\nx"))

// bmp is an image that no engine takes.
var bmp = base64.StdEncoding.EncodeToString([]byte("BM" + strings.Repeat("x", 30)))

// LO-403, LO-424: what a chat becomes.
func TestWhatAChatBecomes(t *testing.T) {
	l := exchangetest.New()
	ends(l, task.FinishStop)
	url := serve(t, l, &library{}) + "/api/chat"
	for body, check := range map[string]func(task.Request){
		`{` + hello + `,"tools":null,"format":"","think":null,"options":null,"nobody":{"knows":1},"options":{"num_ctx":999999,"num_gpu":1,"mirostat":0,"typical_p":1}}`: func(q task.Request) {
			require.Equal(t, []task.Message{{Role: "user", Content: "hi"}}, q.Messages)
			require.Equal(t, &task.Chat{Reasoning: task.Reasoning{Split: true}}, q.Chat)
			require.Equal(t, task.Interactive, q.Priority)
			require.True(t, q.AtMost)
			require.Zero(t, q.Ctx)
			require.Zero(t, q.Params)
		},
		`{` + hello + `,"options":{"num_predict":20,"seed":-3,"stop":"x","temperature":0,"top_p":1,"top_k":5,"min_p":0.1,"repeat_penalty":1.1}}`: func(q task.Request) {
			require.Equal(t, 20, q.MaxTokens)
			require.Equal(t, uint32(3), *q.Seed)
			require.Equal(t, []string{"x"}, q.Params.Stop)
			require.Zero(t, *q.Params.Temperature)
			require.Equal(t, 5, *q.Params.TopK)
			require.InDelta(t, 1.1, *q.Params.RepeatPenalty, 0)
		},
		`{` + hello + `,"options":{"num_predict":-1,"seed":-1,"stop":["x","y"],"top_k":-1,"repeat_penalty":0}}`: func(q task.Request) {
			require.Zero(t, q.MaxTokens)
			require.Nil(t, q.Seed)
			require.Len(t, q.Params.Stop, 2)
			require.Zero(t, *q.Params.TopK)
			require.Nil(t, q.Params.RepeatPenalty)
		},
		`{` + hello + `,"format":"json","think":false}`: func(q task.Request) {
			require.Equal(t, &task.Format{Kind: task.FormatJSON}, q.Chat.Format)
			require.False(t, *q.Chat.Reasoning.Enabled)
		},
		`{` + hello + `,"format":{"type":"object"},"think":"high"}`: func(q task.Request) {
			require.JSONEq(t, `{"type":"object"}`, string(q.Chat.Format.Schema))
			require.Equal(t, "high", q.Chat.Reasoning.Effort)
			require.True(t, *q.Chat.Reasoning.Enabled)
		},
		`{"model":"m","tools":[{"type":"function","function":{"name":"f","description":"d","parameters":{"type":"object"}}},{"function":{"name":"g"}}],"messages":[
			{"role":"User","content":"look","images":["` + png + `"]},{"role":"system","content":"s"},
			{"role":"assistant","content":"","thinking":"hm","tool_calls":[{"function":{"name":"f","arguments":{"a": [1]}}},{"id":"x","function":{"name":"g","arguments":"{}"}},{"function":{"name":"f","arguments":null}}]},
			{"role":"tool","content":"G","tool_name":"g"},{"role":"tool","content":"F","tool_name":"nobody"},{"role":"tool","content":"F2"}]}`: func(q task.Request) {
			require.Equal(t, []task.Tool{{Name: "f", Description: "d", Parameters: json.RawMessage(`{"type":"object"}`)}, {Name: "g"}}, q.Chat.Tools)
			require.Equal(t, []task.Message{
				{Role: "system", Content: "s"},
				{Role: "user", Parts: []task.Part{{Image: &task.Image{MIME: "image/png", Data: []byte("\x89PNG\r\n\x1a\nx")}}, {Text: "look"}}},
				{Role: "assistant", Reasoning: "hm", ToolCalls: []task.ToolCall{
					{ID: "call_2_0", Name: "f", Arguments: `{"a":[1]}`}, {ID: "x", Name: "g", Arguments: "{}"}, {ID: "call_2_2", Name: "f", Arguments: "{}"},
				}},
				{Role: "tool", Content: "G", ToolCallID: "x"},
				{Role: "tool", Content: "F", ToolCallID: "call_2_0"},
				{Role: "tool", Content: "F2", ToolCallID: "call_2_2"},
			}, q.Messages)
		},
		`{"model":"m","messages":[{"role":"assistant","tool_calls":[{"id":"a","function":{"name":"f"}},{"id":"b","function":{"name":"f"}}]},
			{"role":"tool","tool_call_id":"b"},{"role":"tool","content":"1","tool_name":"f"}]}`: func(q task.Request) {
			require.Equal(t, "b", q.Messages[1].ToolCallID)
			require.Equal(t, "a", q.Messages[2].ToolCallID)
		},
	} {
		res := exchangetest.Post(t, url, body)
		require.Equal(t, http.StatusOK, res.StatusCode, "%s: %s", body, exchangetest.Read(t, res.Body))
		check(l.Last())
	}
}

// LO-424: what a completion becomes: a chat of one turn, or a prompt as it is.
func TestWhatACompletionBecomes(t *testing.T) {
	l := exchangetest.New()
	ends(l, task.FinishStop)
	url := serve(t, l, &library{}) + "/api/generate"
	for body, check := range map[string]func(task.Request){
		`{"model":"m","prompt":"p","system":"s","images":["data:image/png;base64,` + png + `"],"context":[]}`: func(q task.Request) {
			require.Equal(t, task.Message{Role: "system", Content: "s"}, q.Messages[0])
			require.Equal(t, "p", q.Messages[1].Parts[1].Text)
			require.Equal(t, "image/png", q.Messages[1].Parts[0].Image.MIME)
			require.Empty(t, q.Prompt)
		},
		`{"model":"m","prompt":"p","raw":true}`: func(q task.Request) {
			require.Equal(t, "p", q.Prompt)
			require.Empty(t, q.Messages)
		},
	} {
		require.Equal(t, http.StatusOK, exchangetest.Post(t, url, body).StatusCode, body)
		check(l.Last())
	}
}

// LO-403, LO-404, LO-424: what is refused, by its name.
func TestRefusals(t *testing.T) {
	l := exchangetest.New()
	l.Checks = true
	url := serve(t, l, &library{})
	chat := func(more string) string { return `{` + hello + `,` + more + `}` }
	message := func(m string) string { return `{"model":"m","messages":[` + m + `]}` }
	for path, refused := range map[string]map[string]string{
		"/api/chat": {
			``: "JSON body", `[]`: "JSON object", `{`: "not valid JSON", `{"model":3}`: "`model`", `{"messages":[]}`: "`model`",
			chat(`"stream":3`): "`stream`", chat(`"logprobs":3`): "`logprobs`", chat(`"top_logprobs":1`): "`top_logprobs`", chat(`"logprobs":true,"top_logprobs":21`): "`top_logprobs`", chat(`"logprobs":true,"top_logprobs":-1`): "`top_logprobs`", chat(`"_debug_render_only":true`): "`_debug_render_only`",
			chat(`"format":"yaml"`): "`format`", chat(`"format":3`): "`format`", chat(`"think":3`): "`think`", chat(`"think":"` + strings.Repeat("x", 33) + `"`): "`think`",
			chat(`"keep_alive":"soon"`): "`keep_alive`", chat(`"keep_alive":{}`): "`keep_alive`", chat(`"options":3`): "`options`",
			chat(`"options":{"temperature":9}`): "`options.temperature`", chat(`"options":{"temperature":"0"}`): "`options.temperature`", chat(`"options":{"top_p":2}`): "`options.top_p`",
			chat(`"options":{"min_p":-1}`): "`options.min_p`", chat(`"options":{"top_k":1.5}`): "`options.top_k`", chat(`"options":{"num_predict":1.5}`): "`options.num_predict`",
			chat(`"options":{"seed":1.5}`): "`options.seed`", chat(`"options":{"repeat_penalty":20}`): "`options.repeat_penalty`", chat(`"options":{"mirostat":2}`): "`options.mirostat`",
			chat(`"options":{"typical_p":0.5}`): "`options.typical_p`", chat(`"options":{"tfs_z":0.5}`): "`options.tfs_z`", chat(`"options":{"frequency_penalty":1}`): "`options.frequency_penalty`",
			chat(`"options":{"presence_penalty":-1}`): "`options.presence_penalty`", chat(`"options":{"stop":["` + strings.Repeat(`a","`, 16) + `b"]}`): "`options.stop`",
			chat(`"tools":[{"function":{"name":"f","parameters":3}}]`): "`tools[0].function.parameters`",
			message(`{"role":"nobody"}`):                               "`messages[0].role`", message(`{"role":"tool","content":"x"}`): "`messages[0]`", message(`{"role":"user","content":[]}`): "`messages.content`",
			message(`{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":[]}}]}`):                                           "`messages[0].tool_calls[0].function.arguments`",
			message(`{"role":"assistant","tool_calls":[{"id":"a","function":{"name":"f"}}]},{"role":"tool","content":"","tool_call_id":"b"}`): "`messages[1]`",
			message(`{"role":"user","content":"u"},{"role":"system","content":"s"},{"role":"assistant","images":["` + png + `"]}`):            "`messages[2].images[0]`",
			message(`{"role":"system","content":"s"},{"role":"assistant","tool_calls":[{"function":{}}]}`):                                    "`messages[1].tool_calls[0].function.name`",
			chat(`"tools":[{"function":{"name":"f"}},{"function":{"name":"f"}}]`):                                                             "`tools[1].function.name`",
			message(`{"role":"user","images":["%"]}`):                                                                                         "`messages[0].images[0]`", message(`{"role":"user","images":["aGk="]}`): "`messages[0].images[0]`",
		},
		"/api/generate": {
			`{"model":"m","prompt":"p","system":"s","images":["` + bmp + `"]}`: "`images[0]`",
			`{"model":"m","prompt":"p","suffix":"s"}`:                          "`suffix`", `{"model":"m","suffix":"s"}`: "`suffix`", `{"model":"m","prompt":"p","template":"t"}`: "`template`",
			`{"model":"m","prompt":"p","context":[1]}`: "`context`", `{"model":"m","prompt":"p","raw":true,"system":"s"}`: "`system`", `{"model":"m","prompt":"p","images":[""]}`: "`images[0]`",
			`{"model":"m","prompt":"p","raw":true,"images":["` + png + `"]}`: "`images`", `{"prompt":"p"}`: "`model`",
		},
		"/api/embed":      {`{"model":"m","input":"x","dimensions":64}`: "`dimensions`", `{"model":"m","input":[3]}`: "`input`", `{"input":"x"}`: "`model`"},
		"/api/embeddings": {`{"model":"m","prompt":["x"]}`: "`prompt`"},
		"/api/show":       {`{}`: "`model`"},
		"/api/pull":       {`{}`: "`model`"},
	} {
		for body, says := range refused {
			res := exchangetest.Post(t, url+path, body)
			require.Equal(t, http.StatusBadRequest, res.StatusCode, "%s %s", path, body)
			var got errorBody
			require.NoError(t, json.NewDecoder(res.Body).Decode(&got))
			require.Contains(t, got.Error, says, "%s %s", path, body)
		}
	}
	require.Empty(t, l.Requests())
}

// LO-403: whatever a client sends becomes a task, or a refusal of the client's.
func FuzzRequests(f *testing.F) {
	for _, seed := range []string{
		`{` + hello + `}`, `{"model":"m","prompt":"p","raw":true}`, `{"model":"m","input":["a"]}`, `{"model":"m","prompt":"p","images":["` + png + `"],"format":{},"think":"low","keep_alive":"5m"}`,
		`{"model":"m","messages":[{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":"{}"}}]},{"role":"tool"}],"options":{"top_k":1e300,"seed":-1e300,"stop":["x"]}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		request := func() *http.Request {
			return httptest.NewRequest(http.MethodPost, "/", strings.NewReader(string(body)))
		}
		check := func(q task.Request, err error) {
			if err != nil {
				require.True(t, task.HasCode(err, task.InvalidParams), "%v", err)
				return
			}
			require.Equal(t, "m", q.ModelRef)
			for _, m := range q.Messages {
				require.Contains(t, []string{"system", "user", "assistant", "tool"}, m.Role)
				for _, c := range m.ToolCalls {
					require.True(t, json.Valid([]byte(c.Arguments)), "%s", c.Arguments)
				}
			}
		}
		var chat chatRequest
		if _, err := lenient.Decode(request(), &chat); err == nil {
			check(chat.request("m"))
			_, err := chat.unload()
			check(task.Request{ModelRef: "m"}, err)
		} else {
			check(task.Request{}, err)
		}
		var generate generateRequest
		if _, err := lenient.Decode(request(), &generate); err == nil {
			check(generate.request("m"))
		}
		var embed embedRequest
		if _, err := lenient.Decode(request(), &embed); err == nil {
			check(embed.request("m", embed.Input))
		}
	})
}
