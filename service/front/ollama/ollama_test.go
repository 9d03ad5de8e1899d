// SPDX-License-Identifier: GPL-3.0-or-later

package ollama

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/front/exchange"
	"github.com/llama-orch/llama-orch/service/front/exchange/exchangetest"
	"github.com/llama-orch/llama-orch/service/task"
)

const (
	hello = `"model":"coder:latest","messages":[{"role":"user","content":"hi"}]`
	begin = `{"model":"coder:latest","created_at":"2023-11-14T22:13:19Z",`
	total = `"total_duration":7000000000,"load_duration":2000000000,"prompt_eval_count":5,"prompt_eval_duration":2000000000,"eval_count":2,"eval_duration":3000000000`
	proof = `"receipt":{"Determinism":"strict","Fingerprint":"fp-1","Seed":"7"}`
)

// LO-402, LO-424: a chat, streamed, which is the default.
func TestAChatIsStreamed(t *testing.T) {
	l, lib := exchangetest.New(), &library{}
	l.Says(t, exchangetest.Reasoning("hm"), exchangetest.Text("a \"b\"\n"), exchangetest.Text("蛙"))
	ends(l, task.FinishLength)
	res := exchangetest.Post(t, serve(t, l, lib)+"/api/chat", `{`+hello+`}`)
	require.Equal(t, http.StatusOK, res.StatusCode)
	require.Equal(t, "application/x-ndjson", res.Header.Get("Content-Type"))
	require.Equal(t, "t1", res.Header.Get("X-Task-Id"))
	const tail = `},"done":false}` + "\n"
	linesAre(t, begin+`"message":{"role":"assistant","content":"","thinking":"hm"`+tail+
		begin+`"message":{"role":"assistant","content":"a \"b\"\n"`+tail+
		begin+`"message":{"role":"assistant","content":"蛙"`+tail+
		begin+`"message":{"role":"assistant","content":""},"done":true,"done_reason":"length",`+total+`,`+proof+"}\n", exchangetest.Read(t, res.Body))
	require.Zero(t, l.Cancels())
	require.Equal(t, "coder", l.Last().ModelRef)
	require.Empty(t, lib.asked())
}

// LO-424: calls come whole, with objects, before the last line; pieces of several calls may come in any order. One that was cut off is text.
func TestCallsOfTools(t *testing.T) {
	l := exchangetest.New()
	l.Says(t, exchangetest.Text("so"), exchangetest.Call(0, "call_1", "f", `{"a`), exchangetest.Call(1, "call_2", "g", ""), exchangetest.Call(0, "", "", `":`+"\n"+` 1}`),
		exchangetest.Call(2, "call_3", "h", `{"path": "x`))
	ends(l, task.FinishLength)
	url := serve(t, l, &library{}) + "/api/chat"
	const whole = `"tool_calls":[{"id":"call_1","function":{"index":0,"name":"f","arguments":{"a":1}}},{"id":"call_2","function":{"index":1,"name":"g","arguments":{}}}]`
	got := strings.SplitAfter(exchangetest.Read(t, exchangetest.Post(t, url, `{`+hello+`}`).Body), "\n")
	require.Len(t, got, 5)
	linesAre(t, begin+`"message":{"role":"assistant","content":"{\"name\":\"h\",\"arguments\":{\"path\": \"x"},"done":false}`+"\n", got[1])
	linesAre(t, begin+`"message":{"role":"assistant","content":"",`+whole+`},"done":false}`+"\n", got[2])
	require.Contains(t, got[3], `"done":true`)
	require.Empty(t, got[4])
	got[0] = exchangetest.Read(t, exchangetest.Post(t, url, `{`+hello+`,"stream":false}`).Body)
	linesAre(t, begin+`"message":{"role":"assistant","content":"so{\"name\":\"h\",\"arguments\":{\"path\": \"x",`+whole+`},"done":true,"done_reason":"length",`+total+"}\n", got[0])
	l = exchangetest.New()
	l.Says(t, exchangetest.Call(0, "call_1", "f", `{}`))
	ends(l, task.FinishToolCalls)
	url = serve(t, l, &library{}) + "/api/chat"
	for _, stream := range []string{"true", "false"} {
		said := exchangetest.Read(t, exchangetest.Post(t, url, `{`+hello+`,"stream":`+stream+`}`).Body)
		require.Contains(t, said, `"done_reason":"stop"`, "the dialect has no word of its own for calls")
	}
}

// LO-402, LO-424: whole answers, and completions.
func TestWholeAnswers(t *testing.T) {
	l := exchangetest.New()
	l.Says(t, exchangetest.Reasoning("hm"), exchangetest.Text("a"), exchangetest.Text("b"))
	ends(l, task.FinishStop)
	url := serve(t, l, &library{})
	res := exchangetest.Post(t, url+"/api/chat", `{`+hello+`,"stream":false}`)
	require.Equal(t, "fp-1", res.Header.Get("X-Receipt-Fingerprint"))
	require.Equal(t, "application/json", res.Header.Get("Content-Type"))
	linesAre(t, begin+`"message":{"role":"assistant","content":"ab","thinking":"hm"},"done":true,"done_reason":"stop",`+total+"}\n", exchangetest.Read(t, res.Body))
	linesAre(t, begin+`"response":"ab","thinking":"hm","done":true,"done_reason":"stop",`+total+"}\n",
		exchangetest.Read(t, exchangetest.Post(t, url+"/api/generate", `{"model":"coder:latest","prompt":"x","stream":false}`).Body))
	linesAre(t, begin+`"response":"","thinking":"hm","done":false}`+"\n"+begin+`"response":"a","done":false}`+"\n"+begin+`"response":"b","done":false}`+"\n"+
		begin+`"response":"","done":true,"done_reason":"stop",`+total+`,`+proof+"}\n",
		exchangetest.Read(t, exchangetest.Post(t, url+"/api/generate/", `{"model":"coder:latest","prompt":"x"}`).Body))
}

// LO-424: embeddings, by the new call and the older one.
func TestEmbeddings(t *testing.T) {
	l := exchangetest.New()
	l.Answers(`{"embeddings":[[1,-0.5]]}`)
	url := serve(t, l, &library{})
	require.JSONEq(t, `{"model":"e","embeddings":[[1,-0.5]],"total_duration":7000000000,"load_duration":2000000000,"prompt_eval_count":3}`,
		exchangetest.Read(t, exchangetest.Post(t, url+"/api/embed", `{"model":"e","input":["a"],"truncate":true,"keep_alive":"5m"}`).Body))
	require.Equal(t, task.Embedding, l.Last().Workload)
	require.Equal(t, []string{"a"}, l.Last().Inputs)
	require.JSONEq(t, `{"embedding":[1,-0.5]}`, exchangetest.Read(t, exchangetest.Post(t, url+"/api/embeddings", `{"model":"e","prompt":"b"}`).Body))
	require.Equal(t, []string{"b"}, l.Last().Inputs)
}

// LO-424: a client that asked for it has the model unloaded behind its answer.
func TestKeepAliveOfZeroReleasesThePool(t *testing.T) {
	l, lib := exchangetest.New(), &library{}
	l.Says(t, exchangetest.Text("a"))
	ends(l, task.FinishStop)
	url := serve(t, l, lib) + "/api/chat"
	for _, keep := range []string{`-1`, `"5m"`, `300`, `null`, `"-1"`} {
		exchangetest.Read(t, exchangetest.Post(t, url, `{`+hello+`,"keep_alive":`+keep+`}`).Body)
	}
	require.Empty(t, lib.asked())
	exchangetest.Read(t, exchangetest.Post(t, url, `{`+hello+`,"keep_alive":0}`).Body)
	exchangetest.Read(t, exchangetest.Post(t, url, `{`+hello+`,"keep_alive":"0s","stream":false}`).Body)
	require.Equal(t, []string{"release p1", "release p1"}, lib.asked())
}

// LO-424: the figures of a task that nobody knows any more are those of its end.
func TestFiguresOfATaskThatIsForgotten(t *testing.T) {
	f := New(Options{Status: func(context.Context, string) (task.Status, error) {
		return task.Status{}, task.Errorf(task.NotFound, "gone")
	}})
	require.Equal(t, figures{Total: 1e9, PromptCount: 2, Count: 3, Time: 1e9}, f.ended("t", true)(&task.End{TokensIn: 2, TokensOut: 3, DecodeTimeMS: 1000}))
	f.o.Status = func(context.Context, string) (task.Status, error) { // the clock was set back, and the end is not recorded yet
		return task.Status{AcceptedAt: accepted, StartedAt: accepted.Add(-time.Second)}, nil
	}
	f.x = exchange.New("", exchange.Options{Now: func() time.Time { return accepted }})
	require.Equal(t, figures{Total: 1e9, PromptTime: 9e8, Time: 1e8}, f.ended("t", false)(&task.End{DecodeTimeMS: 100}))
}

// LO-405, LO-407, LO-424: a failure before the first line has its status; later it is the last line of a stream that breaks off.
func TestFailures(t *testing.T) {
	l := exchangetest.New()
	l.Fails(task.Errorf(task.PoolUnavailable, "no worker").Retry(1500 * time.Millisecond))
	url := serve(t, l, &library{}) + "/api/chat"
	for _, more := range []string{``, `,"stream":false`} {
		res := exchangetest.Post(t, url, `{`+hello+more+`}`)
		require.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
		require.Equal(t, "2", res.Header.Get("Retry-After"))
		require.Equal(t, "application/json", res.Header.Get("Content-Type"))
		require.JSONEq(t, `{"error":"overloaded: no worker"}`, exchangetest.Read(t, res.Body))
	}
	l = exchangetest.New()
	l.Says(t, exchangetest.Text("a"))
	body := bufio.NewReader(exchangetest.Post(t, serve(t, l, &library{})+"/api/chat", `{`+hello+`}`).Body)
	_, err := body.ReadString('\n')
	require.NoError(t, err)
	l.Fails(task.Errorf(task.WorkerReset, "the worker died"))
	got, err := io.ReadAll(body)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	linesAre(t, `{"error":"overloaded: the worker died"}`+"\n", string(got))
	require.Zero(t, l.Cancels())
}

// LO-404, LO-424: the words that clients look for.
func TestErrors(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
		says   string
	}{
		{task.Errorf(task.ModelNotFound, "use coder"), 404, "model 'coder:latest' not found: use coder"},
		{task.Errorf(task.AdmissionReject, "the queue is full").Retry(time.Hour), 429, "overloaded: the queue is full"},
		{task.Errorf(task.BudgetExceeded, "the budget is spent").Retry(time.Hour), 429, "the budget is spent"}, // nothing is overloaded
		{task.Errorf(task.RateLimited, "too many").Retry(time.Second), 429, "too many"},
		{task.Errorf(task.InvalidParams, "too long").Because(&task.TooLongError{Tokens: 300, Ctx: 256}), 400, "the input length exceeds the context length: prompt is too long: 300 tokens > 256 maximum. Shorten it."},
		{task.Errorf(task.PoolUnready, "it is drained").Forever(), 503, "it is drained"},
	} {
		l := exchangetest.New()
		l.Refusal = c.err
		url := serve(t, l, &library{})
		for path, body := range map[string]string{"/api/chat": hello, "/api/generate": `"model":"coder:latest","prompt":"x"`, "/api/embed": `"model":"coder:latest","input":"x"`} {
			res := exchangetest.Post(t, url+path, `{`+body+`}`)
			require.Equal(t, c.status, res.StatusCode)
			var got errorBody
			require.NoError(t, json.NewDecoder(res.Body).Decode(&got))
			require.Equal(t, c.says, got.Error)
		}
	}
}

// LO-405: who goes before the last line cancels the task.
func TestAClientThatGoesCancelsItsTask(t *testing.T) {
	l := exchangetest.New()
	l.Says(t, exchangetest.Text("a"))
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, serve(t, l, &library{})+"/api/chat", strings.NewReader(`{`+hello+`}`))
	require.NoError(t, err)
	res, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer res.Body.Close()
	_, err = bufio.NewReader(res.Body).ReadString('\n')
	require.NoError(t, err)
	leave()
	require.Eventually(t, func() bool { return l.Cancels() == 1 }, time.Minute, time.Millisecond)
}

// LO-406, LO-424: a stream whose task waits longer gets its head, and white space, which every client of NDJSON takes.
func TestWhileATaskWaits(t *testing.T) {
	l := exchangetest.New()
	url := serve(t, l, &library{}, func(o *exchange.Options) { o.Hold = time.Millisecond })
	res := exchangetest.Post(t, url+"/api/chat", `{`+hello+`}`) // its head is there although nothing was said
	l.Says(t, exchangetest.Text("a"))
	ends(l, task.FinishStop)
	line, err := bufio.NewReader(res.Body).ReadBytes('\n')
	require.NoError(t, err)
	var got chatAnswer
	require.NoError(t, json.Unmarshal(append(lineByLine.KeepAlive(nil), line...), &got))
	require.Equal(t, "a", got.Message.Content)
	b, err := lineByLine.Metrics(nil, task.Metrics{QueuePosition: 4})
	require.NoError(t, err)
	require.Empty(t, b)
}

// LO-424: an error that ends a stream alone is a line too.
func TestTheDialectsErrorIsALine(t *testing.T) {
	b, err := lineByLine.Error([]byte("x"), task.Errorf(task.Conflict, `no "way"`))
	require.NoError(t, err)
	require.Equal(t, `x{"error":"no \"way\""}`+"\n", string(b))
}

// A token costs no allocation.
//
// LO-424
func TestLinesAllocateNothing(t *testing.T) {
	for _, chat := range []bool{true, false} {
		l := newLines(head{Model: "coder"}, chat, nil)
		b := make([]byte, 0, 1024)
		for _, kind := range []task.EventKind{task.EventText, task.EventReasoning} {
			e := task.Event{Kind: kind, Index: 1, Text: []byte("a \"frog\"\n")}
			require.Zero(t, testing.AllocsPerRun(100, func() { b = l.Append(b[:0], e) }))
			require.True(t, json.Valid(bytes.TrimSpace(b)), "%s", b)
		}
	}
}

// LO-425: what clients ask first.
func TestTheServerIsThere(t *testing.T) {
	url := serve(t, exchangetest.New(), &library{})
	require.Equal(t, "Ollama is running", exchangetest.Read(t, exchangetest.Do(t, http.MethodGet, url+"/", "").Body))
	require.Equal(t, http.StatusOK, exchangetest.Do(t, http.MethodHead, url, "").StatusCode)
	require.JSONEq(t, `{"version":"`+Version+`"}`, exchangetest.Read(t, exchangetest.Do(t, http.MethodGet, url+"/api/version", "").Body))
	f := New(Options{})
	require.NotZero(t, f.Route(httptest.NewRequest(http.MethodGet, "/", http.NoBody)).Access, "without a token")
	require.Zero(t, f.Route(httptest.NewRequest(http.MethodGet, "/api/tags", http.NoBody)).Access)
}
