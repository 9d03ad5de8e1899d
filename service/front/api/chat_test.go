// SPDX-License-Identifier: GPL-3.0-or-later

package api

import (
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/gen"
	"github.com/llama-orch/llama-orch/service/task"
)

// pixel is a PNG of one pixel, in base64.
const pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="

func (f *fixture) submitted(t *testing.T, body string) task.Request {
	t.Helper()
	var got task.Request
	f.tasks.submit = func(r task.Request) (task.Admission, error) {
		got = r
		return task.Admission{TaskID: "t1", PoolID: "p", Determinism: task.Strict}, nil
	}
	res := f.do("POST", "/v1/tasks", body)
	text, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusAccepted, res.StatusCode, "%s", text)
	return got
}

// LO-415
func TestAChatIsMapped(t *testing.T) {
	f := setup(t)
	got := f.submitted(t, `{"model_ref":"m","messages":[
			{"role":"system","content":[{"type":"text","text":"be "},{"type":"text","text":"brief"}]},
			{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"},{"type":"image","media_type":"image/png","data":"`+pixel+`"},{"type":"text","text":"c"}]},
			{"role":"assistant","content":null,"reasoning":"hm","tool_calls":[{"id":"c1","name":"look","arguments":"{}"}]},
			{"role":"tool","tool_call_id":"c1","content":""}],
		"tools":[{"name":"look","description":"looks","parameters":{"type" : "object", "b":1.0, "a":null}},{"name":"go","parameters":null}],
		"tool_choice":"look","parallel_tool_calls":false,"format":{"type":"json_schema","schema":{ "type":"object" },"grammar":null},
		"reasoning":{"split":true,"enabled":false,"effort":"low","budget":100.0},
		"logit_bias":{"20":-100,"3":1.5},"template_args":{"x": [1, null]}}`)
	data := ofBase64(t, pixel)
	off := false
	require.Equal(t, []task.Message{
		{Role: "system", Content: "be brief"},
		{Role: "user", Parts: []task.Part{{Text: "ab"}, {Image: &task.Image{MIME: "image/png", Data: data}}, {Text: "c"}}},
		{Role: "assistant", Reasoning: "hm", ToolCalls: []task.ToolCall{{ID: "c1", Name: "look", Arguments: "{}"}}},
		{Role: "tool", ToolCallID: "c1"},
	}, got.Messages)
	require.Equal(t, &task.Chat{
		Tools: []task.Tool{
			{Name: "look", Description: "looks", Parameters: json.RawMessage(`{"type":"object","b":1.0,"a":null}`)}, {Name: "go"},
		},
		ToolChoice: task.ChooseTool, ToolName: "look", ParallelCalls: &off,
		Format:    &task.Format{Kind: task.FormatJSON, Schema: json.RawMessage(`{"type":"object"}`)},
		Reasoning: task.Reasoning{Split: true, Enabled: &off, Effort: "low", Budget: 100},
		LogitBias: []task.Bias{{Token: 3, Bias: 1.5}, {Token: 20, Bias: -100}}, TemplateArgs: json.RawMessage(`{"x":[1,null]}`),
	}, got.Chat)

	for body, want := range map[string]*task.Chat{
		`"tool_choice":"auto"`:                               nil,
		`"tool_choice":"none"`:                               {ToolChoice: task.ChooseNone},
		`"tool_choice":"required"`:                           {ToolChoice: task.ChooseRequired},
		`"reasoning":{}`:                                     nil,
		`"logit_bias":{}`:                                    nil,
		`"logprobs":false`:                                   nil,
		`"logprobs":true`:                                    {Logprobs: &task.Logprobs{}},
		`"logprobs":true,"top_logprobs":20`:                  {Logprobs: &task.Logprobs{Top: 20}},
		`"format":{"type":"json_object"}`:                    {Format: &task.Format{Kind: task.FormatJSON}},
		`"format":{"type":"grammar","grammar":"root ::= x"}`: {Format: &task.Format{Kind: task.FormatGrammar, Grammar: "root ::= x"}},
	} {
		require.Equal(t, want, f.submitted(t, `{"model_ref":"m","messages":[{"role":"user","content":"x"}],`+body+`}`).Chat, body)
	}
}

func ofBase64(t *testing.T, text string) (data []byte) {
	require.NoError(t, json.Unmarshal([]byte(`"`+text+`"`), &data))
	return data
}

// LO-415, OC-CTRL-2030
func TestABadChatIsRefusedByTheNameOfTheField(t *testing.T) {
	f := setup(t)
	user := func(content string) string {
		return `{"model_ref":"m","messages":[{"role":"user","content":` + content + `}]}`
	}
	with := func(fields string) string {
		return `{"model_ref":"m","messages":[{"role":"user","content":"x"}],` + fields + `}`
	}
	for body, message := range map[string]string{
		`{"model_ref":"m","messages":[{"role":"user"}]}`:                                "`messages[0].content` is missing: give a text, or a list of parts",
		`{"model_ref":"m","messages":[{"role":"assistant","content":null}]}`:            "`messages[0].content` is missing",
		`{"model_ref":"m","messages":[{"role":"wizard","content":""}]}`:                 "`messages[0].role` must be one of system, user, assistant, tool",
		with(`"top_logprobs":2`):                                                        "`top_logprobs` is for `logprobs`",
		with(`"logprobs":false,"top_logprobs":0`):                                       "`top_logprobs` is for `logprobs`",
		with(`"logprobs":true,"top_logprobs":21`):                                       "`top_logprobs` must be",
		with(`"logprobs":true,"top_logprobs":-1`):                                       "`top_logprobs` must be",
		with(`"logprobs":1`):                                                            "`logprobs` must be",
		user(`7`):                                                                       "`messages[0].content` must be a string of at most 1073741824 characters, or a list of 1 to 1024 items, not 7",
		user(`[]`):                                                                      "`messages[0].content` must be a list of 1 to 1024 items, not 0 items",
		user(`["x"]`):                                                                   "`messages[0].content[0]` must be an object, not a string",
		user(`[{"text":"x"}]`):                                                          "`messages[0].content[0].type` is missing: give one of text, image",
		user(`[{"type":"audio"}]`):                                                      "`messages[0].content[0].type` must be one of text, image, not \"audio\"",
		user(`[{"type":"text"}]`):                                                       "`messages[0].content[0]` is a text: give it `text`",
		user(`[{"type":"image"}]`):                                                      "`messages[0].content[0]` is an image: give it `media_type` and `data`",
		user(`[{"type":"text","text":"x","image_url":{}}]`):                             `unknown field "messages[0].content[0].image_url"`,
		user(`[{"type":"text","text":"x","media_type":"image/png"}]`):                   "`messages[0].content[0]` is a text",
		user(`[{"type":"image","media_type":"image/png"}]`):                             "`messages[0].content[0]` is an image",
		user(`[{"type":"image","media_type":"image/png","data":""}]`):                   "`messages[0].content[0].data` must be a string of 1 to 1073741824 characters, not 0 characters",
		user(`[{"type":"image","media_type":"image/tiff","data":"AAAA"}]`):              "`messages[0].content[0].media_type` must be one of image/png, image/jpeg, image/webp, image/gif, not \"image/tiff\"",
		user(`[{"type":"image","media_type":"image/png","data":"not base64!"}]`):        "`messages[0].content[0]` is an image whose `data` is no base64",
		user(`[{"type":"image","media_type":"image/gif","data":"` + pixel + `"}]`):      "`messages[0].content[0]` is an image of the type image/png, and says that it is image/gif",
		`{"model_ref":"m","messages":[{"role":"assistant","tool_calls":[{"id":"a"}]}]}`: "`messages[0].tool_calls[0].name` is missing",
		with(`"tools":[]`):                                                              "`tools` must be a list of 1 to 1024 items",
		with(`"tools":[{"description":"x"}]`):                                           "`tools[0].name` is missing: give a string of 1 to 256 characters",
		with(`"tools":[{"name":""}]`):                                                   "`tools[0].name` must be a string of 1 to 256 characters, not 0 characters",
		with(`"tools":[{"type":"function","function":{}}]`):                             `unknown field "tools[0].function": known are description, name, parameters`,
		with(`"tool_choice":{"type":"function"}`):                                       "`tool_choice` must be a string of 1 to 256 characters, not an object",
		with(`"format":{"type":"json_schema"}`):                                         "`format.schema` is for `format.type` json_schema, which needs it",
		with(`"format":{"type":"json_object","schema":{}}`):                             "`format.schema` is for `format.type` json_schema",
		with(`"format":{"type":"grammar"}`):                                             "`format.grammar` is for `format.type` grammar, which needs it",
		with(`"format":{"type":"grammar","grammar":""}`):                                "`format.grammar` must be a string of 1 to 1048576 characters",
		with(`"format":{"type":"json_object","grammar":"x"}`):                           "`format.grammar` is for `format.type` grammar",
		with(`"format":{"type":"xml"}`):                                                 "`format.type` must be one of json_object, json_schema, grammar, not \"xml\"",
		with(`"reasoning":{"budget":0}`):                                                "`reasoning.budget` must be an integer from 1 to 10000000, not 0",
		with(`"reasoning":{"effort":"very much"}`):                                      "`reasoning.effort` must be a string that matches",
		with(`"logit_bias":{"x":1}`):                                                    "`logit_bias` is by the ids of tokens, such as \"1734\", and \"x\" is none",
		with(`"logit_bias":{"01":1}`):                                                   "and \"01\" is none",
		with(`"logit_bias":{"1":101}`):                                                  "`logit_bias.1` must be a number from -100 to 100, not 101",
		with(`"logit_bias":{"1":"x"}`):                                                  "`logit_bias.1` must be a number from -100 to 100, not a string",
		with(`"logit_bias":[]`):                                                         "`logit_bias` must be an object, not a list",
	} {
		t.Run(task.Clip(body, 80), func(t *testing.T) {
			f.tasks.rejected = nil
			e := envelope(t, f.do("POST", "/v1/tasks", body))
			require.Equal(t, gen.ErrorCodeINVALIDPARAMS, e.Code)
			require.Contains(t, e.Message, message)
			require.Equal(t, []task.Code{task.InvalidParams}, f.tasks.rejected, "it counts once")
		})
	}
}

// LO-416
func TestTheEndOfAChatIsShown(t *testing.T) {
	f := setup(t)
	f.tasks.status = task.Status{
		ID: "t1", State: task.Completed, PoolID: "default", Engine: "llamacpp", Workload: task.Completion, Priority: task.Batch, ModelRef: "haiku", Determinism: task.Strict,
		End: &task.End{
			FinishReason: task.FinishToolCalls, ToolCalls: []task.ToolCall{{ID: "c", Name: "look", Arguments: `{"a":1}`}},
			Receipt: task.Receipt{Determinism: task.Strict, TranscriptForm: task.FormParts},
		},
	}
	show := func() gen.TaskStatus {
		body, err := io.ReadAll(f.do("GET", "/v1/tasks/t1", "").Body)
		require.NoError(t, err)
		var s gen.TaskStatus
		require.NoError(t, s.UnmarshalJSON(body), "%s", body)
		require.NoError(t, s.Validate())
		return s
	}
	end := show().End.Value
	require.Equal(t, gen.EndEventFinishReasonToolCalls, end.FinishReason)
	require.Equal(t, []gen.ToolCall{{ID: "c", Name: "look", Arguments: `{"a":1}`}}, end.ToolCalls)
	require.Equal(t, gen.ReceiptTranscriptFormParts, end.Receipt.TranscriptForm.Value)

	f.tasks.status.End = &task.End{FinishReason: task.FinishStop, Receipt: task.Receipt{Determinism: task.Strict}}
	end = show().End.Value
	require.Nil(t, end.ToolCalls)
	require.Equal(t, gen.ReceiptTranscriptFormText, end.Receipt.TranscriptForm.Value, "which is what an earlier version recorded")
}

// LO-415
func TestAPoolShowsWhatChatsMayAskOfIt(t *testing.T) {
	f := setup(t)
	all := []task.Feature{
		task.FeatureTools, task.FeatureFormats, task.FeatureGrammars, task.FeatureImages, task.FeatureReasoning, task.FeatureArguments, task.FeatureBias,
	}
	f.pools.features = all
	body, err := io.ReadAll(f.do("GET", "/v1/pools", "").Body)
	require.NoError(t, err)
	var list gen.PoolList
	require.NoError(t, list.UnmarshalJSON(body))
	require.NoError(t, list.Validate(), "the contract knows all of them")
	require.Len(t, list.Pools[0].Features, len(all))
	require.True(t, slices.IsSorted(list.Pools[0].Features))

	body, err = io.ReadAll(f.do("GET", "/v1/capabilities", "").Body)
	require.NoError(t, err)
	var c gen.Capabilities
	require.NoError(t, c.UnmarshalJSON(body))
	require.NoError(t, c.Validate())
	require.Len(t, c.Pools[0].Features, len(all))
}
