// SPDX-License-Identifier: GPL-3.0-or-later

package anthropic

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/dialect"
	"github.com/llama-orch/llama-orch/service/front/exchange"
	"github.com/llama-orch/llama-orch/service/front/exchange/exchangetest"
	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/task"
)

// What any test gets is held against the types of Anthropic's SDK (LO-419).
func TestMain(m *testing.M) {
	document, err := dialect.LoadAnthropic()
	if err != nil {
		panic(err)
	}
	dialect.Run(m, document.Check)
}

func serve(t *testing.T, l *exchangetest.Line, change ...func(*exchange.Options)) string {
	return exchangetest.Serve(t, l, func(o exchange.Options) gate.Front { return New(o) }, change...)
}

const (
	hello = `"model":"coder","max_tokens":32000,"messages":[{"role":"user","content":"hi"}]`
	path  = "/v1/messages?beta=true"
)

// frames are the frames of a stream.
func frames(t *testing.T, body string) []string {
	t.Helper()
	require.True(t, strings.HasSuffix(body, "\n\n"), body)
	return strings.Split(strings.TrimSuffix(body, "\n\n"), "\n\n")
}

// The fields of a usage that nobody knows here, and those that only a message has.
const (
	nulls = `"cache_creation_input_tokens":null,"cache_read_input_tokens":null`
	rest  = `"output_tokens_details":null,"server_tool_use":null`
	more  = `"cache_creation":null,"service_tier":null,"inference_geo":null,"speed":null`
)

// LO-402, LO-421: a message, streamed: thinking, text, and two calls of tools, each in its block.
func TestAMessageIsStreamed(t *testing.T) {
	l := exchangetest.New()
	l.Says(t, exchangetest.Reasoning("h"), exchangetest.Reasoning("m"), exchangetest.Text("a \"b\"\n"), exchangetest.Text("蛙"),
		exchangetest.Call(0, "call_1", "f", `{"a`), exchangetest.Call(0, "", "", `":1}`), exchangetest.Call(1, "call_2", "g", ""))
	l.Ends(task.FinishStop)
	res := exchangetest.Post(t, serve(t, l)+path, `{`+hello+`,"stream":true}`)
	require.Equal(t, http.StatusOK, res.StatusCode)
	require.Equal(t, "text/event-stream; charset=utf-8", res.Header.Get("Content-Type"))
	require.Equal(t, "t1", res.Header.Get("X-Task-Id"))
	require.NotEmpty(t, res.Header.Get("Request-Id"))
	delta := func(index, delta string) string {
		return "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":" + index + ",\"delta\":{" + delta + "}}"
	}
	start := func(index, block string) string {
		return "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":" + index + ",\"content_block\":{" + block + "}}"
	}
	stop := func(index string) string {
		return "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":" + index + "}"
	}
	require.Equal(t, []string{
		`event: message_start` + "\n" + `data: {"type":"message_start","message":{"id":"msg_t1","type":"message","role":"assistant","model":"coder","content":[],` +
			`"stop_reason":null,"stop_sequence":null,"stop_details":null,"container":null,"diagnostics":null,` +
			`"usage":{"input_tokens":0,` + nulls + `,"output_tokens":0,` + rest + `,` + more + `}}}`,
		start("0", `"type":"thinking","thinking":"","signature":""`),
		delta("0", `"type":"thinking_delta","thinking":"h"`),
		delta("0", `"type":"thinking_delta","thinking":"m"`),
		delta("0", `"type":"signature_delta","signature":"llama-orch-t1"`),
		stop("0"),
		start("1", `"type":"text","text":"","citations":null`),
		delta("1", `"type":"text_delta","text":"a \"b\"\n"`),
		delta("1", `"type":"text_delta","text":"蛙"`),
		stop("1"),
		start("2", `"type":"tool_use","id":"call_1","caller":{"type":"direct"},"name":"f","input":{}`),
		delta("2", `"type":"input_json_delta","partial_json":"{\"a"`),
		delta("2", `"type":"input_json_delta","partial_json":"\":1}"`),
		stop("2"),
		start("3", `"type":"tool_use","id":"call_2","caller":{"type":"direct"},"name":"g","input":{}`),
		stop("3"),
		`event: message_delta` + "\n" + `data: {"type":"message_delta","delta":{"container":null,"stop_details":null,"stop_reason":"tool_use","stop_sequence":null},` +
			`"usage":{"input_tokens":5,` + nulls + `,"output_tokens":2,` + rest + `}}`,
		": receipt Seed=7 Determinism=strict Fingerprint=fp-1",
		"event: message_stop\ndata: {\"type\":\"message_stop\"}",
	}, frames(t, exchangetest.Read(t, res.Body)))
	require.Zero(t, l.Cancels())
}

// LO-421: where the prompt's tokens were counted, message_start has them: clients show them, and some take no other.
func TestTheBeginningHasTheInputTokens(t *testing.T) {
	l := exchangetest.New()
	l.Counted = 5
	l.Ends(task.FinishStop)
	got := frames(t, exchangetest.Read(t, exchangetest.Post(t, serve(t, l)+path, `{`+hello+`,"stream":true}`).Body))
	require.Contains(t, got[0], "event: message_start")
	require.Contains(t, got[0], `"usage":{"input_tokens":5,`)
}

// LO-421: what came from KV is told apart, and input_tokens is without it, as Anthropic has it.
func TestWhatCameFromTheCache(t *testing.T) {
	l := exchangetest.New()
	l.Counted = 5
	l.Says(t, exchangetest.Text("a"))
	l.EndsWith(task.End{TokensIn: 5, TokensOut: 2, FinishReason: task.FinishStop, Receipt: task.Receipt{TokensCached: 3}})
	url := serve(t, l) + path
	const want = `"usage":{"input_tokens":2,"cache_creation_input_tokens":null,"cache_read_input_tokens":3,"output_tokens":2,`
	require.Contains(t, exchangetest.Read(t, exchangetest.Post(t, url, `{`+hello+`}`).Body), want)
	streamed := frames(t, exchangetest.Read(t, exchangetest.Post(t, url, `{`+hello+`,"stream":true}`).Body))
	require.Contains(t, streamed[0], `"usage":{"input_tokens":5,`, "before the end nobody knows")
	require.Contains(t, streamed[len(streamed)-3], want)
}

// LO-421: pieces of calls that come in turns have the index of their own block, and thinking that is not wanted is not told.
func TestCallsInTurnsAndHiddenThinking(t *testing.T) {
	l := exchangetest.New()
	l.Says(t, exchangetest.Reasoning("hm"), exchangetest.Call(0, "c0", "f", `{"a`), exchangetest.Call(1, "c1", "g", `{`), exchangetest.Call(0, "", "", `":1}`), exchangetest.Call(1, "", "", `}`))
	l.Ends(task.FinishStop)
	url := serve(t, l) + path
	const hidden = `,"thinking":{"type":"adaptive","display":"omitted"}`
	got := exchangetest.Read(t, exchangetest.Post(t, url, `{`+hello+hidden+`,"stream":true}`).Body)
	require.NotContains(t, got, "hm")
	require.Contains(t, got, `"index":0,"delta":{"type":"signature_delta"`)
	require.Contains(t, got, `"index":1,"delta":{"type":"input_json_delta","partial_json":"\":1}"}`)
	require.Contains(t, got, `"index":2,"delta":{"type":"input_json_delta","partial_json":"}"}`)
	require.Equal(t, 3, strings.Count(got, "event: content_block_start"))
	require.Equal(t, 3, strings.Count(got, "event: content_block_stop"))
	whole := exchangetest.Read(t, exchangetest.Post(t, url, `{`+hello+hidden+`}`).Body)
	require.Contains(t, whole, `{"type":"thinking","thinking":"","signature":"llama-orch-t1"}`)
}

// LO-402, LO-421: a message as a whole.
func TestAWholeMessage(t *testing.T) {
	l := exchangetest.New()
	l.Says(t, exchangetest.Reasoning("hm"), exchangetest.Text("a"), exchangetest.Text("b"), exchangetest.Call(0, "call_1", "f", `{"a":1}`))
	l.Ends(task.FinishStop)
	res := exchangetest.Post(t, serve(t, l)+path, `{`+hello+`}`)
	require.Equal(t, "fp-1", res.Header.Get("X-Receipt-Fingerprint"))
	require.JSONEq(t, `{"id":"msg_t1","type":"message","role":"assistant","model":"coder","content":[
		{"type":"thinking","thinking":"hm","signature":"llama-orch-t1"},{"type":"text","text":"ab","citations":null},
		{"type":"tool_use","id":"call_1","caller":{"type":"direct"},"name":"f","input":{"a":1}}],
		"stop_reason":"tool_use","stop_sequence":null,"stop_details":null,"container":null,"diagnostics":null,
		"usage":{"input_tokens":5,`+nulls+`,"output_tokens":2,`+rest+`,`+more+`}}`, exchangetest.Read(t, res.Body))
}

// LO-421: every answer says why it ended, also an empty one and a call that was cut.
func TestStopReasons(t *testing.T) {
	call := func(arguments string) []task.Piece { return []task.Piece{exchangetest.Call(0, "c", "f", arguments)} }
	for name, c := range map[string]struct {
		says []task.Piece
		why  task.FinishReason
		want string
		has  string
	}{
		"empty":                 {nil, task.FinishStop, "end_turn", `"content":[]`},
		"text":                  {[]task.Piece{exchangetest.Text("a")}, task.FinishStop, "end_turn", `"text":"a"`},
		"cut":                   {[]task.Piece{exchangetest.Text("a")}, task.FinishLength, "max_tokens", `"text":"a"`},
		"a call":                {call(`{}`), task.FinishStop, "tool_use", `"input":{}`},
		"a call of no argument": {call(``), task.FinishStop, "tool_use", `"input":{}`},
		"a call that was cut":   {call(`{"a":"x`), task.FinishLength, "max_tokens", `"input":{"_arguments":"{\"a\":\"x"}`},
		"a call of a list":      {call(`[1]`), task.FinishStop, "tool_use", `"input":{"_arguments":"[1]"}`},
	} {
		t.Run(name, func(t *testing.T) {
			l := exchangetest.New()
			l.Says(t, c.says...)
			l.Ends(c.why)
			url := serve(t, l) + path
			whole := exchangetest.Read(t, exchangetest.Post(t, url, `{`+hello+`}`).Body)
			require.True(t, json.Valid([]byte(whole)), whole)
			require.Contains(t, whole, `"stop_reason":"`+c.want+`"`)
			require.Contains(t, whole, c.has)
			got := frames(t, exchangetest.Read(t, exchangetest.Post(t, url, `{`+hello+`,"stream":true}`).Body))
			require.Contains(t, got[0], "event: message_start")
			require.Contains(t, got[len(got)-3], `"stop_reason":"`+c.want+`"`)
			require.Contains(t, got[len(got)-1], "event: message_stop")
			for _, f := range got {
				if data, ok := strings.CutPrefix(f, "event: "); ok {
					_, data, _ = strings.Cut(data, "\ndata: ")
					require.True(t, json.Valid([]byte(data)), f)
				}
			}
		})
	}
}

// LO-422: counting makes no task.
func TestCountTokens(t *testing.T) {
	l := exchangetest.New()
	var asked task.Request
	refusal := error(nil)
	url := serve(t, l, func(o *exchange.Options) {
		o.Count = func(_ context.Context, q task.Request) (int, error) {
			asked = q
			return 42, refusal
		}
	}) + "/v1/messages/count_tokens?beta=true"
	res := exchangetest.Post(t, url, `{"model":"coder","system":"be brief","messages":[{"role":"user","content":"hi"}],"tools":[{"name":"f","input_schema":{"type":"object"}}]}`)
	require.Equal(t, http.StatusOK, res.StatusCode)
	require.JSONEq(t, `{"input_tokens":42}`, exchangetest.Read(t, res.Body))
	require.Equal(t, []task.Message{{Role: "system", Content: "be brief"}, {Role: "user", Content: "hi"}}, asked.Messages)
	require.Len(t, asked.Chat.Tools, 1)
	require.Empty(t, l.Requests())
	refusal = task.Errorf(task.PoolUnready, "the model is not loaded").Retry(5 * time.Second)
	res = exchangetest.Post(t, url, `{`+hello+`}`)
	require.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
	require.Equal(t, "5", res.Header.Get("Retry-After"))
	require.Contains(t, exchangetest.Read(t, res.Body), `"error":{"type":"overloaded_error","message":"Overloaded: the model is not loaded"}`)
	require.Equal(t, http.StatusBadRequest, exchangetest.Post(t, url, `{"model":"coder"}`).StatusCode)
}

// LO-404, LO-421: errors of the line in the dialect's words.
func TestErrorsOfTheLine(t *testing.T) {
	for _, c := range []struct {
		err           *task.Error
		status        int
		body          string
		retry, should string
	}{
		{task.Errorf(task.ModelNotFound, "no pool"), 404, `"type":"not_found_error","message":"no pool"`, "", "false"},
		{task.Errorf(task.BadToken, "no"), 401, `"type":"authentication_error"`, "", "false"},
		{task.Errorf(task.PolicyDenied, "no"), 403, `"type":"permission_error"`, "", "false"},
		{task.Errorf(task.TooLarge, "big"), 413, `"type":"request_too_large"`, "", "false"},
		{task.Errorf(task.RateLimited, "slow").Retry(1500 * time.Millisecond), 429, `"type":"rate_limit_error","message":"slow"`, "2", ""},
		{task.Errorf(task.BudgetExceeded, "tomorrow").Forever(), 429, `"type":"rate_limit_error"`, "1", "false"},
		{task.Errorf(task.AdmissionReject, "full").Retry(90 * time.Minute), 429, `"type":"overloaded_error","message":"Overloaded: full"`, "60", ""},
		{task.Errorf(task.PoolUnready, "loads").Retry(0), 503, `"type":"overloaded_error","message":"Overloaded: loads"`, "1", ""},
		{task.Errorf(task.PoolUnavailable, "broken").Forever(), 503, `"type":"api_error","message":"broken"`, "1", "false"},
		{task.Errorf(task.Internal, "x"), 500, `"type":"api_error"`, "", "false"},
		{task.Errorf(task.InvalidParams, "x").Because(&task.TooLongError{Tokens: 9, Ctx: 8}), 400, `"type":"invalid_request_error","message":"prompt is too long: 9 tokens > 8 maximum"`, "", "false"},
	} {
		l := exchangetest.New()
		l.Refusal = c.err
		res := exchangetest.Post(t, serve(t, l)+path, `{`+hello+`}`)
		require.Equal(t, c.status, res.StatusCode)
		require.Equal(t, c.retry, res.Header.Get("Retry-After"), c.body)
		require.Equal(t, c.should, res.Header.Get("X-Should-Retry"), c.body)
		body := exchangetest.Read(t, res.Body)
		require.True(t, strings.HasPrefix(body, `{"type":"error","error":{`), body)
		require.Contains(t, body, c.body)
		require.Contains(t, body, `"request_id":"`+res.Header.Get("Request-Id")+`"`)
	}
}

// Every code of the API has a type of this dialect.
//
// LO-404
func TestEveryCodeHasAType(t *testing.T) {
	known := []string{"invalid_request_error", "authentication_error", "permission_error", "not_found_error", "request_too_large", "rate_limit_error", "api_error", "overloaded_error"}
	for _, code := range task.Codes() {
		require.Contains(t, known, errorOf(task.Errorf(code, "x"), "r").Error.Type, code)
	}
}

// LO-404: paths that are not there, and methods.
func TestPathsAndMethods(t *testing.T) {
	url := serve(t, exchangetest.New())
	for _, c := range []struct {
		method, path string
		status       int
		kind         string
	}{
		{http.MethodPost, "/v1/messages/batches", 404, "not_found_error"},
		{http.MethodGet, "/v1/messages", 405, "invalid_request_error"},
		{http.MethodDelete, "/v1/models/coder", 405, "invalid_request_error"},
	} {
		res := exchangetest.Do(t, c.method, url+c.path, "")
		require.Equal(t, c.status, res.StatusCode)
		require.Contains(t, exchangetest.Read(t, res.Body), c.kind)
	}
	require.Equal(t, http.StatusNoContent, exchangetest.Do(t, http.MethodOptions, url+"/v1/messages", "").StatusCode)
}

// LO-406, LO-407: a client that waits gets its head; a stream that fails ends with the error event, and then breaks.
func TestAStreamThatFailsBreaks(t *testing.T) {
	l := exchangetest.New()
	res := exchangetest.Post(t, serve(t, l, func(o *exchange.Options) { o.Hold = time.Millisecond })+path, `{`+hello+`,"stream":true}`)
	require.Equal(t, http.StatusOK, res.StatusCode)
	l.Says(t, exchangetest.Text("a"))
	in := bufio.NewReader(res.Body)
	for line := ""; !strings.Contains(line, `"text":"a"`); {
		var err error
		line, err = in.ReadString('\n')
		require.NoError(t, err)
	}
	l.Fails(task.Errorf(task.WorkerReset, "the worker is gone").Retry(0))
	rest, err := io.ReadAll(in)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.Equal(t, "\nevent: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded: the worker is gone\"},\"request_id\":\""+
		res.Header.Get("Request-Id")+"\"}\n\n", string(rest))
	require.Zero(t, l.Cancels())
}

// LO-406: what a client is told while its task waits, and as a sign of life.
func TestPings(t *testing.T) {
	b, err := sse{}.Metrics(nil, task.Metrics{Phase: task.PhaseQueued, QueuePosition: 2, PredictedStartMS: 1500})
	require.NoError(t, err)
	require.Equal(t, ": queued queue_position=2 predicted_start_ms=1500\n\nevent: ping\ndata: {\"type\":\"ping\"}\n\n", string(b))
	b, err = sse{}.Metrics(nil, task.Metrics{Phase: task.PhaseDecode})
	require.NoError(t, err)
	require.Empty(t, b)
	require.Equal(t, "event: ping\ndata: {\"type\":\"ping\"}\n\n", string(sse{}.KeepAlive(nil)))
	b, err = sse{"r1"}.Error(nil, task.Errorf(task.Conflict, "x"))
	require.NoError(t, err)
	require.Equal(t, "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"invalid_request_error\",\"message\":\"x\"},\"request_id\":\"r1\"}\n\n", string(b))
}

// A token costs no allocation.
//
// LO-421
func TestEventsAllocateNothing(t *testing.T) {
	c := newEvents(answerOf("t1", "m"), "t1", false, "r1")
	for _, kind := range []task.EventKind{task.EventReasoning, task.EventText, task.EventToolCall} {
		e := task.Event{Kind: kind, Text: []byte("frog \"pond\"\n")}
		b := c.Append(make([]byte, 0, 4096), e)[:0]
		require.Zero(t, testing.AllocsPerRun(100, func() { b = c.Append(b[:0], e) }))
		require.NotEmpty(t, b)
	}
}

// LO-421: models in the dialect's shape, page by page.
func TestModels(t *testing.T) {
	url := serve(t, exchangetest.New())
	get := func(path string) (int, string) {
		res := exchangetest.Do(t, http.MethodGet, url+path, "")
		return res.StatusCode, exchangetest.Read(t, res.Body)
	}
	const coder = `{"type":"model","id":"coder","display_name":"coder","created_at":"1970-01-01T00:00:00Z","max_input_tokens":4096,"max_tokens":4096,` +
		`"capabilities":null,"lifecycle":"active","line":null,"deprecated_at":null,"retires_at":null}`
	status, body := get("/v1/models")
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, body, `{"data":[`+coder+`,{"type":"model","id":"org/haiku"`)
	require.Contains(t, body, `"has_more":false,"first_id":"coder","last_id":"org/haiku"}`)
	for query, want := range map[string]string{
		"limit=1":                     `"has_more":true,"first_id":"coder","last_id":"coder"}`,
		"limit=1&after_id=coder":      `"has_more":false,"first_id":"org/haiku","last_id":"org/haiku"}`,
		"after_id=org/haiku":          `{"data":[],"has_more":false,"first_id":null,"last_id":null}`,
		"before_id=org/haiku&limit=1": `"has_more":false,"first_id":"coder","last_id":"coder"}`,
		"before_id=coder":             `{"data":[],"has_more":false,"first_id":null,"last_id":null}`,
	} {
		status, body = get("/v1/models?" + query)
		require.Equal(t, http.StatusOK, status, query)
		require.Contains(t, body, want, query)
	}
	status, body = get("/v1/models/coder")
	require.Equal(t, http.StatusOK, status)
	require.JSONEq(t, coder, body)
	for path, want := range map[string]int{"/v1/models?limit=0": 400, "/v1/models?limit=x": 400, "/v1/models?after_id=x": 404, "/v1/models?before_id=x": 404, "/v1/models/claude-9": 404} {
		status, body = get(path)
		require.Equal(t, want, status, path)
		require.Contains(t, body, `{"type":"error"`)
	}
	require.Contains(t, body[:], `error`)
}
