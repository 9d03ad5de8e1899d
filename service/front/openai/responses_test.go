// SPDX-License-Identifier: GPL-3.0-or-later

package openai

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/front/exchange"
	"github.com/llama-orch/llama-orch/service/front/exchange/exchangetest"
	"github.com/llama-orch/llama-orch/service/task"
)

const ask = `"model":"coder","input":"hi"`

// event is one of a response's stream.
type event struct {
	Type     string `json:"type"`
	Item     string `json:"item_id"`
	Output   int    `json:"output_index"`
	Delta    string `json:"delta"`
	Response view1  `json:"response"`
}

type view1 struct {
	ID     string
	Status string
	Error  *struct{ Code, Message string }
	Output []struct {
		ID, Type, Status, Arguments, Name string
		CallID                            string `json:"call_id"`
		Content                           []struct{ Type, Text string }
	}
	IncompleteDetails *struct{ Reason string } `json:"incomplete_details"`
	Usage             *struct {
		Input int `json:"input_tokens"`
		Total int `json:"total_tokens"`
	}
}

// events are those of a stream. Their form is checked by TestMain.
func events(t *testing.T, body string) (all []event) {
	for line := range strings.SplitSeq(body, "\n") {
		if data, ok := strings.CutPrefix(line, "data: "); ok {
			var e event
			require.NoError(t, json.Unmarshal([]byte(data), &e), data)
			all = append(all, e)
		}
	}
	return all
}

func types(all []event) (names []string) {
	for _, e := range all {
		names = append(names, strings.TrimPrefix(e.Type, "response."))
	}
	return names
}

// LO-402, LO-418: a text, streamed, with the whole set of events, and the receipt behind it.
func TestAResponseIsStreamed(t *testing.T) {
	l := exchangetest.New()
	l.Says(t, exchangetest.Text("a \"b\"\n"), exchangetest.Text("蛙"))
	l.Ends(task.FinishStop)
	res := exchangetest.Post(t, serve(t, l)+"/v1/responses", `{`+ask+`,"stream":true}`)
	require.Equal(t, http.StatusOK, res.StatusCode)
	require.Equal(t, "text/event-stream; charset=utf-8", res.Header.Get("Content-Type"))
	body := exchangetest.Read(t, res.Body)
	all := events(t, body)
	require.Equal(t, []string{
		"created", "in_progress", "output_item.added", "content_part.added", "output_text.delta", "output_text.delta",
		"output_text.done", "content_part.done", "output_item.done", "completed",
	}, types(all))
	require.Contains(t, body, "event: response.output_text.delta\n"+
		`data: {"type":"response.output_text.delta","item_id":"msg_t1_0","output_index":0,"content_index":0,"delta":"a \"b\"\n","logprobs":[],"sequence_number":4}`+"\n\n")
	require.True(t, strings.HasSuffix(body, "}\n\n: receipt Seed=7 Determinism=strict Fingerprint=fp-1\n\n"))
	last := all[len(all)-1].Response
	require.Equal(t, "resp_t1", last.ID)
	require.Equal(t, "completed", last.Status)
	require.Equal(t, "a \"b\"\n蛙", last.Output[0].Content[0].Text)
	require.Equal(t, 7, last.Usage.Total)
	require.Zero(t, l.Cancels())
}

// LO-418: thinking, text and calls are items; a response as a whole has the same.
func TestItems(t *testing.T) {
	l := exchangetest.New()
	l.Says(t, exchangetest.Reasoning("hm"), exchangetest.Reasoning("m"), exchangetest.Text("now"), exchangetest.Call(0, "call_1", "f", ""),
		exchangetest.Call(0, "", "", `{"a"`), exchangetest.Call(1, "call_2", "g", `{}`), exchangetest.Call(0, "", "", `:1}`), exchangetest.Text("then"))
	l.Ends(task.FinishToolCalls)
	url := serve(t, l) + "/v1/responses"
	const tools = `,"tools":[{"type":"function","name":"f","parameters":{"type":"object"}},{"type":"namespace","name":"n","tools":[]},{"type":"function","name":"g"}]`
	all := events(t, exchangetest.Read(t, exchangetest.Post(t, url, `{`+ask+tools+`,"stream":true}`).Body))
	require.Equal(t, []string{
		"created", "in_progress",
		"output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.delta", "reasoning_text.done", "content_part.done", "output_item.done",
		"output_item.added", "content_part.added", "output_text.delta", "output_text.done", "content_part.done", "output_item.done",
		"output_item.added", "function_call_arguments.delta",
		"output_item.added", "function_call_arguments.delta", "function_call_arguments.delta",
		"output_item.added", "content_part.added", "output_text.delta",
		"function_call_arguments.done", "output_item.done", "function_call_arguments.done", "output_item.done",
		"output_text.done", "content_part.done", "output_item.done", "completed",
	}, types(all))
	said := map[string]string{}
	for _, e := range all {
		said[e.Item] += e.Delta
	}
	delete(said, "")
	require.Equal(t, map[string]string{"rs_t1_0": "hmm", "msg_t1_1": "now", "fc_t1_2": `{"a":1}`, "fc_t1_3": "{}", "msg_t1_4": "then"}, said)
	body := exchangetest.Read(t, exchangetest.Post(t, url, `{`+ask+tools+`}`).Body)
	var whole view1
	require.NoError(t, json.Unmarshal([]byte(body), &whole))
	require.Equal(t, all[len(all)-1].Response, whole)
	require.Equal(t, "function_call", whole.Output[2].Type)
	require.Equal(t, "call_1", whole.Output[2].CallID)
	require.Equal(t, `{"a":1}`, whole.Output[2].Arguments)
	require.Contains(t, body, `"tools":[{"type":"function","name":"f","parameters":{"type":"object"},"strict":false},{"type":"function","name":"g","parameters":{},"strict":false}]`)
}

// LO-418: an answer that was cut is incomplete, with a call that is no JSON too; an empty one has a message. A whole one has the receipt in its headers.
func TestHowResponsesEnd(t *testing.T) {
	for _, c := range []struct {
		pieces         []task.Piece
		why            task.FinishReason
		status, reason string
		items          []string // their types and statuses
	}{
		{nil, task.FinishStop, "completed", "", []string{"message completed"}},
		{nil, task.FinishLength, "incomplete", "max_output_tokens", []string{"message incomplete"}},
		{[]task.Piece{exchangetest.Text("a"), exchangetest.Call(0, "c", "f", `{"a`)}, task.FinishLength, "incomplete", "max_output_tokens", []string{"message completed", "function_call incomplete"}},
		{[]task.Piece{exchangetest.Reasoning("a")}, task.FinishLength, "incomplete", "max_output_tokens", []string{"reasoning incomplete"}},
	} {
		l := exchangetest.New()
		l.Says(t, c.pieces...)
		l.Ends(c.why)
		url := serve(t, l) + "/v1/responses"
		res := exchangetest.Post(t, url, `{"model":"coder","input":"","max_output_tokens":1}`)
		require.Equal(t, "fp-1", res.Header.Get("X-Receipt-Fingerprint"))
		require.NotEmpty(t, res.Header.Get("Openai-Processing-Ms"))
		var whole view1
		require.NoError(t, json.NewDecoder(res.Body).Decode(&whole))
		require.Equal(t, c.status, whole.Status)
		require.Equal(t, c.reason != "", whole.IncompleteDetails != nil)
		if c.reason != "" {
			require.Equal(t, c.reason, whole.IncompleteDetails.Reason)
		}
		var items []string
		for _, i := range whole.Output {
			items = append(items, i.Type+" "+i.Status)
		}
		require.Equal(t, c.items, items)
		all := events(t, exchangetest.Read(t, exchangetest.Post(t, url, `{"model":"coder","input":"","stream":true}`).Body))
		require.Equal(t, whole, all[len(all)-1].Response)
		require.Equal(t, "response."+c.status, all[len(all)-1].Type)
	}
}

// LO-404, LO-407, LO-418: a response that fails behind its head says so in the dialect's words, and then the stream breaks.
func TestAResponseThatFails(t *testing.T) {
	for _, c := range []struct {
		err        *task.Error
		code, says string
	}{
		{task.Errorf(task.WorkerReset, "the worker is gone").Retry(0), "server_error", "overloaded: the worker is gone"},
		{task.Errorf(task.RateLimited, "slow down"), "rate_limit_exceeded", "slow down"},
		{task.Errorf(task.InvalidParams, "x"), "invalid_prompt", "x"},
		{task.Errorf(task.InvalidParams, "x").Because(&task.TooLongError{Tokens: 9, Ctx: 8}), "context_length_exceeded", "prompt is too long: 9 tokens > 8 maximum"},
	} {
		l := exchangetest.New()
		l.Says(t, exchangetest.Text("a"))
		res := exchangetest.Post(t, serve(t, l)+"/v1/responses", `{`+ask+`,"stream":true}`)
		in := bufio.NewReader(res.Body)
		for line := ""; !strings.Contains(line, `"delta":"a"`); {
			var err error
			line, err = in.ReadString('\n')
			require.NoError(t, err)
		}
		l.Fails(c.err)
		rest, err := io.ReadAll(in)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		all := events(t, string(rest))
		require.Equal(t, []string{"failed"}, types(all))
		got := all[0].Response
		require.Equal(t, "failed", got.Status)
		require.Equal(t, c.code, got.Error.Code)
		require.Contains(t, got.Error.Message, c.says)
		require.Equal(t, "incomplete", got.Output[0].Status)
	}
	l := exchangetest.New()
	l.Refusal = task.Errorf(task.InvalidParams, "x").Because(&task.TooLongError{Tokens: 9, Ctx: 8})
	got := exchangetest.Read(t, exchangetest.Post(t, serve(t, l)+"/v1/responses", `{`+ask+`}`).Body)
	require.Contains(t, got, `"param":"input","code":"context_length_exceeded"`)
}

// LO-406, LO-418: while a task waits, a client has the first events, and gets comments and events.
func TestWhatAWaitingResponseGets(t *testing.T) {
	l := exchangetest.New()
	url := serve(t, l, func(o *exchange.Options) { o.Hold = time.Millisecond }) + "/v1/responses"
	res := exchangetest.Post(t, url, `{`+ask+`,"stream":true}`)
	in := bufio.NewReader(res.Body)
	for line := ""; !strings.Contains(line, "response.in_progress"); {
		var err error
		line, err = in.ReadString('\n')
		require.NoError(t, err)
	}
	l.Says(t, exchangetest.Text("a"))
	l.Ends(task.FinishStop)
	require.Contains(t, exchangetest.Read(t, in), `"delta":"a"`)

	d := responseSSE{events: newResponseEvents(&response{}, false)}
	waits := task.Metrics{Phase: task.PhaseQueued, QueuePosition: 2, PredictedStartMS: 50}
	require.Equal(t, "event: keepalive\ndata: {\"type\":\"keepalive\",\"sequence_number\":0}\n\n", string(d.KeepAlive(nil)))
	var got []byte
	for range 3 {
		var err error
		got, err = d.Metrics(got, waits)
		require.NoError(t, err)
	}
	require.Equal(t, 3, strings.Count(string(got), ": queued queue_position=2 predicted_start_ms=50\n\n"))
	require.Equal(t, 2, strings.Count(string(got), "event: keepalive"))
	require.Equal(t, 2, strings.Count(string(got), `"sequence_number":0}`), "it has no number of its own")
	d.events.next = 5
	require.Contains(t, string(d.KeepAlive(nil)), `"sequence_number":4}`)
	d.events.after = 9
	require.Contains(t, string(d.KeepAlive(nil)), `"sequence_number":9}`, "which the client has")
	got, err := d.Metrics(nil, task.Metrics{Phase: task.PhaseDecode})
	require.NoError(t, err)
	require.Empty(t, got)
}

// LO-403, LO-418: what the input of a response becomes: what a model said in one go is one message.
func TestWhatInputBecomes(t *testing.T) {
	becomes(t, "/v1/responses", map[string]func(task.Request){
		`{"model":"coder","input":"","max_output_tokens":1}`: func(q task.Request) { // how clients load a model
			require.Equal(t, []task.Message{{Role: "user"}}, q.Messages)
			require.Equal(t, 1, q.MaxTokens)
			require.True(t, q.AtMost)
			require.Equal(t, &task.Chat{Reasoning: task.Reasoning{Split: true}}, q.Chat)
		},
		`{"model":"coder","instructions":"be brief","input":[
			{"role":"developer","content":"d"},
			{"type":"message","role":"user","content":[{"type":"input_text","text":"a"},{"type":"input_image","image_url":"` + pixel + `","detail":"auto"}]},
			{"type":"reasoning","id":"rs_1","summary":[{"type":"summary_text","text":"s"}],"content":[{"type":"reasoning_text","text":"hm"}],"encrypted_content":null},
			{"type":"message","role":"assistant","id":"msg_1","status":"completed","content":[{"type":"output_text","text":"b","annotations":[]}]},
			{"type":"web_search_call","id":"ws_1","status":"completed"},
			{"type":"function_call","id":"fc_1","call_id":"c1","name":"f","arguments":"{\"a\":1}"},
			{"type":"custom_tool_call","call_id":"c2","name":"g","input":"x"},
			{"type":"function_call_output","call_id":"c1","output":"y"},
			{"type":"custom_tool_call_output","call_id":"c2","output":[{"type":"input_text","text":"z"},{"type":"input_image","image_url":"` + pixel + `"}]},
			{"type":"reasoning","id":"rs_2","summary":[],"encrypted_content":"gAAA"},
			{"role":"assistant","content":"c"},{"role":"assistant","content":"d"},
			{"role":"user","content":"e"}],"store":false,"include":["reasoning.encrypted_content"],"stream_options":{"include_obfuscation":false},"truncation":"auto"}`: func(q task.Request) {
			require.Equal(t, []task.Message{
				{Role: "system", Content: "be brief\n\nd"},
				{Role: "user", Parts: []task.Part{{Text: "a"}, {Image: image}}},
				{Role: "assistant", Reasoning: "hm", Content: "b", ToolCalls: []task.ToolCall{{ID: "c1", Name: "f", Arguments: `{"a":1}`}, {ID: "c2", Name: "g", Arguments: `{"input":"x"}`}}},
				{Role: "tool", ToolCallID: "c1", Content: "y"},
				{Role: "tool", ToolCallID: "c2", Parts: []task.Part{{Text: "z"}, {Image: image}}},
				{Role: "assistant", Content: "c\nd"},
				{Role: "user", Content: "e"},
			}, q.Messages)
		},
		`{` + ask + `,"tools":[{"type":"function","name":"f","parameters":{"type":"object"},"strict":true},{"type":"web_search"},{"type":"function","name":"g","parameters":null}],
			"tool_choice":{"type":"allowed_tools","mode":"required","tools":[{"type":"function","name":"f"}]},"parallel_tool_calls":false,
			"text":{"format":{"type":"json_schema","name":"n","schema":{"a":1},"strict":true},"verbosity":"low"},"reasoning":{"effort":"low","summary":"auto"},"temperature":0.5}`: func(q task.Request) {
			no := false
			require.Equal(t, &task.Chat{
				Tools: []task.Tool{{Name: "f", Parameters: json.RawMessage(`{"type":"object"}`)}}, ToolChoice: task.ChooseRequired, ParallelCalls: &no,
				Format: &task.Format{Kind: task.FormatJSON, Schema: json.RawMessage(`{"a":1}`)}, Reasoning: task.Reasoning{Split: true, Effort: "low"},
			}, q.Chat)
			require.InDelta(t, 0.5, *q.Params.Temperature, 0)
		},
		`{` + ask + `,"tools":[{"type":"function","name":"f"}],"tool_choice":{"type":"function","name":"f"},"text":{"format":{"type":"json_object"}},"metadata":{"a":"b"},"background":false,"conversation":null}`: func(q task.Request) {
			require.Equal(t, task.ChooseTool, q.Chat.ToolChoice)
			require.Equal(t, &task.Format{Kind: task.FormatJSON}, q.Chat.Format)
		},
	})
}

// LO-404, LO-418: what a response is refused for, and by which name.
func TestRefusedResponses(t *testing.T) {
	with := func(more string) string { return `{` + ask + `,` + more + `}` }
	input := func(item string) string { return `{"model":"coder","input":[` + item + `]}` }
	refuses(t, "/v1/responses", map[string]string{
		`{}`:                                                        "model",
		`{"model":"coder"}`:                                         "input",
		`{"model":"coder","input":[]}`:                              "input",
		`{"model":"coder","input":3}`:                               "input",
		with(`"background":true,"store":false`):                     "background",
		with(`"previous_response_id":"resp_1"`):                     "previous_response_id",
		with(`"conversation":"conv_1"`):                             "conversation",
		with(`"prompt":{"id":"pmpt_1"}`):                            "prompt",
		with(`"top_logprobs":21`):                                   "top_logprobs",
		with(`"max_output_tokens":0`):                               "max_output_tokens",
		with(`"temperature":-1`):                                    "temperature",
		with(`"text":{"format":{"type":"xml"}}`):                    "text.format",
		with(`"text":{"format":{"type":"json_schema","schema":3}}`): "text.format.schema",
		with(`"tools":[{"type":"web_search"}],"tool_choice":{"type":"web_search"}`):                  "tool_choice",
		with(`"tools":[{"type":"web_search"}],"tool_choice":"required"`):                             "tool_choice",
		with(`"tools":[{"type":"function"}]`):                                                        "tools[0].name",
		with(`"reasoning":{"effort":"as much as anybody could possibly want to have"}`):              "reasoning.effort",
		input(`{"type":"computer_call"}`):                                                            "input[0]",
		input(`{"content":"x"}`):                                                                     "input[0]",
		input(`{"role":"bot","content":"x"}`):                                                        "input[0].role",
		input(`{"role":"user","content":[{"type":"input_file"}]}`):                                   "input[0].content[0]",
		input(`{"role":"user","content":[{"type":"input_image","file_id":"f"}]}`):                    "input[0].content[0].image_url",
		input(`{"role":"assistant","content":[{"type":"input_image","image_url":"` + pixel + `"}]}`): "input[0].content",
		input(`{"type":"reasoning","content":"x"}`):                                                  "input[0].content",
	})
	url := serve(t, exchangetest.New())
	res := exchangetest.Do(t, http.MethodPost, url+"/v1/responses/input_tokens", `{}`)
	require.Equal(t, http.StatusNotFound, res.StatusCode)
	require.Contains(t, exchangetest.Read(t, res.Body), "there is no path")
}

// LO-418: a token of a response costs no allocation, but for the room that its text grows into.
func TestDeltasAllocateNothing(t *testing.T) {
	for _, kind := range []task.EventKind{task.EventReasoning, task.EventText, task.EventToolCall} {
		s := newResponseEvents(&response{output: output{task: "t1"}}, false)
		e := task.Event{Kind: kind, Text: []byte("frog \"pond\"\n"), Call: task.CallPart{ID: "call_1", Name: "f"}}
		b := s.Append(make([]byte, 0, 4096), e)[:0]
		s.items[0].text = make([]byte, 0, 1<<16)
		e.Call = task.CallPart{}
		require.Zero(t, testing.AllocsPerRun(1000, func() { b = s.Append(b[:0], e) }), kind)
		require.NotEmpty(t, b)
	}
}
