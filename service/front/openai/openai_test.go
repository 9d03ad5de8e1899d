// SPDX-License-Identifier: GPL-3.0-or-later

package openai

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/dialect"
	"github.com/llama-orch/llama-orch/service/front/exchange"
	"github.com/llama-orch/llama-orch/service/front/exchange/exchangetest"
	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/front/lenient"
	"github.com/llama-orch/llama-orch/service/task"
)

// What any test gets is held against OpenAI's document (LO-419).
func TestMain(m *testing.M) {
	document, err := dialect.LoadOpenAI()
	if err != nil {
		panic(err)
	}
	dialect.Run(m, document.Check)
}

func front(o exchange.Options) gate.Front { return New(o) }

func serve(t *testing.T, l *exchangetest.Line, change ...func(*exchange.Options)) string {
	return exchangetest.Serve(t, l, front, change...)
}

const hello = `"model":"coder","messages":[{"role":"user","content":"hi"}]`

// LO-402, LO-408: a chat, streamed.
func TestAChatIsStreamed(t *testing.T) {
	l := exchangetest.New()
	l.Says(t, exchangetest.Text("a \"b\"\n"), exchangetest.Text("蛙"))
	l.Ends(task.FinishStop)
	res := exchangetest.Post(t, serve(t, l)+"/v1/chat/completions", `{`+hello+`,"stream":true,"stream_options":{"include_usage":true}}`)
	require.Equal(t, http.StatusOK, res.StatusCode)
	require.Equal(t, "t1", res.Header.Get("X-Task-Id"))
	require.Equal(t, "3", res.Header.Get("X-Queue-Position"))
	require.Equal(t, res.Header.Get(gate.CorrelationHeader), res.Header.Get("X-Request-Id"))
	const head = `data: {"id":"chatcmpl-t1","object":"chat.completion.chunk","created":1699999999,"model":"coder"`
	const tail = `,"logprobs":null,"finish_reason":null}],"usage":null}` + "\n\n"
	require.Equal(t, head+`,"choices":[{"index":0,"delta":{"role":"assistant","content":""}`+tail+
		head+`,"choices":[{"index":0,"delta":{"content":"a \"b\"\n"}`+tail+
		head+`,"choices":[{"index":0,"delta":{"content":"蛙"}`+tail+
		head+`,"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"usage":null}`+"\n\n"+
		head+`,"system_fingerprint":"fp-1","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}}`+"\n\n"+
		": receipt Seed=7 Determinism=strict Fingerprint=fp-1\n\ndata: [DONE]\n\n", exchangetest.Read(t, res.Body))
	require.Zero(t, l.Cancels())
}

// LO-408: reasoning and calls of tools are chunks of their own.
func TestReasoningAndCallsAreStreamed(t *testing.T) {
	l := exchangetest.New()
	l.Says(t, exchangetest.Reasoning("hm"), exchangetest.Call(0, "call_1", "f", `{"a`), exchangetest.Call(0, "", "", `":1}`))
	l.Ends(task.FinishStop)
	url := serve(t, l) + "/v1/chat/completions"
	got := exchangetest.Read(t, exchangetest.Post(t, url, `{`+hello+`,"stream":true}`).Body)
	require.Contains(t, got, `"delta":{"reasoning_content":"hm"}`)
	require.Contains(t, got, `"delta":{"tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":"f","arguments":"{\"a"}}]}`)
	require.Contains(t, got, `"delta":{"tool_calls":[{"index":0,"function":{"arguments":"\":1}"}}]}`)
	require.Contains(t, got, `"finish_reason":"tool_calls"`)
	got = exchangetest.Read(t, exchangetest.Post(t, url, `{`+hello+`}`).Body)
	require.Contains(t, got, `"message":{"role":"assistant","content":null,"refusal":null,"reasoning_content":"hm","tool_calls":[{"id":"call_1","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}}]}`)
}

// LO-402, LO-408: a chat as a whole, and a completion in both forms.
func TestWholeAnswers(t *testing.T) {
	l := exchangetest.New()
	l.Says(t, exchangetest.Text("a"), exchangetest.Text("b"))
	l.Ends(task.FinishLength)
	url := serve(t, l)
	res := exchangetest.Post(t, url+"/v1/chat/completions", `{`+hello+`}`)
	require.Equal(t, "fp-1", res.Header.Get("X-Receipt-Fingerprint"))
	require.JSONEq(t, `{"id":"chatcmpl-t1","object":"chat.completion","created":1699999999,"model":"coder","system_fingerprint":"fp-1",
		"choices":[{"index":0,"message":{"role":"assistant","content":"ab","refusal":null},"logprobs":null,"finish_reason":"length"}],
		"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}}`, exchangetest.Read(t, res.Body))
	res = exchangetest.Post(t, url+"/v1/completions/", `{"model":"coder","prompt":"x"}`)
	require.JSONEq(t, `{"id":"cmpl-t1","object":"text_completion","created":1699999999,"model":"coder","system_fingerprint":"fp-1",
		"choices":[{"index":0,"text":"ab","logprobs":null,"finish_reason":"length"}],
		"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}}`, exchangetest.Read(t, res.Body))
	got := exchangetest.Read(t, exchangetest.Post(t, url+"/v1/completions", `{"model":"coder","prompt":["x"],"stream":true}`).Body)
	require.Contains(t, got, `"choices":[{"index":0,"text":"a","logprobs":null,"finish_reason":null}]}`)
	require.Contains(t, got, `"choices":[{"index":0,"text":"","logprobs":null,"finish_reason":"length"}]}`)
	require.Zero(t, l.Cancels())
}

// LO-408: what came from KV is told where the receipt has it.
func TestWhatCameFromTheCache(t *testing.T) {
	l := exchangetest.New()
	l.Says(t, exchangetest.Text("a"))
	l.EndsWith(task.End{TokensIn: 5, TokensOut: 2, FinishReason: task.FinishStop, Receipt: task.Receipt{TokensCached: 3}})
	url := serve(t, l)
	const want = `"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7,"prompt_tokens_details":{"cached_tokens":3}}`
	for path, body := range map[string]string{"/v1/chat/completions": hello, "/v1/completions": `"model":"coder","prompt":"x"`} {
		for _, how := range []string{``, `,"stream":true,"stream_options":{"include_usage":true}`} {
			require.Contains(t, exchangetest.Read(t, exchangetest.Post(t, url+path, `{`+body+how+`}`).Body), want)
		}
	}
}

// LO-408: embeddings as floats, and as base64.
func TestEmbeddings(t *testing.T) {
	l := exchangetest.New()
	l.Answers(`{"embeddings":[[1,-0.5],[0.25,2]]}`)
	url := serve(t, l) + "/v1/embeddings"
	require.JSONEq(t, `{"object":"list","model":"e","data":[{"object":"embedding","index":0,"embedding":[1,-0.5]},{"object":"embedding","index":1,"embedding":[0.25,2]}],
		"usage":{"prompt_tokens":3,"total_tokens":3}}`, exchangetest.Read(t, exchangetest.Post(t, url, `{"model":"e","input":["a","b"]}`).Body))
	require.Contains(t, exchangetest.Read(t, exchangetest.Post(t, url, `{"model":"e","input":"a","encoding_format":"base64"}`).Body), `"embedding":"AACAPwAAAL8="`)
	require.Equal(t, []string{"a", "b"}, l.Requests()[0].Inputs)
	require.Equal(t, task.Embedding, l.Requests()[0].Workload)
}

// LO-404: errors of the line in the dialect's words.
func TestErrorsOfTheLine(t *testing.T) {
	for code, c := range map[*task.Error]struct {
		status int
		body   string
		retry  string
	}{
		task.Errorf(task.ModelNotFound, "no pool"):                                          {404, `"code":"model_not_found"`, ""},
		task.Errorf(task.AdmissionReject, "full").Retry(90 * time.Minute):                   {429, `"message":"overloaded: full","type":"rate_limit_error","param":null,"code":"overloaded"`, "60"},
		task.Errorf(task.PoolUnready, "loads").Retry(0):                                     {503, `"message":"overloaded: loads","type":"server_error"`, "1"},
		task.Errorf(task.InvalidParams, "x").Because(&task.TooLongError{Tokens: 9, Ctx: 8}): {400, `maximum context length is 8 tokens; prompt is too long: 9 tokens > 8 maximum`, ""},
		task.Errorf(task.UnsupportedMedia, "br"):                                            {415, `"message":"br","type":"invalid_request_error","param":null,"code":"unsupported_media_type"`, ""},
		task.Errorf(task.NotImplemented, "no"):                                              {501, `"message":"no","type":"invalid_request_error","param":null,"code":"not_implemented"`, ""},
	} {
		l := exchangetest.New()
		l.Refusal = code
		res := exchangetest.Post(t, serve(t, l)+"/v1/chat/completions", `{`+hello+`}`)
		require.Equal(t, c.status, res.StatusCode)
		require.Equal(t, c.retry, res.Header.Get("Retry-After"))
		require.Contains(t, exchangetest.Read(t, res.Body), c.body)
	}
}

// LO-406: a task that fails while the head is held back is refused with a status, streamed or whole.
func TestAFailureBeforeTheFirstToken(t *testing.T) {
	for _, more := range []string{"", `,"stream":true`} {
		l := exchangetest.New()
		l.Fails(task.Errorf(task.QueueFullDropLRU, "dropped"))
		res := exchangetest.Post(t, serve(t, l)+"/v1/chat/completions", `{`+hello+more+`}`)
		require.Equal(t, http.StatusTooManyRequests, res.StatusCode)
		require.Contains(t, exchangetest.Read(t, res.Body), "overloaded")
		require.Zero(t, l.Cancels())
	}
}

// LO-404, LO-407: a stop of the orchestrator is no fault of its own to whoever waits: streamed or whole, it says that the request may come again.
func TestAStopWhileATaskWaits(t *testing.T) {
	for _, more := range []string{"", `,"stream":true`} {
		l := exchangetest.New()
		l.Detaches()
		res := exchangetest.Post(t, serve(t, l)+"/v1/chat/completions", `{`+hello+more+`}`)
		require.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
		require.Equal(t, "5", res.Header.Get("Retry-After"))
		require.Contains(t, exchangetest.Read(t, res.Body), `"message":"overloaded: the stream broke off: send the request again"`)
	}
}

// LO-407: a stream that fails ends with the error event, and then breaks.
func TestAStreamThatFailsBreaks(t *testing.T) {
	l := exchangetest.New()
	l.Says(t, exchangetest.Text("a"))
	res := exchangetest.Post(t, serve(t, l)+"/v1/chat/completions", `{`+hello+`,"stream":true}`)
	in := bufio.NewReader(res.Body)
	for line := ""; !strings.Contains(line, `"content":"a"`); {
		var err error
		line, err = in.ReadString('\n')
		require.NoError(t, err)
	}
	l.Fails(task.Errorf(task.WorkerReset, "the worker is gone").Retry(0))
	rest, err := io.ReadAll(in)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.Contains(t, string(rest), `data: {"error":{"message":"overloaded: the worker is gone","type":"server_error","param":null,"code":"overloaded"}}`+"\n\n")
	require.NotContains(t, string(rest), "[DONE]")
	require.Zero(t, l.Cancels())
}

// LO-405: a client that goes before the end cancels its task, streamed or whole, unless it has a key to come back with.
func TestAClientThatGoesCancels(t *testing.T) {
	for name, c := range map[string]struct {
		more, key string
		begun     bool
		cancels   int
	}{
		"streamed": {more: `,"stream":true`, begun: true, cancels: 1}, "waits": {more: `,"stream":true`, cancels: 1}, "whole": {cancels: 1},
		"with a key": {more: `,"stream":true`, key: "k", begun: true},
	} {
		t.Run(name, func(t *testing.T) {
			l := exchangetest.New()
			url := serve(t, l, func(o *exchange.Options) { o.Hold = time.Hour }) + "/v1/chat/completions"
			if c.begun {
				l.Says(t, exchangetest.Text("a"))
			}
			ctx, leave := context.WithCancel(t.Context())
			defer leave()
			r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(`{`+hello+c.more+`}`))
			require.NoError(t, err)
			if c.key != "" {
				r.Header.Set("Idempotency-Key", c.key)
			}
			gone := make(chan struct{})
			go func() {
				defer close(gone)
				if res, err := http.DefaultClient.Do(r); err == nil {
					_, _ = io.Copy(io.Discard, res.Body)
					_ = res.Body.Close()
				}
			}()
			require.Eventually(t, func() bool { return len(l.Requests()) == 1 }, 10*time.Second, time.Millisecond)
			leave()
			<-gone
			if c.cancels > 0 {
				require.Eventually(t, func() bool { return l.Cancels() == 1 }, 10*time.Second, 5*time.Millisecond)
				return
			}
			require.Equal(t, task.CancelIt, l.Requests()[0].OnDisconnect)
			require.Regexp(t, "^key-[0-9a-f]{32}$", l.Requests()[0].ID)
			l.Ends(task.FinishStop)
			require.Zero(t, l.Cancels())
		})
	}
}

// LO-405: a key is of one request. Who sends it with another one is told of the key, and not of an id that no client of the dialect chose.
func TestAKeyIsOfOneRequest(t *testing.T) {
	l := exchangetest.New()
	url := serve(t, l)
	send := func(path, body string) *http.Response {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+path, strings.NewReader(body))
		require.NoError(t, err)
		r.Header.Set("Idempotency-Key", "k")
		res, err := http.DefaultClient.Do(r)
		require.NoError(t, err)
		t.Cleanup(func() { _ = res.Body.Close() })
		return res
	}
	l.Ends(task.FinishStop)
	const both = `{"model":"coder","messages":[{"role":"user","content":"hi"}],"prompt":"hi"}`
	for _, path := range []string{"/v1/chat/completions", "/v1/chat/completions/", "/v1/completions"} {
		require.Equal(t, http.StatusOK, send(path, both).StatusCode)
	}
	require.Equal(t, http.StatusOK, send("/v1/completions", `{"model":"coder","prompt":"ho"}`).StatusCode)
	sent := l.Requests()
	require.Equal(t, sent[0].ID, sent[1].ID)
	require.Equal(t, sent[0].BodySHA256, sent[1].BodySHA256)
	require.NotEqual(t, sent[0].ID, sent[2].ID, "the same body means another thing there")
	require.Equal(t, sent[2].ID, sent[3].ID)
	require.NotEqual(t, sent[2].BodySHA256, sent[3].BodySHA256)
	l.Refusal = task.Errorf(task.Conflict, "task_id key-1 is taken")
	res := send("/v1/chat/completions", both)
	require.Equal(t, http.StatusConflict, res.StatusCode)
	require.Equal(t, "false", res.Header.Get("X-Should-Retry"))
	require.Contains(t, exchangetest.Read(t, res.Body), `"message":"this Idempotency-Key was sent before`)
}

// LO-406: while a task waits, a stream gets its head and comments, and a whole answer white space.
func TestWhatAWaitingClientGets(t *testing.T) {
	l := exchangetest.New()
	url := serve(t, l, func(o *exchange.Options) { o.Hold, o.HoldWhole = time.Millisecond, time.Millisecond }) + "/v1/chat/completions"
	res := exchangetest.Post(t, url, `{`+hello+`,"stream":true}`) // it has its head, and there is nothing to read
	require.Equal(t, http.StatusOK, res.StatusCode)
	whole := exchangetest.Post(t, url, `{`+hello+`}`)
	require.Equal(t, http.StatusOK, whole.StatusCode)
	l.Says(t, exchangetest.Text("a"))
	l.Ends(task.FinishStop)
	require.Contains(t, exchangetest.Read(t, res.Body), `"content":"a"`)
	got := exchangetest.Read(t, whole.Body)
	require.True(t, strings.HasPrefix(got, " "))
	require.Contains(t, got, `"content":"a"`)
	require.True(t, json.Valid([]byte(got)))
}

// LO-407: a whole answer that fails behind its white space breaks.
func TestAWholeAnswerThatFailsBreaks(t *testing.T) {
	l := exchangetest.New()
	res := exchangetest.Post(t, serve(t, l, func(o *exchange.Options) { o.HoldWhole = time.Millisecond })+"/v1/chat/completions", `{`+hello+`}`)
	l.Fails(task.Errorf(task.WorkerReset, "gone"))
	_, err := io.ReadAll(res.Body)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
}

// LO-408: models, one by one too, with slashes in their ids.
func TestModels(t *testing.T) {
	url := serve(t, exchangetest.New())
	get := func(path string) (int, string) {
		res, err := http.Get(url + path)
		require.NoError(t, err)
		defer res.Body.Close()
		return res.StatusCode, exchangetest.Read(t, res.Body)
	}
	status, body := get("/v1/models")
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, body, `{"id":"coder","object":"model","created":0,"owned_by":"llama-orch","context_length":4096},{"id":"org/haiku"`)
	for _, method := range []string{http.MethodHead, http.MethodOptions} {
		res := exchangetest.Do(t, method, url+"/v1/models/", "")
		require.Less(t, res.StatusCode, 300)
		require.Empty(t, exchangetest.Read(t, res.Body))
		require.Equal(t, map[string]string{http.MethodOptions: "GET, HEAD, OPTIONS"}[method], res.Header.Get("Allow"))
	}
	status, body = get("/v1/models/org/haiku")
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, body, `{"id":"org/haiku"`)
	status, body = get("/v1/models/gpt-4o")
	require.Equal(t, http.StatusNotFound, status)
	require.Contains(t, body, `there is no model \"gpt-4o\"; there are: coder, org/haiku`)
	require.Contains(t, body, `model_not_found`)
}

// LO-408: a client's next request goes on the connection that its stream had, though that request had a body.
func TestRequestsShareAConnection(t *testing.T) {
	l := exchangetest.New()
	l.Says(t, exchangetest.Text("a"))
	l.Ends(task.FinishStop)
	url := serve(t, l) + "/v1/chat/completions"
	dials := 0
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		dials++
		return new(net.Dialer).DialContext(ctx, network, addr)
	}}}
	defer client.CloseIdleConnections()
	for _, more := range []string{`,"stream":true`, "", `,"stream":true`, `,"stream":true,"user":"` + strings.Repeat("long ", 10_000) + `"`, ""} {
		res, err := client.Post(url, "application/json", strings.NewReader(`{`+hello+more+`}`))
		require.NoError(t, err)
		require.Contains(t, exchangetest.Read(t, res.Body), `"content":"a"`)
		require.NoError(t, res.Body.Close())
	}
	require.Equal(t, 1, dials)
}

// LO-408: a token costs no allocation, whatever it is a piece of.
func TestChunksAllocateNothing(t *testing.T) {
	plain := newChunks(head{ID: "x", Model: "m"}, true, true)
	legacy := newChunks(head{ID: "x", Model: "m"}, true, false)
	legacy.legacy = true
	for name, c := range map[string]*chunks{"chat": plain, "functions": legacy, "completion": newChunks(head{ID: "x", Model: "m"}, false, true)} {
		for _, kind := range []task.EventKind{task.EventReasoning, task.EventText, task.EventToolCall} {
			for _, call := range []task.CallPart{{ID: "call_1", Name: "f"}, {}} {
				e := task.Event{Kind: kind, Text: []byte("frog \"pond\"\n"), Call: call}
				b := c.Append(make([]byte, 0, 4096), e)[:0]
				require.Zero(t, testing.AllocsPerRun(100, func() { b = c.Append(b[:0], e) }), name)
				require.NotEmpty(t, b, name)
			}
		}
	}
}

// LO-404: no body makes the decoders fail in a way of their own, and what they take can be said back in an answer.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{` + hello + `,"stop":["a"],"n":1,"tools":[{"function":{"name":"f"}}],"tool_choice":{"type":"function","name":"f"}}`))
	f.Add([]byte(`{"model":"c","prompt":["a"],"input":null,"functions":[{"name":"f"}],"function_call":"auto","logit_bias":{"1":2}}`))
	f.Add([]byte(`{` + ask + `,"text":{"format":{"type":"json_schema","schema":{}}},"reasoning":{"effort":"low"},"metadata":{"a":"b"}}`))
	f.Add([]byte(`{"model":"c","input":[{"type":"reasoning","content":[{"text":"a"}]},{"type":"function_call","arguments":{}},{"role":"user","content":[{"type":"input_image","image_url":"` + pixel + `"}]}]}`))
	f.Add([]byte(`{` + ask + `,"previous_response_id":"resp_t9"}`))
	f.Add([]byte(`{"model":"c","input":[{"type":"item_reference","id":"msg_t9_1"},{"type":"item_reference","id":"fc_t9_in_4"}]}`))
	f.Add([]byte(`{"model":"c","query":"q","documents":["a",{"text":"b"}],"top_n":1}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, in := range []interface{ request() (task.Request, error) }{
			new(chatRequest), new(completionRequest), new(embeddingsRequest), new(rerankRequest), new(goesOn),
		} {
			r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(string(body)))
			if _, err := lenient.Decode(r, in); err != nil {
				require.True(t, task.HasCode(err, task.InvalidParams), "%v", err)
				continue
			}
			q, err := in.request()
			if err != nil {
				require.True(t, task.HasCode(err, task.InvalidParams) || task.HasCode(err, task.NotFound), "%v", err)
				continue
			}
			if in, ok := in.(*goesOn); ok {
				answer := newResponse("t1", exchangetest.Epoch, in.head(q)).show(task.Record{State: task.Completed, End: &task.End{}})
				require.True(t, json.Valid(answer), "%s", answer)
			}
		}
	})
}
