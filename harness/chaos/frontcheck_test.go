// SPDX-License-Identifier: GPL-3.0-or-later

package chaos

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/client"
)

func chunk(text string) string {
	return fmt.Sprintf("data: {\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\"delta\":{\"content\":%q}}]}\n\n", text)
}

const (
	doneFrame    = "data: [DONE]\n\n"
	failedFrame  = `data: {"error":{"message":"overloaded: lost","type":"server_error","param":null,"code":"overloaded"}}` + "\n\n"
	refusedBody  = `{"error":{"message":"overloaded: full","type":"rate_limit_error","param":null,"code":"overloaded"}}`
	conflictBody = `{"error":{"message":"this Idempotency-Key was sent before, with another request","type":"invalid_request_error","param":null,"code":"conflict"}}`
	failedEvent  = "event: error\ndata: " + `{"type":"error","error":{"type":"overloaded_error","message":"Overloaded: lost"},"request_id":"q"}` + "\n\n"
)

// proof is a receipt of a text.
func proof(text string) string {
	return fmt.Sprintf("Determinism=strict Transcript-Sha256=%x", sha256.Sum256([]byte(text)))
}

// receiptFrame is the same as it stands in a stream.
func receiptFrame(text string) string { return ": receipt " + proof(text) + "\n\n" }

func wholeChat(text string) string {
	return fmt.Sprintf(`{"object":"chat.completion","choices":[{"message":{"content":%q},"finish_reason":"stop"}]}`, text)
}

// streamOf is an answer as a stream that came to its end, or, where it ends with an error or with nothing, broke.
func streamOf(client int, task string, frames ...string) *heard {
	last := frames[len(frames)-1]
	return &heard{
		client: client, sent: second(1), at: second(2), status: 200, task: task, again: true, streamed: true, frames: frames,
		whole: last == doneFrame || strings.HasPrefix(last, "event: message_stop"),
	}
}

// eventOf is an event of a response.
func eventOf(n int, name, more string) string {
	return fmt.Sprintf("event: %s\ndata: {\"type\":%q%s,\"sequence_number\":%d}\n\n", name, name, more, n)
}

func responseBody(id, status, text string) string {
	more := ""
	if status == statusFailed {
		more = `,"error":{"code":"server_error","message":"overloaded: lost"}`
	}
	return fmt.Sprintf(`{"id":%q,"object":"response","status":%q,"output":[{"content":[{"text":%q}]}]%s}`, id, status, text, more)
}

// responseStream is the stream of a response that says texts.
func responseStream(id, status string, texts ...string) []string {
	all := []string{eventOf(0, "response.created", `,"response":`+responseBody(id, statusQueued, ""))}
	for _, text := range texts {
		all = append(all, eventOf(len(all), "response.output_text.delta", fmt.Sprintf(`,"delta":%q`, text)))
	}
	name := "response." + status
	if status == statusCancelled {
		name = "response.failed"
	}
	return append(all, eventOf(len(all), name, `,"response":`+responseBody(id, status, strings.Join(texts, ""))))
}

func holdingOf(reader int, frames ...string) *holding {
	v := &holding{reader: reader, frames: frames, breaks: 2, over: terminal(frames[len(frames)-1])}
	for i := range frames {
		v.at, v.lives = append(v.at, second(3+0.1*float64(i))), append(v.lives, 0)
	}
	return v
}

func looked(at float64, body string) poll {
	return poll{sent: second(at), at: second(at), status: 200, body: body}
}

func state(name, pool string) *status {
	return &status{State: name, PoolID: pool, StartedAt: second(2), Finished: second(6)}
}

func failedState(name, pool, code string) *status {
	s := state(name, pool)
	s.Error = &client.Failure{Code: code}
	return s
}

func batchBody(status string, total, completed, failed int) string {
	output, errors := "", ""
	if batchOver(status) {
		output, errors = "file-output-b", "file-error-b"
	}
	return fmt.Sprintf(`{"id":"batch_b","status":%q,"output_file_id":%q,"error_file_id":%q,"request_counts":{"total":%d,"completed":%d,"failed":%d}}`,
		status, output, errors, total, completed, failed)
}

func resultOf(customID, task, text string) string {
	return fmt.Sprintf(`{"custom_id":%q,"response":{"status_code":200,"request_id":%q,"body":%s},"error":null}`+"\n", customID, task, wholeChat(text))
}

func errorRow(customID, code string) string {
	return fmt.Sprintf(`{"custom_id":%q,"response":null,"error":{"code":%q,"message":"m"}}`+"\n", customID, code)
}

// batchOf is a batch of three lines of which one cannot be run.
func batchOf(id string) *batchRecord {
	b := &batchRecord{plan: batchPlan{id: id, kind: chat, lines: []linePlan{
		{customID: "line 0", strict: true}, {broken: "{"}, {customID: "line 1"},
	}}, file: "file-" + id, id: "batch_b", calm: map[string]string{"line 0": "a b"}}
	b.content = b.plan.file()
	return b
}

func (b *batchRecord) ended(output, errors string) *batchRecord {
	b.results = map[string]string{"file-output-b": output, "file-error-b": errors}
	b.again = maps.Clone(b.results)
	return b
}

// messageBody is a message batch that has one answer. One that is canceling, or has lines that were canceled, was told so.
func messageBody(status string, processing, errored, canceled int) string {
	at := "null"
	if status == "canceling" || canceled > 0 {
		at = `"2026-01-01T00:00:00Z"`
	}
	return fmt.Sprintf(`{"id":"batch_b","type":"message_batch","processing_status":%q,"cancel_initiated_at":%s,"results_url":"u","request_counts":{"processing":%d,"succeeded":1,"errored":%d,"canceled":%d,"expired":0}}`,
		status, at, processing, errored, canceled)
}

func messageRowOf(customID, result string) string {
	return fmt.Sprintf(`{"custom_id":%q,"result":{"type":%s}}`+"\n", customID, result)
}

// behindBody is a response that goes on from another.
func behindBody(id, previous, text string) string {
	return strings.Replace(responseBody(id, statusCompleted, text), `"object"`, fmt.Sprintf(`"previous_response_id":%q,"object"`, previous), 1)
}

// soundFronts is what happened on fronts in a history in which everything holds. Its daemon was killed at second 4.
func soundFronts() frontHistory {
	calm, further := "a b", "c"
	talk := &chatRecord{plan: chatPlan{id: "talk", kind: chat, strict: true, key: "k", clients: make([]clientPlan, 2)}, calm: &calm, heard: []*heard{
		streamOf(0, "t1", chunk("a ")), // broke
		streamOf(0, "t1", chunk("a "), chunk("b"), receiptFrame("a b"), doneFrame),
		streamOf(1, "t1", chunk("a "), chunk("b"), receiptFrame("a b"), doneFrame),
	}}
	plain := &chatRecord{plan: chatPlan{id: "plain", kind: chat, strict: true, clients: []clientPlan{{}, {leaves: true}}}, calm: &calm, heard: []*heard{
		{status: 429, again: true, wait: "1", body: refusedBody, whole: true},
		{status: 200, task: "t2", again: true, body: wholeChat("a b"), whole: true, receipt: proof("a b")},
		{client: 1, sent: second(1), status: 200, task: "t3", streamed: true, frames: []string{chunk("a ")}, left: true},
	}}
	other := &chatRecord{plan: chatPlan{id: "other", kind: message, clients: make([]clientPlan, 1)}, heard: []*heard{
		streamOf(0, "t4", failedEvent),
		streamOf(0, "t5", "event: content_block_delta\ndata: "+fmt.Sprintf(`{"type":"content_block_delta","delta":{"text":%q}}`, looseText)+"\n\n",
			receiptFrame(looseText), "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"),
	}}
	whole := responseStream("resp_t6", statusCompleted, "a ", "b")
	good := &responseRecord{
		plan: responsePlan{id: "good", strict: true, key: "k"}, id: "resp_t6", calm: &calm, last: responseBody("resp_t6", statusCompleted, "a b") + "\n",
		asked:  []*heard{streamOf(0, "t6", whole...)},
		stream: &heard{status: 200, streamed: true, whole: true, frames: append(slices.Clone(whole), receiptFrame("a b"))},
		views:  []*holding{holdingOf(0, whole...), holdingOf(1, whole[:2]...)},
		polls:  []poll{{}, looked(3, responseBody("resp_t6", statusInProgress, "a ")), looked(7, responseBody("resp_t6", statusCompleted, "a b"))},
	}
	gone := responseStream("resp_t7", statusCancelled)
	stopped := &responseRecord{
		plan: responsePlan{id: "stopped", strict: true, key: "k2"}, id: "resp_t7", calm: &calm, last: responseBody("resp_t7", statusCancelled, ""),
		asked:   []*heard{streamOf(0, "t7", gone[0]), streamOf(1, "t8", gone[0])}, // the key went on to another task
		stream:  &heard{status: 200, streamed: true, whole: true, frames: gone},
		views:   []*holding{holdingOf(0, gone...), holdingOf(1, gone[0], eventOf(1, "response.output_text.delta", `,"delta":"a "`))}, // before the kill
		cancels: []poll{{}, looked(5, responseBody("resp_t7", statusCancelled, ""))},
	}
	talk.plan.other = &otherPlan{}
	talk.other = []*heard{{}, {status: 429, again: true, wait: "1", body: refusedBody, whole: true}, {status: 409, body: conflictBody, whole: true}}
	good.next = []*heard{{}, {status: 200, again: true, task: "t12", body: behindBody("resp_t12", "resp_t6", "c"), whole: true}}
	good.calmNext = &further
	full := batchOf("full").ended(resultOf("line 0", "t9", "a b")+resultOf("line 1", "t10", looseText), errorRow("", "invalid_json_line"))
	full.polls = []poll{looked(2, batchBody("validating", 0, 0, 0)), looked(3, batchBody(statusInProgress, 3, 1, 1)), looked(8, batchBody(statusCompleted, 3, 2, 1))}
	less := batchOf("less").ended(resultOf("line 0", "t11", "a b"), errorRow("", "invalid_json_line")+errorRow("line 1", "batch_cancelled"))
	less.cancels = []poll{{}, looked(5, batchBody("cancelling", 3, 1, 1))}
	less.polls = []poll{looked(3, batchBody(statusInProgress, 3, 1, 1)), looked(8, batchBody(statusCancelled, 3, 1, 2))}
	posts := batchOf("posts")
	posts.plan = batchPlan{id: "posts", kind: message, lines: []linePlan{{customID: "line-0", strict: true}, {customID: "no-model", broken: "x", names: true}, {customID: "line-1"}, {customID: "line-2"}}}
	posts.file, posts.calm = "", map[string]string{"line-0": "a b"}
	posts.results = map[string]string{"u": messageRowOf("line-0", `"succeeded","message":{"id":"msg_t13","type":"message","content":[{"text":"a b"}],"stop_reason":"end_turn"}`) +
		messageRowOf("no-model", `"errored","error":{"type":"error","error":{"type":"not_found_error","message":"m"},"request_id":"q"}`) +
		messageRowOf("line-1", `"canceled"`) + messageRowOf("line-2", `"canceled"`)}
	posts.again = maps.Clone(posts.results)
	posts.cancels = []poll{looked(5, messageBody("canceling", 2, 1, 0))}
	posts.polls = []poll{looked(3, messageBody(statusInProgress, 2, 1, 0)), looked(8, messageBody("ended", 0, 1, 2))}
	h := frontHistory{chats: []*chatRecord{talk, plain, other}, responses: []*responseRecord{good, stopped}, batches: []*batchRecord{full, less, posts}}
	h.files = []string{"file-full", "file-less"}
	h.states = map[string]*status{
		"t1": state("completed", "wide"), "t2": state("completed", "wide"), "t3": failedState("canceled", "wide", "CANCELED"),
		"t4": failedState("failed", loose.id, "WORKER_RESET"), "t5": state("completed", loose.id), "t6": state("completed", "narrow"),
		"t7": failedState("canceled", "narrow", "CANCELED"), "t8": state("completed", "narrow"), "t9": state("completed", "wide"),
		"t10": state("completed", loose.id), "t11": state("completed", "narrow"), "t12": state("completed", "wide"), "t13": state("completed", "wide"),
	}
	return h
}

// A checker that objects to nothing proves nothing. Each history breaks one property, and is objected to for that one alone.
//
// ORCH-3051, LO-208, LO-209, LO-402, LO-404, LO-407, LO-430, LO-431, LO-432, LO-434, LO-437, LO-438, LO-439
func TestTheCheckerObjectsToFronts(t *testing.T) {
	const (
		talk, plain, other = 0, 1, 2
		good, stopped      = 0, 1
		full, less, posts  = 0, 1, 2
	)
	unproved := responseStream("resp_t6", statusCompleted, "a ", "b")
	for property, cases := range map[string]map[string]struct {
		change func(h *history)
		says   string
	}{
		"what a front has accepted is known in the end, and has ended": {
			"a task is forgotten":      {func(h *history) { h.states["t2"] = nil }, "the daemon does not know it"},
			"a task never ends":        {func(h *history) { h.states["t2"].State = "running" }, "is still running"},
			"an answer without a task": {func(h *history) { h.states["t2"].State = "canceled" }, "has the whole answer"},
			"an error for an answer":   {func(h *history) { h.states["t4"] = state("completed", loose.id) }, `was told "Overloaded: lost"`},
			"a reader finds nothing":   {func(h *history) { h.responses[good].views[1].discarded = lost + "404" }, "does not know it: 404"},
			"a file is another":        {func(h *history) { h.batches[full].content += "x" }, "is not what was sent"},
			"a file is not listed":     {func(h *history) { h.files = h.files[1:] }, "is not in the list"},
			"a batch is forgotten":     {func(h *history) { h.batches[less].unknown = true }, "batch batch_b is at the end"},
		},
		"who repeats what may be repeated gets an answer": {
			"a client has nothing":      {func(h *history) { h.chats[other].heard = h.chats[other].heard[:1] }, "has no answer"},
			"a client was not heard":    {func(h *history) { h.chats[talk].heard = h.chats[talk].heard[:2] }, "client 1 was not heard"},
			"a response has no id":      {func(h *history) { h.responses[good].id = "" }, "was never accepted"},
			"a batch's end is not seen": {func(h *history) { h.batches[full].results, h.batches[full].id = nil, "" }, "did not see the end"},
		},
		"strict answers of fronts, as far as they came, are the undisturbed ones": {
			"another answer":       {func(h *history) { a := h.chats[plain].heard[1]; a.body, a.receipt = wholeChat("a c"), proof("a c") }, `sent "a c"`},
			"less than the answer": {func(h *history) { a := h.chats[plain].heard[1]; a.body, a.receipt = wholeChat("a "), proof("a ") }, `sent "a "`},
			"another beginning":    {func(h *history) { h.chats[plain].heard[2].frames = []string{chunk("b")} }, `sent "b"`},
			"nothing to compare":   {func(h *history) { h.chats[plain].calm = nil }, "no undisturbed run"},
			"another line":         {func(h *history) { h.batches[full].calm["line 0"] = "a c" }, "full, line 0 sent"},
			"a response taken back": {func(h *history) {
				v := h.responses[stopped].views[1]
				v.frames[1] = strings.Replace(v.frames[1], "a ", "b", 1)
			}, `stopped sent "b"`},
		},
		"a best-effort answer has its text once, whoever decoded it": {
			"a word twice": {func(h *history) {
				f := h.chats[other].heard[1].frames
				f[0] = strings.Replace(f[0], "word7 ", "word7 word7 ", 1)
				f[1] = receiptFrame(strings.Replace(looseText, "word7 ", "word7 word7 ", 1))
			}, "word7 word7"},
			"a word is missing": {func(h *history) {
				f := h.chats[other].heard[1].frames
				f[0] = strings.Replace(f[0], "word7 ", "", 1)
				f[1] = receiptFrame(strings.Replace(looseText, "word7 ", "", 1))
			}, "word6 word8"},
		},
		"each whole answer has the receipt of its text": {
			"of another text": {func(h *history) { h.chats[plain].heard[1].receipt = proof("a c") }, "its receipt has the SHA-256"},
			"none":            {func(h *history) { h.responses[good].stream.frames = unproved }, `its receipt has the SHA-256 ""`},
		},
		"requests under one key have one task that answers, and one answer": {
			"another task": {func(h *history) {
				h.chats[talk].heard[2].task = "t12"
				h.states["t12"] = state("completed", "wide")
			}, "the tasks t1 and t12 have its key"},
			"other bytes": {func(h *history) {
				h.chats[talk].heard[2].frames[2] = strings.Replace(receiptFrame("a b"), "strict", "none", 1)
			}, "under its key one client has"},
			"other bytes before": {func(h *history) { h.chats[talk].heard[0].frames = []string{": receipt x\n\n", chunk("a ")} }, "under its key one client has"},
			"no task":            {func(h *history) { h.chats[talk].heard[0].task = "" }, "was not told the task"},
			"another response": {func(h *history) {
				h.responses[good].asked = append(h.responses[good].asked, &heard{status: 200, task: "t8", whole: true, body: responseBody("resp_t8", statusQueued, "")})
			}, "and task t8"},
		},
		"another body under a key is a conflict, which runs nothing": {
			"it is answered":     {func(h *history) { a := h.chats[talk].other[2]; a.status, a.task, a.body = 200, "t1", wholeChat("a b") }, "was answered by task t1"},
			"it may be repeated": {func(h *history) { h.chats[talk].other[2].again = true }, "or may be repeated"},
			"it names no key": {func(h *history) {
				a := h.chats[talk].other[2]
				a.body = strings.Replace(a.body, "Idempotency-Key", "key", 1)
			}, "does not name the key"},
			"another refusal":  {func(h *history) { h.chats[talk].other[2].status = 400 }, "was answered with 400"},
			"it is never told": {func(h *history) { c := h.chats[talk]; c.other = c.other[:2] }, "was answered with 429"},
		},
		"what goes on from a response answers the whole conversation": {
			"another text":   {func(h *history) { a := h.responses[good].next[1]; a.body = behindBody("resp_t12", "resp_t6", "d") }, `says "d"`},
			"of another one": {func(h *history) { a := h.responses[good].next[1]; a.body = behindBody("resp_t12", "resp_t7", "c") }, `goes on from "resp_t7"`},
			"of none": {func(h *history) {
				a := h.responses[good].next[1]
				a.body = responseBody("resp_t12", statusCompleted, "c")
			}, `goes on from ""`},
			"it is not found":  {func(h *history) { a := h.responses[good].next[1]; a.status, a.body = 404, refusedBody }, "the last it was told is 404"},
			"nothing is heard": {func(h *history) { r := h.responses[good]; r.next = r.next[:1] }, "has no answer"},
		},
		"a response's events have all numbers, and the same bytes for everyone": {
			"other numbers": {func(h *history) {
				v := h.responses[good].views[1]
				v.frames[1] = strings.Replace(v.frames[1], `"sequence_number":1`, `"sequence_number":2`, 1)
			}, "has event 2 at the place of 1"},
			"a gap in the stream": {func(h *history) {
				r := h.responses[good]
				r.stream.frames = slices.Delete(r.stream.frames, 1, 2)
				r.stream.frames = append([]string{r.stream.frames[0], eventOf(2, "response.output_text.delta", `,"delta":"a b"`)}, r.stream.frames[2:]...)
				r.views, r.asked = nil, nil
			}, "event 1 of the stream has the number 2"},
			"other bytes": {func(h *history) {
				v := h.responses[good].views[1]
				v.frames[0] = strings.Replace(v.frames[0], `"object":"response"`, `"object":"other"`, 1)
			}, "reader 1 has"},
			"more than there is": {func(h *history) { h.responses[stopped].views[1].at[0] = second(4.5) }, "where the stream has"},
			"an event twice": {func(h *history) {
				v := h.responses[good].views[1]
				v.frames, v.at = append(v.frames, eventOf(1, "response.keptalive", "")), append(v.at, v.at[0])
			}, "has event 1 at the place of 2"},
			"a good one is discarded": {func(h *history) { h.responses[good].views[1].discarded = "400" }, "had to discard 2 events"},
		},
		"a response that has ended stays as its stream ended": {
			"it changes": {func(h *history) { h.responses[good].polls[2].body = responseBody("resp_t6", statusCompleted, "a ") }, "was once"},
			"its stream ended otherwise": {func(h *history) {
				h.responses[good].last = strings.Replace(h.responses[good].last, `"object"`, `"x":1,"object"`, 1)
				h.responses[good].polls = nil
			}, "its stream ended with"},
			"it takes back":              {func(h *history) { h.responses[good].polls[1].body = responseBody("resp_t6", statusInProgress, "c") }, `had said "c"`},
			"a cancel is a promise only": {func(h *history) { h.responses[stopped].cancels[1].body = responseBody("resp_t7", statusInProgress, "") }, "a cancel answered that it is in_progress"},
			"it is not found":            {func(h *history) { h.responses[good].polls[1].status = 404 }, "a call was answered with 404"},
		},
		"a stream ends with its last event or breaks; errors are the dialect's": {
			"a clean end":           {func(h *history) { h.chats[talk].heard[0].whole = true }, "ends as if it was whole"},
			"an error ends cleanly": {func(h *history) { h.chats[other].heard[0].whole = true }, "ends as if it was whole"},
			"a clean end of events": {func(h *history) { h.responses[good].views[1].clean = true }, "ended as if it was whole, behind 2 events"},
			"more behind the end": {func(h *history) {
				h.chats[plain].heard[1] = streamOf(0, "t2", chunk("a "), chunk("b"), receiptFrame("a b"), doneFrame, chunk(""))
			}, "stands behind the end"},
			"another shape": {func(h *history) {
				h.chats[other].heard[0].frames = []string{strings.Replace(failedEvent, `"q"`, `""`, 1)}
			}, "the request's id"},
			"no stream at all": {func(h *history) { h.chats[plain].heard[2].garbled = "a carriage return" }, "a carriage return"},
		},
		"errors of fronts have their cause, and say whether to come again": {
			"a reset without a death": {func(h *history) {
				h.states["t4"].PoolID, h.chats[other].plan.strict = loose.id, true
				h.chats[other].calm = &looseText
			}, "ended with WORKER_RESET"},
			"nobody had gone":      {func(h *history) { h.states["t2"].Error = &client.Failure{Code: "CANCELED"} }, "ended with CANCELED"},
			"nobody canceled":      {func(h *history) { h.responses[stopped].cancels = nil }, "ended with CANCELED"},
			"no time to come back": {func(h *history) { h.chats[plain].heard[0].wait = "" }, `says to wait for ""`},
			"too long a time":      {func(h *history) { h.chats[plain].heard[0].wait = "61" }, `says to wait for "61"`},
			"words nobody looks for": {func(h *history) {
				a := h.chats[plain].heard[0]
				a.body = strings.Replace(a.body, "overloaded: full", "full", 1)
			}, "does not say so"},
			"a file is refused": {func(h *history) {
				h.batches[full].asked = []poll{{sent: second(2), at: second(2), status: 500, body: "no room"}}
			}, "full was refused with 500"},
			"refused for good": {func(h *history) { h.chats[plain].heard[0].again = false }, "was refused for good"},
			"an error nobody can use": {func(h *history) {
				a := h.chats[plain].heard[2]
				a.frames = append(a.frames, strings.Replace(failedFrame, "overloaded: ", "", 1))
			}, "cannot repeat"},
		},
		"a batch goes forward only, and its counts add up": {
			"it goes back":      {func(h *history) { b := h.batches[full]; b.polls = append([]poll{b.polls[1]}, b.polls...) }, "and then validating"},
			"a message is lost": {func(h *history) { h.batches[posts].polls[0].body = messageBody(statusInProgress, 1, 1, 0) }, "posts has 4 lines"},
			"a count goes down": {func(h *history) {
				b := h.batches[full]
				b.polls = append([]poll{b.polls[0], looked(3, batchBody(statusInProgress, 3, 2, 1))}, b.polls[1:]...)
			}, "its counts were"},
			"a line too many": {func(h *history) {
				b := h.batches[full]
				b.polls[1].body = batchBody(statusInProgress, 4, 1, 1)
				b.polls[0] = b.polls[1]
			}, "has 3 lines"},
			"they do not add up": {func(h *history) {
				b := h.batches[full]
				b.polls = append(b.polls[:2:2], looked(7, batchBody(statusCompleted, 3, 1, 1)), b.polls[2])
			}, "has ended, and its counts"},
			"it failed": {func(h *history) {
				b := h.batches[full]
				b.polls = append(b.polls[:2:2], looked(7, batchBody(statusFailed, 3, 2, 1)), b.polls[2])
			}, `is "failed"`},
			"it is not found":    {func(h *history) { h.batches[full].polls[1].status = 404 }, "was not found"},
			"nobody canceled it": {func(h *history) { b := h.batches[full]; b.polls[2].body = batchBody(statusCancelled, 3, 2, 1) }, "nobody has asked for that"},
		},
		"each line of a batch has one result, which stays": {
			"a line twice": {func(h *history) {
				h.batches[full].ended(resultOf("line 0", "t9", "a b")+resultOf("line 0", "t10", "a b"), errorRow("", "x"))
			}, "line 0 has 2 results"},
			"a line is lost": {func(h *history) { h.batches[full].ended(resultOf("line 0", "t9", "a b"), errorRow("", "x")) }, "line 1 has 0 results"},
			"results change": {func(h *history) { h.batches[full].again["file-output-b"] = "" }, "at the end they are"},
			"another order": {func(h *history) {
				h.batches[full].ended(resultOf("line 1", "t10", looseText)+resultOf("line 0", "t9", "a b"), errorRow("", "x"))
			}, "stands behind a line"},
			"one task twice": {func(h *history) {
				h.batches[full].ended(resultOf("line 0", "t9", "a b")+resultOf("line 1", "t9", looseText), errorRow("", "x"))
				delete(h.states, "t10")
			}, "two lines have the task t9"},
			"neither": {func(h *history) {
				b := h.batches[full]
				b.ended(b.results["file-output-b"], `{"custom_id":"","response":null,"error":null}`+"\n")
			}, "has not either"},
			"a line is spared": {func(h *history) {
				h.batches[full].ended(resultOf("line 0", "t9", "a b"), errorRow("", "x")+errorRow("line 1", "batch_cancelled"))
				delete(h.states, "t10")
			}, "line 1 (it can be run: true)"},
			"a message twice": {func(h *history) {
				b := h.batches[posts]
				b.results["u"] = strings.Replace(b.results["u"], "line-2", "line-1", 1)
				b.again = maps.Clone(b.results)
			}, "posts: line-1 has 2 results"},
			"a message is spared": {func(h *history) {
				b := h.batches[posts]
				b.results["u"] = strings.Replace(b.results["u"], `"canceled"`, `"errored","error":{"type":"error","error":{"type":"overloaded_error","message":"Overloaded: lost"},"request_id":"q"}`, 1)
				b.again = maps.Clone(b.results)
			}, "posts: line-1 (it can be run: true)"},
			"counts and results": {func(h *history) { h.batches[full].polls[2].body = batchBody(statusCompleted, 3, 1, 2) }, "3 results, 2 of them answers"},
		},
		"a canceled batch ends, keeps what had ended and starts nothing": {
			"it goes on":         {func(h *history) { b := h.batches[less]; b.polls[1].body = batchBody(statusCompleted, 3, 1, 2) }, "and it is completed"},
			"a result is lost":   {func(h *history) { b := h.batches[less]; b.cancels[1].body = batchBody("cancelling", 3, 2, 1) }, "2 lines had an answer"},
			"a line starts late": {func(h *history) { h.states["t11"].StartedAt = second(5.5) }, "was started 500ms behind"},
			"a strange answer":   {func(h *history) { h.batches[less].cancels[0].status = 404 }, "a cancel was answered with 404"},
			"messages go on":     {func(h *history) { b := h.batches[posts]; b.polls[1].body = messageBody("ended", 0, 3, 0) }, "posts: a cancel answered"},
			"a false conflict":   {func(h *history) { h.batches[less].cancels[0].status = 409 }, "a cancel was a conflict"},
		},
	} {
		for name, broken := range cases {
			t.Run(property+"/"+name, func(t *testing.T) {
				h := sound()
				broken.change(h)
				found := objections(h)
				require.Contains(t, strings.Join(found, "\n"), broken.says)
				for _, one := range found {
					require.True(t, strings.HasPrefix(one, property+": "), one)
				}
			})
		}
	}
}

// A best-effort response that a daemon took with it was lost behind what is on record.
//
// ORCH-3051, LO-432
func TestTheCheckerKnowsWhatAFrontMayLose(t *testing.T) {
	h := sound()
	r := h.responses[1]
	r.views[1].frames, r.views[1].at = append(r.views[1].frames, eventOf(2, "error", `,"code":"invalid_value","message":"this response has no event 1","param":"starting_after"`)), append(r.views[1].at, second(7))
	r.views[1].over = true
	require.Empty(t, objections(h))
	r.views[1].discarded = "400"
	require.Empty(t, objections(h))

	h = sound() // a stop broke the stream off, and the task went on in the next life
	h.states["t4"] = state("completed", loose.id)
	require.NotEmpty(t, objections(h))
	h.faults = append(h.faults, fault{kind: stopDaemon, at: second(1)})
	require.Empty(t, objections(h))

	h = sound() // the same for one of those who have its key
	h.chats[2].heard[0].task, h.chats[2].plan.key = "t5", "k"
	require.NotEmpty(t, objections(h))
	h.faults = append(h.faults, fault{kind: stopDaemon, at: second(1)})
	require.Empty(t, objections(h))

	h = sound() // of those who ask for one response, the last may be answered first
	r = h.responses[1]
	late := *r.asked[0]
	late.sent = second(5)
	r.asked = append([]*heard{&late}, r.asked...)
	r.plan.strict, r.cancels = false, nil
	h.states["t7"] = failedState("failed", loose.id, "WORKER_RESET")
	for range tries {
		h.faults = append(h.faults, fault{kind: cutEngine, at: second(3), pool: loose.id})
	}
	var f finding
	frontCauses(h, &f)
	require.Empty(t, f.breaches)

	h = sound()
	h.batches[0].ended(resultOf("line 0", "t9", "a b"), errorRow("", "x")+
		`{"custom_id":"line 1","response":{"status_code":503,"request_id":"t10","body":`+refusedBody+`},"error":null}`+"\n")
	h.batches[0].polls[2].body = batchBody(statusCompleted, 3, 1, 2)
	require.NotEmpty(t, objections(h))
	for range tries * tries {
		h.faults = append(h.faults, fault{kind: cutEngine, at: second(3), pool: loose.id})
	}
	require.Empty(t, objections(h))
}

// A seed draws the same fronts, whose files have the lines that can be run and three that cannot. Of requests for messages one cannot.
//
// ORCH-3051
func TestASeedDrawsFronts(t *testing.T) {
	for _, s := range []scale{short, long} {
		p := draw(7, s)
		require.Len(t, p.chats, s.fronts.chats+s.fronts.messages)
		require.Len(t, p.responses, s.fronts.responses)
		require.Len(t, p.batches, s.fronts.batches)
		require.NotEqual(t, p.frontPlans, draw(8, s).frontPlans)
		keys, strict := map[bool]int{}, map[bool]int{}
		for _, c := range p.chats {
			keys[c.key != ""]++
			strict[c.strict]++
		}
		require.Len(t, keys, 2)
		require.Len(t, strict, 2)
		canceled, next, kinds := 0, 0, map[string]int{}
		for _, one := range p.responses {
			next += count(one.next != nil)
		}
		require.GreaterOrEqual(t, next, conversing)
		for _, b := range p.batches {
			require.Equal(t, s.fronts.lines, b.runnable())
			canceled += count(b.cancelAt > 0)
			kinds[b.kind]++
			if b.kind == message {
				require.Len(t, b.lines, s.fronts.lines+1)
				require.True(t, json.Valid([]byte(b.file())))
				continue
			}
			require.Len(t, b.plan(), s.fronts.lines+3)
			seen := map[string]bool{}
			for _, l := range b.plan() {
				var line struct {
					CustomID string `json:"custom_id"`
				}
				whole := json.Unmarshal([]byte(l), &line) == nil
				require.Equal(t, seen[line.CustomID], whole && strings.Contains(l, `"line 0"`) && seen["line 0"])
				seen[line.CustomID] = true
			}
		}
		require.Positive(t, canceled)
		require.Len(t, kinds, 3)
	}
}

func (p batchPlan) plan() []string { return strings.Split(strings.TrimSuffix(p.file(), "\n"), "\n") }
