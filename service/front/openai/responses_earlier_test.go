// SPDX-License-Identifier: GPL-3.0-or-later

package openai

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/front/exchange/exchangetest"
	"github.com/llama-orch/llama-orch/service/task"
)

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
	record, _, err := l.Record(t.Context(), "t9")
	require.NoError(t, err)
	require.Equal(t, spoken(), record, "a record is not changed by who reads it")
}

// LO-433: a request that goes on from a response, and refers to its items too, reads it once.
func TestAChainIsReadOnce(t *testing.T) {
	reads := 0
	c := conversation{earlier: &earlier{
		read:  func(string) (*kept, error) { reads++; return &kept{Record: spoken()}, nil },
		gone:  func([]string) ([]string, error) { return nil, nil },
		known: map[string]*kept{},
	}}
	require.NoError(t, c.goOn("resp_t9"))
	require.NoError(t, c.reference("input[0]", "msg_t9_1"))
	require.Equal(t, 1, reads)
}

// LO-433: a response that was cut off can be gone on from, also in the middle of a call.
func TestAChainBehindACut(t *testing.T) {
	l := exchangetest.New()
	cut := spoken()
	cut.Transcript.Text, cut.Transcript.Ends, cut.End.FinishReason = `thinkfrog{"x"`, []int{5, 9, 13}, task.FinishLength
	l.Keep(cut)
	l.Ends(task.FinishStop)
	exchangetest.Read(t, exchangetest.Post(t, serve(t, l)+"/v1/responses", `{`+ask+`,"previous_response_id":"resp_t9"}`).Body)
	require.JSONEq(t, `{"_arguments":"{\"x\""}`, l.Last().Messages[4].ToolCalls[0].Arguments)
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
		"the response resp_t9 is " + statusCancelled + `, and has no whole answer to go on from`:               {with(state(task.StateCanceled, task.Errorf(task.Canceled, "c")))},
		`Previous response with id 'resp_t9' not found: it is unknown here, was not to be kept, or is deleted`: {spoken().Erased(time.Now())},
	} {
		l := exchangetest.New()
		l.Ends(task.FinishStop)
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
		l.Ends(task.FinishStop)
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
