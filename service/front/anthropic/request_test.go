// SPDX-License-Identifier: GPL-3.0-or-later

package anthropic

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/flow/admission"
	"github.com/llama-orch/llama-orch/service/front/exchange/exchangetest"
	"github.com/llama-orch/llama-orch/service/front/lenient"
	"github.com/llama-orch/llama-orch/service/task"
)

// read reads a body as the front does.
func read(body string) (task.Request, error) {
	var in messageRequest
	if _, err := lenient.Decode(httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body)), &in); err != nil {
		return task.Request{}, err
	}
	return in.request()
}

// refusal is what a body is refused with, by the front or by what all fronts' requests are checked for.
func refusal(body string) error {
	var in messageRequest
	if _, err := lenient.Decode(httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body)), &in); err != nil {
		return err
	}
	q, err := in.request()
	switch {
	case err != nil:
		return err
	case len(q.Unfit) > 0:
		return q.Unfit[0].Err
	}
	return in.names.Err(admission.Check(q, admission.Limits{PromptBytes: 1 << 20, Inputs: 100}))
}

func say(more string) string { return `{` + hello + `,` + more + `}` }

func messages(m string) string { return `{"model":"coder","messages":[` + m + `]}` }

// LO-403, LO-421: what the messages become.
func TestWhatMessagesBecome(t *testing.T) {
	png := &task.Image{MIME: "image/png", Data: []byte("hi")}
	const image = `{"type":"image","source":{"type":"base64","media_type":"image/png","data":"aGk="},"cache_control":{"type":"ephemeral"}}`
	for body, want := range map[string][]task.Message{
		messages(`{"role":"user","content":"a"}`): {{Role: "user", Content: "a"}},
		messages(`{"role":"user","content":[{"type":"text","text":"a","cache_control":{"type":"ephemeral"}},{"type":"text","text":"b"}]}`): {{Role: "user", Content: "a\n\nb"}},
		messages(`{"role":"user","content":null}`): {{Role: "user"}},
		`{"model":"coder","system":"s","messages":[{"role":"user","content":"a"},{"role":"system","content":[{"type":"text","text":"t"}]},{"role":"user","content":"b"}]}`: {
			{Role: "system", Content: "s\n\nt"}, {Role: "user", Content: "a"}, {Role: "user", Content: "b"},
		},
		`{"model":"coder","system":[{"type":"text","text":"x-anthropic-billing-header: cc_version=2.1.332.1c9;"},{"type":"text","text":"s","citations":null},{"type":"text","text":"t"}],"messages":[{"role":"user","content":"a"}]}`: {
			{Role: "system", Content: "s\n\nt"}, {Role: "user", Content: "a"},
		},
		`{"model":"coder","system":"","messages":[{"role":"user","content":"a"}]}`: {{Role: "user", Content: "a"}},
		messages(`{"role":"user","content":[{"type":"text","text":"look"},` + image + `]}`): {
			{Role: "user", Parts: []task.Part{{Text: "look"}, {Image: png}}},
		},
		messages(`{"role":"assistant","content":[{"type":"thinking","thinking":"hm","signature":"llama-orch-t0"},{"type":"redacted_thinking","data":"x"},
			{"type":"text","text":"a"},{"type":"tool_use","id":"c1","name":"f","input":{ "x": 1 },"caller":{"type":"direct"}},{"type":"tool_use","id":"c2","name":"g"},{"type":"text","text":"b"}]}`): {
			{Role: "assistant", Content: "ab", Reasoning: "hm", ToolCalls: []task.ToolCall{{ID: "c1", Name: "f", Arguments: `{"x":1}`}, {ID: "c2", Name: "g", Arguments: `{}`}}},
		},
		messages(`{"role":"user","content":[{"type":"text","text":"and"},{"type":"tool_result","tool_use_id":"c1","content":"one"},
			{"type":"tool_result","tool_use_id":"c2","content":[{"type":"text","text":"two"},{"type":"text","text":"lines"}],"is_error":true},
			{"type":"tool_result","tool_use_id":"c3"},{"type":"tool_result","tool_use_id":"c4","is_error":true,"content":[` + image + `]},
			{"type":"tool_result","tool_use_id":"c5","content":[{"type":"tool_reference","tool_name":"g"}]}]}`): {
			{Role: "tool", ToolCallID: "c1", Content: "one"},
			{Role: "tool", ToolCallID: "c2", Content: "Error: two\n\nlines"},
			{Role: "tool", ToolCallID: "c3"},
			{Role: "tool", ToolCallID: "c4", Parts: []task.Part{{Text: "Error: "}, {Image: png}}},
			{Role: "tool", ToolCallID: "c5", Content: "g"},
			{Role: "user", Content: "and"},
		},
		messages(`{"role":"user","content":[{"type":"tool_result","tool_use_id":"c1","content":"one"}]}`): {{Role: "tool", ToolCallID: "c1", Content: "one"}},
		messages(`{"role":"user","content":[{"type":"document","title":"T","source":{"type":"text","media_type":"text/plain","data":"d"}},
			{"type":"document","source":{"type":"content","content":[{"type":"text","text":"e"}]}},{"type":"document","title":null,"source":{"type":"content","content":"f"}}]}`): {
			{Role: "user", Content: "T\n\nd\n\ne\n\nf"},
		},
	} {
		q, err := read(body)
		require.NoError(t, err, body)
		require.Equal(t, want, q.Messages, body)
	}
}

// LO-403, LO-421: what the other fields become.
func TestWhatARequestBecomes(t *testing.T) {
	yes, no := true, false
	for more, check := range map[string]func(task.Request){
		`"metadata":{"user_id":"{\"device_id\":\"x\"}"},"context_management":{"edits":[]},"service_tier":"auto","betas":["x"],"unknown":{"x":[1]},"stop_sequences":null,"temperature":null,"tools":null,"tool_choice":null,"thinking":null,"output_config":null`: func(q task.Request) {
			require.Equal(t, "coder", q.ModelRef)
			require.Equal(t, 32000, q.MaxTokens)
			require.True(t, q.AtMost)
			require.Equal(t, &task.Chat{Reasoning: task.Reasoning{Split: true}}, q.Chat)
		},
		`"stop_sequences":["x","y"],"temperature":0,"top_p":0.5,"top_k":5`: func(q task.Request) {
			require.Equal(t, []string{"x", "y"}, q.Params.Stop)
			require.Zero(t, *q.Params.Temperature)
			require.InDelta(t, 0.5, *q.Params.TopP, 0)
			require.Equal(t, 5, *q.Params.TopK)
		},
		`"tools":[{"name":"f","description":"does","input_schema":{"$schema":"x","type":"object"},"strict":true,"defer_loading":true,"eager_input_streaming":true,"cache_control":{"type":"ephemeral"}},
			{"type":"web_search_20250305","name":"web_search","max_uses":8},{"type":"custom","name":"g"},{"type":"mcp_toolset","mcp_server_name":"x"}],
			"tool_choice":{"type":"auto","disable_parallel_tool_use":true}`: func(q task.Request) {
			require.Equal(t, []task.Tool{{Name: "f", Description: "does", Parameters: json.RawMessage(`{"$schema":"x","type":"object"}`)}, {Name: "g"}}, q.Chat.Tools)
			require.Equal(t, task.ChooseAuto, q.Chat.ToolChoice)
			require.Equal(t, &no, q.Chat.ParallelCalls)
		},
		`"tools":[{"name":"f"}],"tool_choice":{"type":"any","disable_parallel_tool_use":false}`: func(q task.Request) {
			require.Equal(t, task.ChooseRequired, q.Chat.ToolChoice)
			require.Equal(t, &yes, q.Chat.ParallelCalls)
		},
		`"tools":[{"name":"f"},{"name":"g"}],"tool_choice":{"type":"tool","name":"g"}`: func(q task.Request) {
			require.Equal(t, task.ChooseTool, q.Chat.ToolChoice)
			require.Equal(t, "g", q.Chat.ToolName)
		},
		`"tools":[{"name":"f"}],"tool_choice":{"type":"none"}`:         func(q task.Request) { require.Equal(t, task.ChooseNone, q.Chat.ToolChoice) },
		`"tools":[{"type":"web_search_20250305","name":"web_search"}]`: func(q task.Request) { require.Empty(t, q.Chat.Tools) },
		`"thinking":{"type":"adaptive"},"output_config":{"effort":"low"}`: func(q task.Request) {
			require.Equal(t, task.Reasoning{Split: true, Enabled: &yes, Effort: "low"}, q.Chat.Reasoning)
		},
		`"thinking":{"type":"enabled","budget_tokens":2048},"output_config":{"effort":"max"}`: func(q task.Request) {
			require.Equal(t, task.Reasoning{Split: true, Enabled: &yes, Budget: 2048, Effort: "high"}, q.Chat.Reasoning)
		},
		`"thinking":{"type":"disabled"},"output_config":{"effort":null}`: func(q task.Request) { require.Equal(t, task.Reasoning{Split: true, Enabled: &no}, q.Chat.Reasoning) },
		`"output_config":{"format":{"type":"json_schema","schema":{"type":"object"}}}`: func(q task.Request) {
			require.Equal(t, &task.Format{Kind: task.FormatJSON, Schema: json.RawMessage(`{"type":"object"}`)}, q.Chat.Format)
		},
		`"output_format":{"type":"json_schema","schema":{"type":"object"}},"output_config":{}`: func(q task.Request) { require.NotNil(t, q.Chat.Format) },
		`"output_format":null,"output_config":{"format":null}`:                                 func(q task.Request) { require.Nil(t, q.Chat.Format) },
	} {
		q, err := read(say(more))
		require.NoError(t, err, more)
		check(q)
	}
}

// A conversation that the server is to keep is refused with what makes the SDK send all of it; an absent thread is none.
//
// LO-404, LO-421
func TestAThreadIsRefused(t *testing.T) {
	var r messageRequest
	require.NoError(t, json.Unmarshal([]byte(say(`"thread":null`)), &r))
	_, err := r.request()
	require.NoError(t, err)
	for _, thread := range []string{`{"type":"create"}`, `{"type":"continue","previous_message_id":"msg_1"}`, `"x"`} {
		require.NoError(t, json.Unmarshal([]byte(say(`"thread":`+thread)), &r))
		_, err = r.request()
		require.Error(t, err)
		data, err := json.Marshal(errorOf(err, "r1"))
		require.NoError(t, err)
		require.JSONEq(t, `{"type":"error","error":{"type":"invalid_request_error",
			"message":"`+"`thread`"+`: no conversation is kept here: leave it out, and send all of the messages","details":{"error_code":"thread_unsupported_request"}},"request_id":"r1"}`, string(data))
	}
}

// LO-403, LO-404: what is refused, and by which name.
func TestRefusals(t *testing.T) {
	user := func(blocks string) string { return messages(`{"role":"user","content":[` + blocks + `]}`) }
	model := func(blocks string) string { return messages(`{"role":"assistant","content":[` + blocks + `]}`) }
	l := exchangetest.New()
	l.Checks = true
	url := serve(t, l) + path
	for body, param := range map[string]string{
		``:                  "",
		`{`:                 "",
		`[]`:                "",
		`{"messages":[]}`:   "model",
		`{"model":"coder"}`: "messages",
		messages(`{"role":"system","content":""}`):                                                             "messages",
		`{"model":"coder","messages":"hi"}`:                                                                    "messages",
		`{"model":"coder","messages":[{"role":"user","content":"x"}],"system":3}`:                              "system",
		`{"model":"coder","messages":[{"role":"user","content":"x"}],"system":[{"type":"image","source":{}}]}`: "system[0].type",
		say(`"thread":{"type":"continue","previous_message_id":"msg_1"}`):                                      "thread",
		say(`"temperature":"hot"`):                                                                             "temperature",
		say(`"temperature":9`):                                                                                 "temperature",
		say(`"top_p":-1`):                                                                                      "top_p",
		say(`"top_k":1.5`):                                                                                     "top_k",
		say(`"max_tokens":0`):                                                                                  "max_tokens",
		say(`"max_tokens":1e400`):                                                                              "max_tokens",
		say(`"stop_sequences":[1]`):                                                                            "stop_sequences",
		say(`"stop_sequences":["",1]`):                                                                         "stop_sequences",
		say(`"stop_sequences":[""]`):                                                                           "stop_sequences",
		say(`"stop_sequences":["` + strings.Repeat(`x","`, 16) + `x"]`):                                        "stop_sequences",
		say(`"tools":[{}]`):                                                                                    "tools[0].name",
		say(`"tools":[{"name":"f","input_schema":[]}]`):                                                        "tools[0].input_schema",
		say(`"tool_choice":{"type":"any"}`):                                                                    "tool_choice",
		say(`"tools":[{"type":"web_search_20250305","name":"web_search"}],"tool_choice":{"type":"any"}`):                                   "tool_choice",
		say(`"tools":[{"type":"web_search_20250305","name":"web_search"},{"name":"f"}],"tool_choice":{"type":"tool","name":"web_search"}`): "tool_choice.name",
		say(`"tools":[{"name":"f"}],"tool_choice":{"type":"tool","name":"g"}`):                                                             "tool_choice.name",
		say(`"tools":[{"name":"f"}],"tool_choice":{"type":"some"}`):                                                                        "tool_choice.type",
		say(`"thinking":{"type":"deep"}`):                                   "thinking.type",
		say(`"thinking":{"type":"enabled","budget_tokens":-1}`):             "thinking.budget_tokens",
		say(`"output_config":{"effort":"` + strings.Repeat("x", 33) + `"}`): "output_config.effort",
		say(`"output_config":{"format":{"type":"xml"}}`):                    "output_config.format",
		say(`"output_config":{"format":{"type":"json_schema"}}`):            "output_config.format.schema",
		say(`"output_format":{"type":"json_schema","schema":3}`):            "output_format.schema",
		messages(`{"role":"bot","content":"x"}`):                            "messages[0].role",
		messages(`{"role":"user","content":3}`):                             "messages[0].content",
		messages(`{"role":"user","content":[3]}`):                           "messages[0].content",
		messages(`{"role":"system","content":[{"type":"thinking"}]}`):       "messages[0].content[0].type",
		user(`{}`):                         "messages[0].content[0].type",
		user(`{"type":"server_tool_use"}`): "messages[0].content[0]",
		user(`{"type":"tool_use","id":"c","name":"f"}`):                                                                     "messages[0].content[0].type",
		user(`{"type":"thinking","thinking":"x"}`):                                                                          "messages[0].content[0].type",
		user(`{"type":"image"}`):                                                                                            "messages[0].content[0].source",
		user(`{"type":"image","source":"x"}`):                                                                               "messages[0].content[0].source",
		user(`{"type":"image","source":{"type":"url","url":"http://127.0.0.1/a.png"}}`):                                     "messages[0].content[0].source",
		user(`{"type":"image","source":{"type":"file","file_id":"x"}}`):                                                     "messages[0].content[0].source",
		user(`{"type":"image","source":{"type":"base64","media_type":"image/png","data":"%%"}}`):                            "messages[0].content[0].source",
		user(`{"type":"image","source":{"type":"base64","media_type":"text/html","data":"aGk="}}`):                          "messages[0].content[0].source",
		user(`{"type":"document","source":{"type":"base64","media_type":"application/pdf","data":"aGk="}}`):                 "messages[0].content[0].source",
		user(`{"type":"document","source":{"type":"content","content":[{"type":"document","source":{"type":"content"}}]}}`): "messages[0].content[0].source.content[0].type",
		user(`{"type":"tool_result","content":"x"}`):                                                                        "messages[0].content[0].tool_use_id",
		user(`{"type":"tool_result","tool_use_id":"c","content":3}`):                                                        "messages[0].content[0].content",
		user(`{"type":"tool_result","tool_use_id":"c","content":[{"type":"tool_result","tool_use_id":"c"}]}`):               "messages[0].content[0].content[0].type",
		model(`{"type":"tool_use","name":"f"}`):                                                                             "messages[0].content[0].id",
		model(`{"type":"tool_use","id":"c"}`):                                                                               "messages[0].content[0].name",
		model(`{"type":"tool_use","id":"c","name":"f","input":"x"}`):                                                        "messages[0].content[0].input",
		model(`{"type":"tool_result","tool_use_id":"c"}`):                                                                   "messages[0].content[0].type",
		// What every front's requests are refused for.
		user(`{"type":"tool_result","tool_use_id":"c","content":"x"},{"type":"text","text":"a"}`):                                                      "messages[0].content",
		user(`{"type":"text","text":"a"},{"type":"image","source":{"type":"base64","media_type":"image/png","data":"aGk="}}`):                          "messages[0].content",
		messages(`{"role":"system","content":"s"},{"role":"user","content":"a"},{"role":"user","content":[{"type":"tool_result","tool_use_id":"c"}]}`): "messages[2].content",
		say(`"tools":[{"type":"bash_20250124","name":"bash"},{"name":"f"},{"name":"f"}]`):                                                              "tools[2].name",
	} {
		err := refusal(body)
		require.True(t, task.HasCode(err, task.InvalidParams), "%s: %v", body, err)
		if param != "" {
			wrong, ok := errors.AsType[*lenient.ParamError](err)
			require.True(t, ok, "%s: %v", body, err)
			require.Equal(t, param, wrong.Param, body)
		}
		res := exchangetest.Post(t, url, body)
		require.Equal(t, http.StatusBadRequest, res.StatusCode, body)
		require.Contains(t, exchangetest.Read(t, res.Body), `"type":"invalid_request_error"`)
	}
	require.Empty(t, l.Requests())
}

// LO-404: no body makes the decoder fail in a way of its own.
func FuzzDecode(f *testing.F) {
	f.Add(say(`"stop_sequences":["a"],"tools":[{"name":"f","input_schema":{}}],"tool_choice":{"type":"any"},"thinking":{"type":"enabled","budget_tokens":9}`))
	f.Add(messages(`{"role":"user","content":[{"type":"tool_result","tool_use_id":"c","is_error":true,"content":[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"aGk="}}]}]}`))
	f.Add(messages(`{"role":"assistant","content":[{"type":"tool_use","id":"c","name":"f","input":{"x":[1,2]}},{"type":"thinking","thinking":"x"}]}`))
	f.Add(messages(`{"role":"user","content":[{"type":"document","source":{"type":"content","content":[{"type":"text","text":"x"}]}}]}`))
	f.Fuzz(func(t *testing.T, body string) {
		q, err := read(body)
		if err != nil {
			require.True(t, task.HasCode(err, task.InvalidParams), "%v", err)
			return
		}
		require.NotEmpty(t, q.Messages)
		for _, m := range q.Messages {
			for _, c := range m.ToolCalls {
				require.True(t, json.Valid([]byte(c.Arguments)))
			}
		}
	})
}

// LO-421: whatever the arguments of a call are, its input is a JSON object.
func FuzzInput(f *testing.F) {
	for _, arguments := range []string{`{"a":1}`, `{"a`, "", "null", "[1]", "{}x", "\xff", " {\"a\":\n1} "} {
		f.Add(arguments)
	}
	f.Fuzz(func(t *testing.T, arguments string) {
		var object map[string]json.RawMessage
		require.NoError(t, json.Unmarshal(input(arguments), &object))
	})
}
