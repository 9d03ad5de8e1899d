// SPDX-License-Identifier: GPL-3.0-or-later

package openai

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
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
	in := responseRequest{common: common{Model: "coder"}, Instructions: ptr("be brief"), Input: json.RawMessage(`[
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

func ptr[T any](v T) *T { return &v }

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
	defer res.Body.Close() //nolint:errcheck // it was read
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

// pieces are what a task says that has a bit of everything.
func pieces() []task.Piece {
	return []task.Piece{
		exchangetest.Reasoning("hm"), exchangetest.Reasoning(""), exchangetest.Reasoning("m"), exchangetest.Text("蛙\n"), exchangetest.Call(0, "c0", "f", ""),
		exchangetest.Call(0, "", "", `{"a"`), exchangetest.Call(1, "c1", "g", `{}`), exchangetest.Call(0, "", "", `:1}`), exchangetest.Text("then"), exchangetest.Text(" on"),
	}
}

// split are the frames of a stream that have a number, by that. What stands behind the last of them stays with it.
func split(t *testing.T, body string) []string {
	t.Helper()
	var all []string
	for frame := range strings.SplitAfterSeq(body, "\n\n") {
		if strings.HasPrefix(frame, "event: ") {
			require.Contains(t, frame, fmt.Sprintf(`"sequence_number":%d}`, len(all)))
			all = append(all, frame)
		} else if len(all) > 0 {
			all[len(all)-1] += frame
		}
	}
	return all
}

// LO-432: the events behind any number are, byte for byte, those that the first client was sent.
func TestAStreamFromAnyNumber(t *testing.T) {
	for _, background := range []bool{false, true} {
		for name, ends := range map[string]func(l *exchangetest.Line){
			"stop": func(l *exchangetest.Line) { l.Ends(task.FinishStop) }, "length": func(l *exchangetest.Line) { l.Ends(task.FinishLength) },
			"failed":   func(l *exchangetest.Line) { l.Fails(task.Errorf(task.WorkerReset, "gone").Retry(0)) },
			"canceled": func(l *exchangetest.Line) { l.Fails(task.Errorf(task.Canceled, "canceled")) },
		} {
			l := exchangetest.New()
			l.Says(t, pieces()...)
			url := serve(t, l) + "/v1/responses"
			res := exchangetest.Post(t, url, fmt.Sprintf(`{%s,"stream":true,"background":%t}`, ask, background))
			ends(l)
			first, err := io.ReadAll(res.Body)
			require.True(t, err == nil || errors.Is(err, io.ErrUnexpectedEOF), err)
			all := split(t, string(first))
			require.Greater(t, len(all), 20, name)
			for after := range len(all) {
				res := exchangetest.Do(t, http.MethodGet, fmt.Sprintf("%s/resp_t1?stream=true&starting_after=%d", url, after), "")
				rest, err := io.ReadAll(res.Body)
				require.True(t, err == nil || errors.Is(err, io.ErrUnexpectedEOF), err)
				require.Equal(t, strings.Join(all[after+1:], ""), string(rest), "%s after %d", name, after)
			}
			code, body := get(t, http.MethodGet, fmt.Sprintf("%s/resp_t1?stream=true&starting_after=%d", url, len(all)))
			require.Equal(t, http.StatusBadRequest, code)
			require.Contains(t, body, `"param":"starting_after"`)
			require.Contains(t, body, fmt.Sprintf("number %d", len(all)-1))
		}
	}
}

// LO-432: a reader of a response that runs gets what comes, from where it stands.
func TestAStreamGoesOn(t *testing.T) {
	l := exchangetest.New()
	url := serve(t, l) + "/v1/responses"
	exchangetest.Read(t, exchangetest.Post(t, url, `{`+ask+`,"background":true}`).Body)
	l.Says(t, pieces()[:5]...)
	code, body := get(t, http.MethodGet, url+"/resp_t1?stream=true&starting_after=999")
	require.Equal(t, http.StatusBadRequest, code)
	require.Contains(t, body, "no event 999")
	res := exchangetest.Do(t, http.MethodGet, url+"/resp_t1?stream=true&starting_after=4", "")
	require.Equal(t, http.StatusOK, res.StatusCode)
	l.Says(t, pieces()[5:]...)
	l.Ends(task.FinishStop)
	_, all := get(t, http.MethodGet, url+"/resp_t1?stream=true")
	require.Equal(t, strings.Join(split(t, all)[5:], ""), exchangetest.Read(t, res.Body))
	require.Zero(t, l.Cancels())
}

// LO-432: while a response is decoded again, a reader may hold more than there is. It waits, and is told where the response ends before that.
func TestAReaderWhoHoldsMore(t *testing.T) {
	for _, lost := range []bool{false, true} {
		l := exchangetest.New()
		l.Again = true
		url := serve(t, l) + "/v1/responses"
		exchangetest.Read(t, exchangetest.Post(t, url, `{`+ask+`,"background":true}`).Body)
		res := exchangetest.Do(t, http.MethodGet, url+"/resp_t1?stream=true&starting_after=6", "")
		require.Equal(t, http.StatusOK, res.StatusCode)
		if lost {
			l.Fails(task.Errorf(task.WorkerReset, "gone").Retry(0))
			got, err := io.ReadAll(res.Body)
			require.ErrorIs(t, err, io.ErrUnexpectedEOF)
			require.Equal(t, "event: error\ndata: {\"type\":\"error\",\"code\":\"invalid_value\",\"message\":\"this response has no event 6: its last one is number 2. "+
				"Leave `starting_after` out to read it from the start\",\"param\":\"starting_after\",\"sequence_number\":7}\n\n", string(got))
			continue
		}
		l.Says(t, exchangetest.Text("a"), exchangetest.Text("b"), exchangetest.Text("c"))
		l.Ends(task.FinishStop)
		require.Equal(t, []string{"output_text.delta", "output_text.done", "content_part.done", "output_item.done", "completed"}, types(events(t, exchangetest.Read(t, res.Body))))
	}
}

// LO-432: what is no number of an event is refused by name.
func TestWhatIsNoNumber(t *testing.T) {
	l := exchangetest.New()
	l.Keep(spoken())
	url := serve(t, l) + "/v1/responses/resp_t9?stream=true&starting_after="
	for _, text := range []string{"-1", "x", "1.5", "1e3", "", "99999999999999999999", "resp_t9", "+%00", strings.Repeat("9", 10000)} {
		code, body := get(t, http.MethodGet, url+text)
		require.Equal(t, http.StatusBadRequest, code, text)
		require.Contains(t, body, `"param":"starting_after"`)
		require.Less(t, len(body), 600)
	}
}

// FuzzStartingAfter: what stands behind it is a number from 0, or refused.
func FuzzStartingAfter(f *testing.F) {
	for _, seed := range []string{"0", "-1", "007", "2147483648", "x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		n, err := startingAfter(url.Values{afterParam: {text}})
		if err != nil {
			require.True(t, task.HasCode(err, task.InvalidParams), "%v", err)
			return
		}
		require.GreaterOrEqual(t, n, 0)
	})
}

// FuzzItemID: an id that is read is the id of what was read.
func FuzzItemID(f *testing.F) {
	for _, seed := range []string{"msg_t9_0", "fc_t9_in_12", "rs__1", "msg_a_in_in_3", "_x_0", "msg_key-0f_01"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, id string) {
		prefix, name, n, input, ok := itemID(id)
		if !ok {
			return
		}
		mark := ""
		if input {
			mark = inputMark
		}
		require.Equal(t, id, fmt.Sprintf("%s%s%s_%d", prefix, name, mark, n))
		require.NotEmpty(t, name)
	})
}

// LO-433: a chain has the prompt that the client would have sent with all items itself, but for the instructions.
func TestAChain(t *testing.T) {
	l := exchangetest.New()
	l.Keep(spoken())
	l.Ends(task.FinishStop)
	url := serve(t, l) + "/v1/responses"
	given := task.Message{Role: task.RoleUser, Parts: []task.Part{{Text: "a"}, {Image: image}}}
	before := []task.Message{
		given,
		{Role: "assistant", Reasoning: "hm", ToolCalls: []task.ToolCall{{ID: "c0", Name: "f", Arguments: "{}"}}},
		{Role: "tool", ToolCallID: "c0", Content: "y"},
		{Role: "assistant", Reasoning: "think", Content: "frog", ToolCalls: []task.ToolCall{{ID: "c1", Name: "g", Arguments: `{"x":1}`}}},
		{Role: "tool", ToolCallID: "c1", Content: "z"},
	}
	const more = `"input":[{"type":"function_call_output","call_id":"c1","output":"z"}]`
	for instructions, system := range map[string]string{``: "d", `"instructions":"now",`: "now\n\nd"} {
		body := exchangetest.Read(t, exchangetest.Post(t, url, `{"model":"coder","previous_response_id":"resp_t9",`+instructions+more+`}`).Body)
		require.Contains(t, body, `"previous_response_id":"resp_t9"`)
		require.Equal(t, append([]task.Message{{Role: "system", Content: system}}, before...), l.Last().Messages)
		require.Empty(t, l.Last().Chat.Tools)
		var kept reply
		require.NoError(t, json.Unmarshal(l.Last().Front.Reply, &kept))
		require.Equal(t, []string{"t7", "t8", "t9"}, kept.Chain)
	}
	exchangetest.Read(t, exchangetest.Post(t, url, `{"model":"coder","input":[{"type":"item_reference","id":"msg_t9_in_0"},{"type":"item_reference","id":"msg_t9_in_1"},
		{"type":"item_reference","id":"rs_t9_in_2"},{"type":"item_reference","id":"fc_t9_in_3"},{"type":"item_reference","id":"fco_t9_in_4"},
		{"type":"item_reference","id":"rs_t9_0"},{"type":"item_reference","id":"msg_t9_1"},{"type":"item_reference","id":"fc_t9_2"},`+more[len(`"input":[`):]+`}`).Body)
	require.Equal(t, append([]task.Message{{Role: "system", Content: "d"}}, before...), l.Last().Messages, "item by item")
	again := spoken()
	require.Equal(t, spoken(), again, "a record is not changed by who reads it")
}

// LO-433: a response that was cut off can be gone on from, also in the middle of a call.
func TestAChainBehindACut(t *testing.T) {
	l := exchangetest.New()
	cut := spoken()
	cut.Transcript.Text, cut.Transcript.Ends, cut.End.FinishReason = `thinkfrog{"x"`, []int{5, 9, 13}, task.FinishLength
	l.Keep(cut)
	l.Ends(task.FinishStop)
	exchangetest.Read(t, exchangetest.Post(t, serve(t, l)+"/v1/responses", `{`+ask+`,"previous_response_id":"resp_t9"}`).Body)
	require.Equal(t, `{"_arguments":"{\"x\""}`, l.Last().Messages[4].ToolCalls[0].Arguments)
}

// LO-433: what cannot be gone on from is refused in OpenAI's words.
func TestChainsThatAreRefused(t *testing.T) {
	with := func(change func(r *task.Record)) task.Record {
		r := spoken()
		change(&r)
		return r
	}
	state := func(s task.State, err *task.Error) func(r *task.Record) {
		return func(r *task.Record) { r.State, r.End, r.Err = s, nil, err }
	}
	middle := spoken().Erased(time.Now())
	middle.Task.ID = "t8"
	for says, c := range map[string][]task.Record{
		`"param":"previous_response_id","code":"previous_response_not_found"`:                                  {with(func(r *task.Record) { r.Task.Request.Front.Reply = nil })},
		`Previous response with id 'resp_t8' not found: it is deleted, and resp_t9 goes on from it`:            {spoken(), middle},
		`"param":"previous_response_id","code":"invalid_value"`:                                                {with(state(task.Running, nil))},
		`the response resp_t9 is queued: wait for its end`:                                                     {with(state(task.Queued, nil))},
		`the response resp_t9 is failed, and has no whole answer to go on from`:                                {with(state(task.Failed, task.Errorf(task.WorkerReset, "gone")))},
		`the response resp_t9 is cancelled, and has no whole answer to go on from`:                             {with(state(task.StateCanceled, task.Errorf(task.Canceled, "c")))},
		`Previous response with id 'resp_t9' not found: it is unknown here, was not to be kept, or is deleted`: {spoken().Erased(time.Now())},
	} {
		l := exchangetest.New()
		for _, r := range c {
			l.Keep(r)
		}
		res := exchangetest.Post(t, serve(t, l)+"/v1/responses", `{`+ask+`,"previous_response_id":"resp_t9"}`)
		require.Equal(t, http.StatusBadRequest, res.StatusCode)
		require.Contains(t, exchangetest.Read(t, res.Body), says)
		require.Empty(t, l.Requests(), "nothing was accepted")
	}
	running := with(state(task.Running, nil))
	for id, r := range map[string]task.Record{
		"msg_t9_0": spoken(), "msg_t9_9": spoken(), "rs_t9_1": spoken(), "fc_t9_in_0": spoken(), "msg_t9_in_9": spoken(), "msg_t8_0": spoken(), "x": spoken(), "": spoken(),
		"msg_t9_-1": spoken(), "msg_t9_01": spoken(), "msg_t9_1": running, "msg__1": spoken(), strings.Repeat("msg_", 9000): spoken(),
	} {
		l := exchangetest.New()
		l.Keep(r)
		res := exchangetest.Post(t, serve(t, l)+"/v1/responses", `{"model":"coder","input":[{"role":"user","content":"x"},{"type":"item_reference","id":"`+id+`"}]}`)
		body := exchangetest.Read(t, res.Body)
		require.Contains(t, body, `"param":"input[1]"`)
		if id == "msg_t9_1" {
			require.Equal(t, http.StatusBadRequest, res.StatusCode)
			require.Contains(t, body, "is in_progress: wait for its end")
			continue
		}
		require.Equal(t, http.StatusNotFound, res.StatusCode, id)
		require.Contains(t, body, "not found. Items are not persisted when `store` is set to false")
		require.Less(t, len(body), 600)
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
		require.Equal(t, "cancelled", got.Status)
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

// long is a response of so many tokens.
func long(tokens int) task.Record {
	r := spoken()
	r.Transcript = task.Transcript{}
	for range tokens {
		r.Transcript.Text += "frog "
		r.Transcript.Ends = append(r.Transcript.Ends, len(r.Transcript.Text))
	}
	return r
}

// How long a client waits that resumes at the end of a long response, over HTTP.
func BenchmarkResumeAtTheEnd(b *testing.B) {
	r := long(10_000)
	l := exchangetest.New()
	l.Keep(r)
	k := kept{Record: r}
	require.NoError(b, json.Unmarshal(r.Task.Request.Front.Reply, &k.reply))
	last := newResponseEvents(k.response(), false).last(k.Events())
	url := exchangetest.Serve(b, l, front) + "/v1/responses/resp_t9?stream=true&starting_after=" + fmt.Sprint(last-1)
	client := &http.Client{Transport: &http.Transport{}} // which checks nothing
	defer client.CloseIdleConnections()
	var sum [32]byte
	for b.Loop() {
		res, err := client.Get(url) //nolint:noctx // a benchmark
		require.NoError(b, err)
		body, err := io.ReadAll(res.Body)
		require.NoError(b, err)
		require.NoError(b, res.Body.Close())
		if now := sha256.Sum256(body); sum == [32]byte{} {
			sum = now
		} else {
			require.Equal(b, sum, now)
		}
	}
}
