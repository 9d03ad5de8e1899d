// SPDX-License-Identifier: GPL-3.0-or-later

package openai

import (
	"cmp"
	"encoding/json"
	"slices"
	"strconv"
	"time"

	"github.com/go-faster/jx"

	"github.com/llama-orch/llama-orch/service/front/exchange"
	"github.com/llama-orch/llama-orch/service/front/lenient"
	"github.com/llama-orch/llama-orch/service/task"
)

// The statuses of responses and of their items.
const (
	statusQueued     = "queued"
	statusInProgress = "in_progress"
	statusCompleted  = "completed"
	statusIncomplete = "incomplete"
	statusFailed     = "failed"
	statusCancelled  = "cancelled" //nolint:misspell // the dialect has it so
)

// item is a part of a response's output: a message, what the model thought, or a call. Its text grows.
type item struct {
	kind   task.EventKind // EventText is a message
	call   task.CallPart
	id     string
	text   []byte
	lists  []string // of the log probabilities of a message's text; nil: it has none
	closed bool     // its client was told that nothing more will come
}

// output is what a response says, put together from the pieces of its task, streamed or not. Text and thinking follow each other, and each
// ends where something else begins. Calls stay open until the end, since nobody promises that one ends before the next begins.
type output struct {
	task  string
	items []item
	at    int // the item of the last piece
}

// take adds a piece, with its log probabilities. It reports whether the piece has begun an item; that is output.at then.
func (o *output) take(kind task.EventKind, call task.CallPart, text []byte, logprobs string) (begun bool) {
	at := o.find(kind, call.N)
	if begun = at < 0; begun {
		at = o.begin(kind, call)
	}
	o.at = at
	i := &o.items[at]
	i.text = append(i.text, text...)
	if logprobs != "" {
		i.lists = append(i.lists, logprobs)
	}
	return begun
}

// find is the open item to which a piece belongs; -1: there is none.
func (o *output) find(kind task.EventKind, call int) int {
	if kind != task.EventToolCall {
		if len(o.items) > 0 && o.items[o.at].kind == kind {
			return o.at
		}
		return -1
	}
	return slices.IndexFunc(o.items, func(i item) bool { return i.kind == kind && i.call.N == call })
}

// prefixes are what the ids of items begin with.
var prefixes = map[task.EventKind]string{task.EventText: "msg_", task.EventReasoning: "rs_", task.EventToolCall: "fc_"}

func (o *output) begin(kind task.EventKind, call task.CallPart) int {
	at := len(o.items)
	o.items = append(o.items, item{kind: kind, call: call, id: prefixes[kind] + o.task + "_" + strconv.Itoa(at)})
	return at
}

// status is that of an item in a response of that status: where one was cut off, that is the item which was spoken last. While more comes, calls
// are open too.
func (o *output) status(at int, response string) string {
	switch last := at == o.at; {
	case response == statusInProgress && (last || o.items[at].kind == task.EventToolCall):
		return statusInProgress
	case response != statusInProgress && response != statusCompleted && last:
		return statusIncomplete
	}
	return statusCompleted
}

// hear takes all pieces among the events.
func (o *output) hear(events task.Events) {
	for e := range events.All() {
		if e.Kind == task.EventText || e.Kind == task.EventReasoning || e.Kind == task.EventToolCall {
			o.take(e.Kind, e.Call, e.Text, e.Logprobs)
		}
	}
}

// speak makes an empty message where nothing was said: clients look for one. It reports whether it did.
func (o *output) speak() bool {
	return len(o.items) == 0 && o.take(task.EventText, task.CallPart{}, nil, "")
}

// write writes an item as it is now. One that has just begun has no parts yet.
func (i *item) write(w *jx.Writer, status string) {
	w.RawStr(`{"id":`)
	w.Str(i.id)
	switch i.kind {
	case task.EventToolCall:
		w.RawStr(`,"type":"function_call","call_id":`)
		w.Str(i.call.ID)
		w.RawStr(`,"name":`)
		w.Str(i.call.Name)
		w.RawStr(`,"arguments":`)
		w.ByteStr(i.text)
	case task.EventReasoning:
		w.RawStr(`,"type":"reasoning","summary":[],"content":[`)
		if status != statusInProgress || len(i.text) > 0 {
			i.part(w, i.text)
		}
		w.RawStr("]")
	default:
		w.RawStr(`,"type":"message","role":"assistant","content":[`)
		if status != statusInProgress || len(i.text) > 0 {
			i.part(w, i.text)
		}
		w.RawStr("]")
	}
	w.RawStr(`,"status":`)
	w.Str(status)
	w.RawStr("}")
}

// part writes the one part of a message, or of thinking.
func (i *item) part(w *jx.Writer, text []byte) {
	if i.kind == task.EventReasoning {
		w.RawStr(`{"type":"reasoning_text","text":`)
		w.ByteStr(text)
		w.RawStr("}")
		return
	}
	w.RawStr(`{"type":"output_text","text":`)
	w.ByteStr(text)
	w.RawStr(`,"annotations":[],"logprobs":`)
	w.RawStr(cmp.Or(task.JoinLogprobs(i.lists), "[]"))
	w.RawStr("}")
}

// response is a response as it is now.
type response struct {
	head string // the fields that do not change, as JSON without its last brace
	output
}

// responseHead has the fields of a response that its request decides, in the dialect's words.
type responseHead struct {
	Background         bool              `json:"background"`
	Instructions       *string           `json:"instructions"`
	MaxOutputTokens    *int              `json:"max_output_tokens"`
	Metadata           map[string]string `json:"metadata"`
	Model              string            `json:"model"`
	ParallelToolCalls  bool              `json:"parallel_tool_calls"`
	PreviousResponseID *string           `json:"previous_response_id"`
	Reasoning          reasoningView     `json:"reasoning"`
	Temperature        *float64          `json:"temperature"`
	Text               textView          `json:"text"`
	ToolChoice         any               `json:"tool_choice"`
	Tools              []toolView        `json:"tools"`
	TopLogprobs        *int              `json:"top_logprobs,omitempty"`
	TopP               *float64          `json:"top_p"`
	Truncation         string            `json:"truncation"`
}

type reasoningView struct {
	Effort  *string `json:"effort"`
	Summary *string `json:"summary"`
}

type textView struct {
	Format formatView `json:"format"`
}

type formatView struct {
	Type   string          `json:"type"`
	Name   string          `json:"name,omitempty"`
	Schema json.RawMessage `json:"schema,omitempty"`
	Strict *bool           `json:"strict,omitempty"`
}

type toolView struct {
	Type        string          `json:"type"`
	Name        string          `json:"name"`
	Description string          `json:"description,omitempty"`
	Parameters  json.RawMessage `json:"parameters"`
	Strict      bool            `json:"strict"`
}

// head has the fields of the response to a request, which has become the task q, that do not change, as JSON. Those that the task decides are
// missing.
func (c *responseRequest) head(q task.Request) json.RawMessage {
	h := responseHead{
		Background: c.Background, Instructions: c.Instructions, Metadata: c.metadata(), Model: c.Model,
		ParallelToolCalls: c.ParallelToolCalls == nil || *c.ParallelToolCalls, Temperature: c.Temperature, TopP: c.TopP,
		Text: textView{formatView{Type: "text"}}, ToolChoice: choiceView(q.Chat), Tools: []toolView{}, Truncation: "disabled",
	}
	if c.PreviousResponseID != "" {
		h.PreviousResponseID = &c.PreviousResponseID
	}
	if q.MaxTokens > 0 {
		h.MaxOutputTokens = &q.MaxTokens
	}
	if l := q.Chat.Logprobs; l != nil {
		h.TopLogprobs = &l.Top
	}
	if c.Reasoning != nil && known[c.Reasoning.Effort] {
		h.Reasoning.Effort = &c.Reasoning.Effort
	}
	if f := q.Chat.Format; f != nil && c.Text != nil && c.Text.Format != nil {
		h.Text.Format = c.Text.Format.view()
	}
	for _, t := range q.Chat.Tools {
		h.Tools = append(h.Tools, toolView{Type: "function", Name: t.Name, Description: t.Description, Parameters: parameters(t.Parameters)})
	}
	return exchange.JSON(h) // its schemas were decoded before
}

// newResponse is the response of the task with that id, which was accepted then.
func newResponse(id string, accepted time.Time, head json.RawMessage) *response {
	var w jx.Writer
	w.RawStr(`{"id":`)
	w.Str(responsePrefix + id)
	w.RawStr(`,"object":"response","created_at":`)
	w.Int64(accepted.Unix())
	w.RawStr(",")
	w.Raw(head[1 : len(head)-1])
	return &response{head: string(w.Buf), output: output{task: id}}
}

// responsePrefix is what the ids of responses begin with. The id of the task follows.
const responsePrefix = "resp_"

// known are the words for effort that the document has.
var known = map[string]bool{"none": true, "minimal": true, "low": true, "medium": true, "high": true, "xhigh": true, "max": true}

// metadata is what the client sent, where it is as the document has it.
func (c *responseRequest) metadata() map[string]string {
	all := map[string]string{}
	if json.Unmarshal(c.Metadata, &all) != nil || all == nil {
		return map[string]string{}
	}
	return all
}

func (f *format) view() formatView {
	if f.Type != "json_schema" {
		return formatView{Type: f.Type}
	}
	v := formatView{Type: f.Type, Name: f.Name, Schema: f.Schema, Strict: f.Strict}
	if f.JSONSchema != nil {
		v.Schema = f.JSONSchema.Schema
	}
	if v.Name == "" {
		v.Name = "response"
	}
	v.Schema = parameters(v.Schema)
	return v
}

// parameters are a schema that the document takes: an object.
func parameters(schema json.RawMessage) json.RawMessage {
	if lenient.Missing(schema) {
		return json.RawMessage("{}")
	}
	return schema
}

func choiceView(c *task.Chat) any {
	switch c.ToolChoice {
	case task.ChooseTool:
		return map[string]string{"type": "function", "name": c.ToolName}
	case task.ChooseNone:
		return "none"
	case task.ChooseRequired:
		return "required"
	default:
		return "auto"
	}
}

// write writes the response with its status, and with what is known in the end, which was then.
func (r *response) write(w *jx.Writer, status string, endedAt time.Time, end *task.End, failure *errorView) {
	w.RawStr(r.head)
	w.RawStr(`,"status":`)
	w.Str(status)
	w.RawStr(`,"error":`)
	if failure == nil {
		w.RawStr("null")
	} else {
		w.RawStr(`{"code":`)
		w.Str(failure.Code)
		w.RawStr(`,"message":`)
		w.Str(failure.Message)
		w.RawStr("}")
	}
	w.RawStr(`,"incomplete_details":`)
	if status == statusIncomplete {
		w.RawStr(`{"reason":"max_output_tokens"}`)
	} else {
		w.RawStr("null")
	}
	w.RawStr(`,"output":[`)
	for at := range r.items {
		if at > 0 {
			w.RawStr(",")
		}
		r.items[at].write(w, r.output.status(at, status))
	}
	w.RawStr("]")
	if end != nil {
		if status == statusCompleted {
			w.RawStr(`,"completed_at":`)
			w.Int64(endedAt.Unix())
		}
		u := usageOf(end)
		w.RawStr(`,"usage":{"input_tokens":`)
		w.Int(u.Prompt)
		w.RawStr(`,"input_tokens_details":{"cached_tokens":`)
		w.Int(end.Receipt.TokensCached)
		// Nobody counts the other details, and the document wants them.
		w.RawStr(`,"cache_write_tokens":0},"output_tokens":`)
		w.Int(u.Completion)
		w.RawStr(`,"output_tokens_details":{"reasoning_tokens":0},"total_tokens":`)
		w.Int(u.Total)
		w.RawStr("}")
	}
	w.RawStr("}")
}

// ended is the status of a response whose task has ended so.
func ended(end *task.End) string {
	if end.FinishReason == task.FinishLength {
		return statusIncomplete
	}
	return statusCompleted
}

// errorOfEnd is the status of a response whose task ended with an error, and what is said of that.
func errorOfEnd(err *task.Error) (status string, failure *errorView) {
	if err.Code == task.Canceled {
		return statusCancelled, nil
	}
	f := failureOf(err)
	return statusFailed, &f
}

// statusOf is the status of the response of a task.
func statusOf(r task.Record) string {
	switch {
	case r.End != nil:
		return ended(r.End)
	case r.Err != nil:
		status, _ := errorOfEnd(r.Err)
		return status
	case r.State == task.Queued:
		return statusQueued
	default:
		return statusInProgress
	}
}

// show writes the response as the record has it.
func (r *response) show(of task.Record) json.RawMessage {
	r.hear(of.Events())
	var failure *errorView
	if of.Err != nil {
		_, failure = errorOfEnd(of.Err)
	}
	if of.End != nil {
		r.speak()
	}
	var w jx.Writer
	r.write(&w, statusOf(of), of.FinishedAt, of.End, failure)
	return w.Buf
}
