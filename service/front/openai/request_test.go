// SPDX-License-Identifier: GPL-3.0-or-later

package openai

import (
	"encoding/json"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/front/exchange/exchangetest"
	"github.com/llama-orch/llama-orch/service/task"
)

// becomes posts bodies of hello and more, and gives what they became.
func becomes(t *testing.T, path string, bodies map[string]func(task.Request)) {
	l := exchangetest.New()
	l.Ends(task.FinishStop)
	url := serve(t, l)
	for body, check := range bodies {
		res := exchangetest.Post(t, url+path, body)
		require.Equal(t, http.StatusOK, res.StatusCode, "%s: %s", body, exchangetest.Read(t, res.Body))
		check(l.Last())
	}
}

const pixel = "data:image/png;base64,aGk="

var image = &task.Image{MIME: "image/png", Data: []byte("hi")}

// LO-403: what a chat becomes.
func TestWhatAChatBecomes(t *testing.T) {
	becomes(t, "/v1/chat/completions", map[string]func(task.Request){
		`{"model":"coder","messages":[{"role":"system","content":"a"},{"role":"user","content":[{"type":"text","text":"b"},{"type":"text","text":"c"}]},
			{"role":"assistant","content":null,"refusal":null,"tool_calls":null},{"role":"developer","content":"d"},{"role":"user","content":"e"}],
			"tools":[{"type":"web_search"}],"tool_choice":"none","store":true,"metadata":{"x":1},"n":null,"response_format":{"type":"text"},"user":"u"}`: func(q task.Request) {
			require.Equal(t, []task.Message{{Role: "system", Content: "a\n\nd"}, {Role: "user", Content: "bc"}, {Role: "assistant"}, {Role: "user", Content: "e"}}, q.Messages)
			require.Equal(t, "coder", q.ModelRef)
			require.Equal(t, task.Interactive, q.Priority)
			require.True(t, q.AtMost)
			require.Nil(t, q.Seed)
			require.Equal(t, &task.Chat{Reasoning: task.Reasoning{Split: true}}, q.Chat)
		},
		`{` + hello + `,"max_tokens":10,"max_completion_tokens":20.0,"seed":-3,"stop":"x","temperature":0,"top_p":1,"top_k":5,"min_p":0.1,"repeat_penalty":1.1,"frequency_penalty":0}`: func(q task.Request) {
			require.Equal(t, 20, q.MaxTokens)
			require.Equal(t, uint32(3), *q.Seed)
			require.Equal(t, []string{"x"}, q.Params.Stop)
			require.Zero(t, *q.Params.Temperature)
			require.Equal(t, 5, *q.Params.TopK)
			require.InDelta(t, 1.1, *q.Params.RepeatPenalty, 0)
		},
		`{"model":"coder","messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"image_url","image_url":{"url":"` + pixel + `","detail":"low"}},{"type":"image_url","image_url":"` + pixel + `"}]},
			{"role":"assistant","reasoning_content":"r","tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}},{"id":"c2","function":{"name":"g","arguments":{"b":2}}}]},
			{"role":"tool","tool_call_id":"c1","content":"x"},{"role":"tool","tool_call_id":"c2","content":[{"type":"text","text":"y"}]},
			{"role":"assistant","reasoning":"s","content":[{"type":"refusal","refusal":"no"}]},{"role":"assistant","reasoning":{"effort":1},"content":""}]}`: func(q task.Request) {
			require.Equal(t, []task.Message{
				{Role: "user", Parts: []task.Part{{Text: "a"}, {Image: image}, {Image: image}}},
				{Role: "assistant", Reasoning: "r", ToolCalls: []task.ToolCall{{ID: "c1", Name: "f", Arguments: `{"a":1}`}, {ID: "c2", Name: "g", Arguments: `{"b":2}`}}},
				{Role: "tool", ToolCallID: "c1", Content: "x"},
				{Role: "tool", ToolCallID: "c2", Content: "y"},
				{Role: "assistant", Reasoning: "s", Content: "no"},
				{Role: "assistant"},
			}, q.Messages)
		},
	})
}

// LO-408: tools, the choice among them, formats, and wishes about the thinking.
func TestWhatAChatAsks(t *testing.T) {
	const tools = `"tools":[{"type":"function","function":{"name":"f","description":"d","parameters":{"type":"object"},"strict":true}},{"type":"web_search"},{"function":{"name":"g","parameters":null}}]`
	two := []task.Tool{{Name: "f", Description: "d", Parameters: json.RawMessage(`{"type":"object"}`)}, {Name: "g"}}
	yes, no := true, false
	asks := func(want task.Chat) func(task.Request) {
		want.Reasoning.Split = true
		return func(q task.Request) { require.Equal(t, &want, q.Chat) }
	}
	chat := func(more string) string { return `{` + hello + `,` + more + `}` }
	becomes(t, "/v1/chat/completions", map[string]func(task.Request){
		chat(tools): asks(task.Chat{Tools: two}),
		chat(tools + `,"tool_choice":"auto","parallel_tool_calls":true`):           asks(task.Chat{Tools: two, ParallelCalls: &yes}),
		chat(tools + `,"tool_choice":"none"`):                                      asks(task.Chat{Tools: two, ToolChoice: task.ChooseNone}),
		chat(tools + `,"tool_choice":"required"`):                                  asks(task.Chat{Tools: two, ToolChoice: task.ChooseRequired}),
		chat(tools + `,"tool_choice":{"type":"function","function":{"name":"g"}}`): asks(task.Chat{Tools: two, ToolChoice: task.ChooseTool, ToolName: "g"}),
		chat(tools + `,"tool_choice":{"type":"allowed_tools","allowed_tools":{"mode":"required","tools":[{"type":"function","function":{"name":"f"}}]}}`): asks(task.Chat{Tools: two[:1], ToolChoice: task.ChooseRequired}),
		chat(`"tools":[{"type":"web_search"}],"tool_choice":"auto"`):                                                                                      asks(task.Chat{}),
		chat(`"functions":[{"name":"f","description":"d","parameters":{"type":"object"}}],"function_call":{"name":"f"}`):                                  asks(task.Chat{Tools: two[:1], ToolChoice: task.ChooseTool, ToolName: "f", ParallelCalls: &no}),
		chat(`"functions":[{"name":"g"}],"function_call":"auto"`):                                                                                         asks(task.Chat{Tools: two[1:], ParallelCalls: &no}),
		chat(`"response_format":{"type":"json_object"}`):                                                                                                  asks(task.Chat{Format: &task.Format{Kind: task.FormatJSON}}),
		chat(`"response_format":{"type":"json_object","schema":{"a":1}}`):                                                                                 asks(task.Chat{Format: &task.Format{Kind: task.FormatJSON, Schema: json.RawMessage(`{"a":1}`)}}),
		chat(`"response_format":{"type":"json_schema","json_schema":{"name":"n","schema":{"a":1},"strict":true}}`):                                        asks(task.Chat{Format: &task.Format{Kind: task.FormatJSON, Schema: json.RawMessage(`{"a":1}`)}}),
		chat(`"json_schema":{"a":1}`):                                             asks(task.Chat{Format: &task.Format{Kind: task.FormatJSON, Schema: json.RawMessage(`{"a":1}`)}}),
		chat(`"grammar":"root ::= \"a\"","response_format":null`):                 asks(task.Chat{Format: &task.Format{Kind: task.FormatGrammar, Grammar: `root ::= "a"`}}),
		chat(`"reasoning_effort":"high"`):                                         asks(task.Chat{Reasoning: task.Reasoning{Effort: "high"}}),
		chat(`"reasoning_effort":"none"`):                                         asks(task.Chat{Reasoning: task.Reasoning{Enabled: &no}}),
		chat(`"chat_template_kwargs":{"enable_thinking":false}`):                  asks(task.Chat{Reasoning: task.Reasoning{Enabled: &no}}),
		chat(`"chat_template_kwargs":{"b":{"x":1},"enable_thinking":true,"a":2}`): asks(task.Chat{Reasoning: task.Reasoning{Enabled: &yes}, TemplateArgs: json.RawMessage(`{"a":2,"b":{"x":1}}`)}),
		chat(`"chat_template_kwargs":{}`):                                         asks(task.Chat{}),
		chat(`"logit_bias":{"20":-100,"3":1.5}`):                                  asks(task.Chat{LogitBias: []task.Bias{{Token: 3, Bias: 1.5}, {Token: 20, Bias: -100}}}),
		chat(`"logit_bias":{},"modalities":["text"],"logprobs":false`):            asks(task.Chat{}),
	})
	becomes(t, "/v1/completions", map[string]func(task.Request){
		`{"model":"c","prompt":"a"}`: func(q task.Request) { require.Nil(t, q.Chat) },
		`{"model":"c","prompt":"a","logit_bias":{"1":2},"grammar":"g"}`: func(q task.Request) {
			require.Equal(t, &task.Chat{LogitBias: []task.Bias{{Token: 1, Bias: 2}}, Format: &task.Format{Kind: task.FormatGrammar, Grammar: "g"}}, q.Chat)
		},
	})
}

// LO-408: the form of tools before there were tools: a call has no id there.
func TestFunctionsBecomeTools(t *testing.T) {
	l := exchangetest.New()
	l.Says(t, exchangetest.Call(0, "call_1", "f", `{"a"`), exchangetest.Call(0, "", "", `:1}`), exchangetest.Call(1, "call_2", "f", `{}`))
	l.Ends(task.FinishToolCalls)
	url := serve(t, l) + "/v1/chat/completions"
	body := `{"model":"c","messages":[{"role":"user","content":"a"},{"role":"assistant","content":null,"function_call":{"name":"f","arguments":"{}"}},
		{"role":"function","name":"f","content":"x"}],"functions":[{"name":"f"}]`
	got := exchangetest.Read(t, exchangetest.Post(t, url, body+`}`).Body)
	require.Contains(t, got, `"message":{"role":"assistant","content":null,"refusal":null,"function_call":{"name":"f","arguments":"{\"a\":1}"}},"logprobs":null,"finish_reason":"function_call"`)
	require.Equal(t, []task.Message{
		{Role: "user", Content: "a"},
		{Role: "assistant", ToolCalls: []task.ToolCall{{ID: "call_1", Name: "f", Arguments: "{}"}}},
		{Role: "tool", ToolCallID: "call_1", Content: "x"},
	}, l.Last().Messages)
	got = exchangetest.Read(t, exchangetest.Post(t, url, body+`,"stream":true}`).Body)
	require.Contains(t, got, `"delta":{"function_call":{"name":"f","arguments":"{\"a\""}}`)
	require.Contains(t, got, `"delta":{"function_call":{"arguments":":1}"}}`)
	require.Contains(t, got, `"finish_reason":"function_call"`)
	require.NotContains(t, got, "call_2")
}

// refuses posts bodies, and holds the refusals against the names that they must have.
func refuses(t *testing.T, path string, bodies map[string]string) {
	l := exchangetest.New()
	l.Checks = true
	url := serve(t, l)
	for body, param := range bodies {
		res := exchangetest.Post(t, url+path, body)
		var got errorBody
		require.NoError(t, json.NewDecoder(res.Body).Decode(&got), body)
		require.Equal(t, http.StatusBadRequest, res.StatusCode, body)
		require.Equal(t, "invalid_request_error", got.Error.Type)
		if param != "" {
			require.NotNil(t, got.Error.Param, "%s: %s", body, got.Error.Message)
			require.Equal(t, param, *got.Error.Param, body)
		}
	}
	require.Empty(t, l.Requests())
}

// LO-403, LO-404: what is refused, and by which name.
func TestRefusals(t *testing.T) {
	chat := func(more string) string { return `{` + hello + `,` + more + `}` }
	message := func(m string) string { return `{"model":"coder","messages":[` + m + `]}` }
	const f = `"tools":[{"type":"function","function":{"name":"f"}}],`
	refuses(t, "/v1/chat/completions", map[string]string{
		``:                                    "",
		`{`:                                   "",
		`[]`:                                  "",
		`{"messages":[]}`:                     "model",
		`{"model":"coder"}`:                   "messages",
		`{"model":"coder","messages":"hi"}`:   "messages",
		chat(`"n":2`):                         "n",
		chat(`"temperature":"hot"`):           "temperature",
		chat(`"temperature":9`):               "temperature",
		chat(`"top_p":-1`):                    "top_p",
		chat(`"repeat_penalty":11`):           "repeat_penalty",
		chat(`"max_tokens":0`):                "max_tokens",
		chat(`"max_tokens":1.5`):              "max_tokens",
		chat(`"max_tokens":1e400`):            "max_tokens",
		chat(`"max_completion_tokens":0`):     "max_completion_tokens",
		chat(`"seed":0.5`):                    "seed",
		chat(`"stop":[1]`):                    "stop",
		chat(`"logit_bias":{"a":2}`):          "logit_bias",
		chat(`"logit_bias":{"1":200}`):        "logit_bias",
		chat(`"logit_bias":{"1":null}`):       "logit_bias",
		chat(`"presence_penalty":1`):          "presence_penalty",
		chat(`"tools":[{}]`):                  "tools[0]",
		chat(`"tools":[{"type":"function"}]`): "tools[0].name",
		chat(`"tools":[{"type":"function","function":{"name":"f","parameters":3}}]`):              "tools[0].function.parameters",
		chat(f + `"tool_choice":"often"`):                                                         "tool_choice",
		chat(f + `"tool_choice":3`):                                                               "tool_choice",
		chat(f + `"tool_choice":{"type":"function","function":{"name":"g"}}`):                     "tool_choice",
		chat(f + `"tool_choice":{"type":"custom","custom":{"name":"g"}}`):                         "tool_choice",
		chat(`"tool_choice":"required"`):                                                          "tool_choice",
		chat(`"tools":[{"type":"web_search"}],"tool_choice":"required"`):                          "tool_choice",
		chat(`"tools":[{"type":"web_search"}],"tool_choice":{"type":"web_search"}`):               "tool_choice",
		chat(`"functions":[{}]`):                                                                  "functions[0].name",
		chat(`"functions":[{"name":"f"}],"function_call":{"name":"g"}`):                           "function_call",
		chat(`"response_format":{"type":"xml"}`):                                                  "response_format",
		chat(`"response_format":{"type":"json_schema","json_schema":{"schema":[]}}`):              "response_format.json_schema.schema",
		chat(`"response_format":{"type":"json_object"},"grammar":"g"`):                            "response_format",
		chat(`"json_schema":{},"grammar":"g"`):                                                    "grammar",
		chat(`"json_schema":3`):                                                                   "json_schema",
		chat(`"chat_template_kwargs":3`):                                                          "chat_template_kwargs",
		chat(`"chat_template_kwargs":{"enable_thinking":"no"}`):                                   "chat_template_kwargs.enable_thinking",
		chat(`"reasoning_effort":"as much as anybody could possibly want to have"`):               "reasoning_effort",
		chat(`"modalities":["text","audio"]`):                                                     "modalities",
		message(`{"role":"bot","content":"x"}`):                                                   "messages[0].role",
		message(`{"role":"user","content":3}`):                                                    "messages[0].content",
		message(`{"role":"user","content":[{"type":"input_audio"}]}`):                             "messages[0].content[0]",
		message(`{"role":"user","content":[{"type":"image_url","image_url":{"url":"/a.png"}}]}`):  "messages[0].content[0].image_url",
		message(`{"role":"user","content":[{"type":"image_url"}]}`):                               "messages[0].content[0].image_url",
		message(`{"role":"system","content":[{"type":"image_url","image_url":"` + pixel + `"}]}`): "messages[0].content",
		message(`{"role":"assistant","tool_calls":[{"type":"custom"}]}`):                          "messages[0].tool_calls[0]",
	})
	refuses(t, "/v1/completions", map[string]string{
		`{"model":"c"}`: "prompt", `{"model":"c","prompt":[1]}`: "prompt", `{"model":"c","prompt":["a","b"]}`: "prompt",
		`{"model":"c","prompt":"a","echo":true}`: "echo", `{"model":"c","prompt":"a","suffix":"b"}`: "suffix",
		`{"model":"c","prompt":"a","best_of":2}`: "best_of",
	})
	refuses(t, "/v1/embeddings", map[string]string{
		`{}`: "model", `{"model":"c"}`: "input", `{"model":"c","input":[]}`: "input", `{"model":"c","input":[1,2]}`: "input",
		`{"model":"c","input":"a","dimensions":3}`: "dimensions", `{"model":"c","input":"a","encoding_format":"hex"}`: "encoding_format",
	})
	refuses(t, "/v1/rerank", map[string]string{
		`{}`: "model", `{"model":"c"}`: "query", `{"model":"c","query":"q"}`: "documents", `{"model":"c","query":"q","documents":"a"}`: "documents",
		`{"model":"c","query":"q","documents":[3]}`: "documents[0]", `{"model":"c","query":"q","documents":["a",{"title":"b"}]}`: "documents[1]",
		`{"model":"c","query":"q","documents":["a",null]}`: "documents[1]", `{"model":"c","query":"q","documents":["a"],"top_n":0}`: "top_n",
	})
}

// LO-417: documents by how well they fit, the best first, under both names.
func TestRerank(t *testing.T) {
	l := exchangetest.New()
	l.Answers(`{"scores":[-1,2.5,0.5,2.5]}`)
	url := serve(t, l)
	const body = `{"model":"r","query":"q","documents":["a",{"text":"b"},"c","d"]`
	require.JSONEq(t, `{"id":"rerank-t1","object":"list","model":"r","results":[{"index":1,"relevance_score":2.5},{"index":3,"relevance_score":2.5},
		{"index":2,"relevance_score":0.5},{"index":0,"relevance_score":-1}],"usage":{"prompt_tokens":3,"total_tokens":3}}`,
		exchangetest.Read(t, exchangetest.Post(t, url+"/v1/rerank", body+`}`).Body))
	q := l.Last()
	require.Equal(t, task.Rerank, q.Workload)
	require.Equal(t, "q", q.Prompt)
	require.Equal(t, []string{"a", "b", "c", "d"}, q.Inputs)
	require.Contains(t, exchangetest.Read(t, exchangetest.Post(t, url+"/v1/reranking", body+`,"top_n":1,"return_documents":true}`).Body),
		`"results":[{"index":1,"relevance_score":2.5,"document":{"text":"b"}}]`)
	require.Contains(t, exchangetest.Read(t, exchangetest.Post(t, url+"/v1/rerank", body+`,"top_n":9}`).Body), `{"index":0,`)
}

// LO-404: what every front's requests are refused for is told by the names that the client has for it.
func TestTheSharedCheckNamesTheClientsFields(t *testing.T) {
	const picture = `{"type":"image_url","image_url":"data:image/png;base64,aGk="}`
	chat := func(messages, more string) string { return `{"model":"c","messages":[` + messages + `]` + more + `}` }
	const system, user = `{"role":"user","content":"a"},{"role":"developer","content":"s"}`, `{"role":"user","content":"a"}`
	refuses(t, "/v1/chat/completions", map[string]string{
		chat(system+`,{"role":"tool","tool_call_id":"x","content":"r"}`, ""):                                              "messages[2].tool_call_id",
		chat(system+`,{"role":"tool","content":"r"}`, ""):                                                                 "messages[2].tool_call_id",
		chat(user+`,{"role":"assistant","tool_calls":[{"id":"c","function":{"name":"f"}},{"id":"d","function":{}}]}`, ""): "messages[1].tool_calls[1].function.name",
		chat(system+`,{"role":"user","content":[{"type":"text","text":"a"},`+picture+`]}`, ""):                            "messages[2].content[1]",
		chat(user, `,"grammar":" "`): "grammar",
		chat(user, `,"tools":[{"type":"web_search"},{"type":"function","function":{"name":"f"}},{"type":"function","function":{"name":"f"}}]`): "tools[2].function.name",
		chat(user, `,"functions":[{"name":"f"},{"name":"f"}]`):                                                                                 "functions[1].name",
		chat(user, `,"tools":[{"type":"function","function":{"name":"g"}},{"type":"function","function":{"name":"f"}},{"type":"function","function":{"name":"f"}}],
			"tool_choice":{"type":"allowed_tools","mode":"auto","tools":[{"type":"function","function":{"name":"f"}}]}`): "tools[2].function.name",
		chat(user, `,"max_completion_tokens":0`): "max_completion_tokens",
		chat(user, `,"temperature":99`):          "temperature",
	})
	response := func(input, more string) string {
		return `{"model":"c","instructions":"i","input":[` + input + `]` + more + `}`
	}
	refuses(t, "/v1/responses", map[string]string{
		response(user+`,{"type":"function_call_output","call_id":"x","output":"r"}`, ""):                             "input[1].call_id",
		response(user+`,{"type":"function_call","call_id":"x"}`, ""):                                                 "input[1].name",
		response(user+`,{"role":"user","content":[`+picture+`]}`, ""):                                                "input[1]",
		response(user, `,"tools":[{"type":"custom"},{"type":"function","name":"f"},{"type":"function","name":"f"}]`): "tools[2].name",
		response(user, `,"max_output_tokens":0.5`):                                                                   "max_output_tokens",
		response(user, `,"reasoning":{"effort":"very high"}`):                                                        "reasoning.effort",
	})
}
