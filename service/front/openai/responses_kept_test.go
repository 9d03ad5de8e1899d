// SPDX-License-Identifier: GPL-3.0-or-later

package openai

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
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

// spoken is how a task t9 ended that has a bit of everything.
func spoken() task.Record {
	in := responseRequest{common: common{Model: "coder"}, Instructions: new("be brief"), Input: json.RawMessage(`[
		{"role":"developer","content":"d"},{"role":"user","content":[{"type":"input_text","text":"a"},{"type":"input_image","image_url":"` + pixel + `"}]},
		{"type":"reasoning","content":[{"text":"hm"}]},{"type":"function_call","call_id":"c0","name":"f","arguments":"{}"},
		{"type":"function_call_output","call_id":"c0","output":"y"}]`)}
	q, err := in.request(nobody())
	if err != nil {
		panic(err)
	}
	q.Front = task.Front{Dialect: "openai", Reply: exchange.JSON(reply{Head: in.head(q), Chain: []string{"t7", "t8"}})}
	return task.Record{
		Task: task.Task{ID: "t9", Request: q, AcceptedAt: exchangetest.Epoch}, State: task.Completed, FinishedAt: exchangetest.Epoch.Add(2 * time.Second),
		Transcript: task.Transcript{Text: `thinkfrog{"x":1}`, Ends: []int{5, 9, 16}, Marks: []task.Mark{
			{Piece: 0, Kind: task.EventReasoning}, {Piece: 2, Kind: task.EventToolCall, Call: task.CallPart{ID: "c1", Name: "g"}},
		}},
		End: &task.End{TokensIn: 3, TokensOut: 3, FinishReason: task.FinishToolCalls, Receipt: task.Receipt{Seed: 7, Determinism: task.Strict, Fingerprint: "fp-1"}},
	}
}

// nobody has responses.
func nobody() *earlier {
	return &earlier{known: map[string]*kept{}, read: func(string) (*kept, error) { return nil, task.Errorf(task.NotFound, "no") }}
}

// goesOn is a request where there is one response, t9, that it can go on from.
type goesOn struct{ responseRequest }

func (g *goesOn) request() (task.Request, error) {
	l := exchangetest.New()
	l.Keep(spoken())
	return g.responseRequest.request(New(exchange.Options{Tasks: l}).earlier(context.Background()))
}

// get gets what lies at a path, and its status.
func get(t *testing.T, method, at string) (int, string) {
	t.Helper()
	res := exchangetest.Do(t, method, at, "")
	return res.StatusCode, exchangetest.Read(t, res.Body)
}

// whole decodes a response.
func whole(t *testing.T, body string) (v view1) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(body), &v), body)
	return v
}

// LO-430: a response is kept, where its client does not say otherwise, and is later what its client was sent.
func TestAResponseIsKept(t *testing.T) {
	for more, isKept := range map[string]bool{``: true, `,"store":true`: true, `,"store":null`: true, `,"store":false`: false} {
		l := exchangetest.New()
		l.Says(t, exchangetest.Reasoning("hm"), exchangetest.Text("a"))
		l.Ends(task.FinishStop)
		at := serve(t, l) + "/v1/responses"
		sent := exchangetest.Read(t, exchangetest.Post(t, at, `{`+ask+`,"instructions":"i","metadata":{"m":"n"},"tools":[{"type":"function","name":"f","parameters":{ "a" : "<&>" }}]`+more+`}`).Body)
		q := l.Last()
		require.Equal(t, isKept, q.KeepText == 0)
		require.Equal(t, task.CancelIt, q.OnDisconnect)
		res := exchangetest.Do(t, http.MethodGet, at+"/resp_t1?include[]=message.output_text.logprobs", "")
		body := exchangetest.Read(t, res.Body)
		if !isKept {
			require.Equal(t, http.StatusNotFound, res.StatusCode)
			require.Contains(t, body, "Response with id 'resp_t1' not found")
			require.Empty(t, q.Front.Reply)
			continue
		}
		require.Equal(t, sent, body)
		require.Equal(t, "t1", res.Header.Get("X-Task-Id"))
		require.Equal(t, "fp-1", res.Header.Get("X-Receipt-Fingerprint"))
		require.Contains(t, body, `"completed_at":1700000000`)
		require.Contains(t, body, `"parameters":{"a":"<&>"}`)
	}
}

// LO-430: what is no response that is kept is 404.
func TestResponsesThatAreNotThere(t *testing.T) {
	l := exchangetest.New()
	native, chat, gone, other := spoken(), spoken(), spoken().Erased(time.Now()), spoken()
	native.Task.ID, native.Task.Request.Front = "n", task.Front{}
	chat.Task.ID, chat.Task.Request.Front.Reply = "c", nil
	gone.Task.ID = "d"
	other.Task.ID, other.Task.Request.Front.Dialect = "o", "anthropic"
	for _, r := range []task.Record{native, chat, gone, other, spoken()} {
		l.Keep(r)
	}
	at := serve(t, l) + "/v1/responses/"
	for _, id := range []string{"resp_n", "resp_c", "resp_d", "resp_o", "resp_x", "resp_", "t9", "x", "resp_%00", "resp_" + strings.Repeat("a", 10000)} {
		for _, call := range [][2]string{{"GET", ""}, {"GET", "?stream=true"}, {"DELETE", ""}, {"POST", "/cancel"}, {"GET", "/input_items"}} {
			code, body := get(t, call[0], at+id+call[1])
			require.Equal(t, http.StatusNotFound, code, id)
			require.Contains(t, body, `"code":"not_found"`)
			require.Less(t, len(body), 600)
		}
	}
	for _, call := range [][2]string{{"POST", "resp_t9"}, {"GET", "resp_t9/cancel"}, {"DELETE", "resp_t9/input_items"}} {
		code, body := get(t, call[0], at+call[1])
		require.Equal(t, http.StatusMethodNotAllowed, code)
		require.Contains(t, body, "takes")
	}
	for _, path := range []string{"resp_t9/cancel/x", "resp_t9/output", "resp_t9/cancel/"} {
		code, _ := get(t, http.MethodGet, at+path)
		require.Contains(t, []int{http.StatusNotFound, http.StatusMethodNotAllowed}, code)
	}
}

// LO-430: a response that has not ended shows how far it is, and one that did not end well why.
func TestHowFarAResponseIs(t *testing.T) {
	l := exchangetest.New()
	at := serve(t, l) + "/v1/responses"
	look := func() view1 {
		code, body := get(t, http.MethodGet, at+"/resp_t1")
		require.Equal(t, http.StatusOK, code)
		return whole(t, body)
	}
	exchangetest.Read(t, exchangetest.Post(t, at, `{`+ask+`,"background":true}`).Body)
	require.Equal(t, "queued", look().Status)
	l.Starts()
	got := look()
	require.Equal(t, "in_progress", got.Status)
	require.Empty(t, got.Output)
	l.Says(t, exchangetest.Reasoning("hm"), exchangetest.Call(0, "c0", "f", `{}`), exchangetest.Text("ab"))
	got = look()
	require.Equal(t, []string{"completed", "in_progress", "in_progress"}, []string{got.Output[0].Status, got.Output[1].Status, got.Output[2].Status})
	require.Equal(t, "ab", got.Output[2].Content[0].Text)
	l.Fails(task.Errorf(task.WorkerReset, "gone").Retry(0))
	got = look()
	require.Equal(t, "failed", got.Status)
	require.Equal(t, "server_error", got.Error.Code)
	require.Equal(t, "incomplete", got.Output[2].Status)
	code, body := get(t, http.MethodGet, at+"/resp_t1?stream=maybe")
	require.Equal(t, http.StatusBadRequest, code)
	require.Contains(t, body, `"param":"stream"`)
}

// LO-431: a response in the background answers at once, and goes on without its client.
func TestInTheBackground(t *testing.T) {
	l := exchangetest.New()
	at := serve(t, l) + "/v1/responses"
	res := exchangetest.Post(t, at, `{`+ask+`,"background":true,"store":true}`)
	require.Equal(t, http.StatusOK, res.StatusCode)
	got := exchangetest.Read(t, res.Body)
	require.Equal(t, "queued", whole(t, got).Status)
	require.Contains(t, got, `"background":true`)
	require.Equal(t, task.Continue, l.Last().OnDisconnect)
	require.Zero(t, l.Last().KeepText)
	l.Says(t, exchangetest.Text("a"))
	l.Ends(task.FinishStop)
	require.Zero(t, l.Cancels())
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, at, strings.NewReader(`{`+ask+`,"background":true}`))
	require.NoError(t, err)
	r.Header.Set("Idempotency-Key", "k")
	res, err = http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer res.Body.Close()
	require.Equal(t, "completed", whole(t, exchangetest.Read(t, res.Body)).Status, "who repeats the request hears how far it is")
}

// LO-431: a stream of a response in the background is not held back, goes on when its client leaves, and is sent anew with the same bytes.
func TestABackgroundStream(t *testing.T) {
	l := exchangetest.New()
	at := serve(t, l) + "/v1/responses"
	ctx, leave := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, at, strings.NewReader(`{`+ask+`,"background":true,"stream":true}`))
	require.NoError(t, err)
	res, err := http.DefaultClient.Do(r) // while the task waits
	require.NoError(t, err)
	in := bufio.NewReader(res.Body)
	for line := ""; !strings.Contains(line, `"type":"response.queued"`); {
		line, err = in.ReadString('\n')
		require.NoError(t, err)
		require.NotContains(t, line, "in_progress")
	}
	leave()
	_ = res.Body.Close()
	l.Says(t, exchangetest.Text("a"))
	l.Ends(task.FinishStop)
	_, again := get(t, http.MethodGet, at+"/resp_t1?stream=true")
	require.Equal(t, []string{
		"created", "queued", "in_progress", "output_item.added", "content_part.added", "output_text.delta", "output_text.done", "content_part.done", "output_item.done", "completed",
	}, types(events(t, again)))
	require.Equal(t, "queued", events(t, again)[0].Response.Status)
	require.Zero(t, l.Cancels())
}

// LO-431: a stop of the orchestrator is not the end of a response that goes on: its stream breaks off, and says nothing of a failure.
func TestAStreamThatEndsBeforeItsResponse(t *testing.T) {
	for _, background := range []bool{true, false} {
		l := exchangetest.New()
		l.Says(t, exchangetest.Text("a"))
		at := serve(t, l) + "/v1/responses"
		res := exchangetest.Post(t, at, fmt.Sprintf(`{%s,"background":%t,"stream":true}`, ask, background))
		in := bufio.NewReader(res.Body)
		for line := ""; !strings.Contains(line, `"delta":"a"`); {
			var err error
			line, err = in.ReadString('\n')
			require.NoError(t, err)
		}
		l.Detaches()
		rest, err := io.ReadAll(in)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		require.Equal(t, !background, strings.Contains(string(rest), "response.failed"))
	}
}

// LO-434: a response in the background is canceled, as often as one likes. Another one is not.
func TestCancelingResponses(t *testing.T) {
	l := exchangetest.New()
	url := serve(t, l) + "/v1/responses"
	exchangetest.Read(t, exchangetest.Post(t, url, `{`+ask+`,"background":true}`).Body)
	l.Says(t, exchangetest.Text("a"))
	l.OnCancel = func() { l.Fails(task.Errorf(task.Canceled, "the task was canceled by its client")) }
	for range 2 {
		code, body := get(t, http.MethodPost, url+"/resp_t1/cancel")
		require.Equal(t, http.StatusOK, code)
		got := whole(t, body)
		require.Equal(t, statusCancelled, got.Status)
		require.Nil(t, got.Error)
		require.Equal(t, "incomplete", got.Output[0].Status)
		l.OnCancel = func() {}
	}
	l.Keep(spoken())
	code, body := get(t, http.MethodPost, url+"/resp_t9/cancel")
	require.Equal(t, http.StatusBadRequest, code)
	require.Contains(t, body, "Cannot cancel a synchronous response")
}

// LO-434: a response that is deleted is gone. One that runs is ended before.
func TestDeletingResponses(t *testing.T) {
	l := exchangetest.New()
	url := serve(t, l) + "/v1/responses"
	exchangetest.Read(t, exchangetest.Post(t, url, `{`+ask+`,"background":true}`).Body)
	l.OnCancel = func() { l.Fails(task.Errorf(task.Canceled, "the task was canceled by its client")) }
	l.Keep(spoken())
	for _, id := range []string{"resp_t1", "resp_t9"} {
		code, body := get(t, http.MethodDelete, url+"/"+id)
		require.Equal(t, http.StatusOK, code)
		require.JSONEq(t, `{"id":"`+id+`","object":"response","deleted":true}`, body)
		for _, method := range []string{http.MethodGet, http.MethodDelete} {
			code, _ = get(t, method, url+"/"+id)
			require.Equal(t, http.StatusNotFound, code)
		}
	}
	require.Equal(t, 1, l.Cancels())
}

// LO-434: what a model was given is listed, without instructions.
func TestInputItems(t *testing.T) {
	l := exchangetest.New()
	l.Keep(spoken())
	at := serve(t, l) + "/v1/responses/resp_t9/input_items"
	list := func(query string) (ids []string, all inputList, body string) {
		code, body := get(t, http.MethodGet, at+query)
		require.Equal(t, http.StatusOK, code, body)
		require.NoError(t, json.Unmarshal([]byte(body), &all))
		for _, i := range all.Data {
			ids = append(ids, i.ID)
		}
		return ids, all, body
	}
	ids, _, body := list("?order=asc&include=message.input_image.image_url")
	require.JSONEq(t, `{"object":"list","has_more":false,"first_id":"msg_t9_in_0","last_id":"fco_t9_in_4","data":[
		{"id":"msg_t9_in_0","type":"message","status":"completed","role":"system","content":[{"type":"input_text","text":"d"}]},
		{"id":"msg_t9_in_1","type":"message","status":"completed","role":"user","content":[{"type":"input_text","text":"a"},{"type":"input_image","detail":"auto","image_url":"`+pixel+`"}]},
		{"id":"rs_t9_in_2","type":"reasoning","status":"completed","summary":[],"content":[{"type":"reasoning_text","text":"hm"}]},
		{"id":"fc_t9_in_3","type":"function_call","status":"completed","call_id":"c0","name":"f","arguments":"{}"},
		{"id":"fco_t9_in_4","type":"function_call_output","status":"completed","call_id":"c0","output":"y"}]}`, body)
	down, _, body := list("")
	require.Contains(t, body, `{"type":"input_image","detail":"auto","image_url":null}`)
	require.Equal(t, []string{ids[4], ids[3], ids[2], ids[1], ids[0]}, down)
	some, all, _ := list("?order=asc&limit=2&after=" + ids[0])
	require.Equal(t, ids[1:3], some)
	require.True(t, all.More)
	some, all, _ = list("?limit=2&after=" + ids[1])
	require.Equal(t, ids[:1], some)
	require.False(t, all.More)
	none, all, _ := list("?after=" + ids[0])
	require.Empty(t, none)
	require.Empty(t, all.First)
	for query, param := range map[string]string{
		"?limit=0": "limit", "?limit=101": "limit", "?limit=x": "limit", "?order=up": "order", "?after=msg_t8_in_0": "after", "?after=" + strings.Repeat("x", 9000): "after",
	} {
		code, body := get(t, http.MethodGet, at+query)
		require.Equal(t, http.StatusBadRequest, code)
		require.Contains(t, body, `"param":"`+param+`"`)
		require.Less(t, len(body), 600)
	}
}

// LO-434: a message that an assistant left empty, and results with images, are items too.
func TestRareInputItems(t *testing.T) {
	l := exchangetest.New()
	r := spoken()
	r.Task.Request.Messages = []task.Message{{Role: "user"}, {Role: "assistant"}, {Role: "assistant", Content: "c"}, {Role: "tool", ToolCallID: "c0", Parts: []task.Part{{Text: "t"}, {Image: image}}}}
	l.Keep(r)
	_, body := get(t, http.MethodGet, serve(t, l)+"/v1/responses/resp_t9/input_items?order=asc")
	require.Contains(t, body, `{"id":"msg_t9_in_1","type":"message","status":"completed","role":"assistant","content":[{"type":"output_text","text":"","annotations":[],"logprobs":[]}]}`)
	require.Contains(t, body, `"output":[{"type":"input_text","text":"t"},{"type":"input_image","detail":"auto","image_url":null}]`)
}
