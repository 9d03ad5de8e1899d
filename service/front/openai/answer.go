// SPDX-License-Identifier: GPL-3.0-or-later

package openai

import (
	"cmp"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"math"
	"net/http"
	"slices"
	"strconv"

	"github.com/llama-orch/llama-orch/service/front/exchange"
	"github.com/llama-orch/llama-orch/service/front/lenient"
	"github.com/llama-orch/llama-orch/service/task"
)

type usage struct {
	Prompt     int            `json:"prompt_tokens"`
	Completion int            `json:"completion_tokens"`
	Total      int            `json:"total_tokens"`
	Details    *promptDetails `json:"prompt_tokens_details,omitempty"` // nil: nothing is known to have come from KV
}

type promptDetails struct {
	Cached int `json:"cached_tokens"`
}

func usageOf(end *task.End) usage {
	u := usage{Prompt: end.TokensIn, Completion: end.TokensOut, Total: end.TokensIn + end.TokensOut}
	if n := end.Receipt.TokensCached; n > 0 {
		u.Details = &promptDetails{n}
	}
	return u
}

// chat serves /v1/chat/completions.
func (f *Front) chat(w http.ResponseWriter, r *http.Request) error {
	var in chatRequest
	a, _, err := f.submit(w, r, &in, &in.names)
	if err != nil {
		return err
	}
	head := head{ID: "chatcmpl-" + a.ID, Object: "chat.completion", Created: a.Created.Unix(), Model: in.Model}
	if in.Stream {
		head.Object = "chat.completion.chunk"
		c := newChunks(head, true, in.StreamOptions.usage())
		c.legacy = in.legacy()
		return a.Stream(w, r, c, sse{})
	}
	return a.Whole(w, r, f.took(w, func(t task.Transcript, end *task.End) any { return chatOf(head, in.legacy(), t, end) }))
}

// chatOf is the whole answer to a chat. Legacy says that its client speaks of functions.
func chatOf(head head, legacy bool, t task.Transcript, end *task.End) any {
	parts := t.Parts()
	m := chatMessage{Role: "assistant", Reasoning: parts.Reasoning}
	if parts.Answer != "" || len(parts.Calls) == 0 {
		m.Content = &parts.Answer
	}
	for i, c := range parts.Calls {
		switch called := (called{c.Name, c.Arguments}); {
		case !legacy:
			m.Calls = append(m.Calls, call{ID: c.ID, Type: "function", Function: called})
		case i == 0: // the old form has room for one
			m.Call = &called
		}
	}
	why := finishReason(end, len(parts.Calls) > 0, legacy)
	return chatAnswer{head.with(end), []chatChoice{{Message: m, Logprobs: chatLogprobs(task.JoinLogprobs(t.Logprobs)), Finish: why}}, usageOf(end)}
}

// submit reads a body, and sends it off as a task. The request says in the names what the client calls the task's fields.
func (f *Front) submit(
	w http.ResponseWriter, r *http.Request, in interface{ request() (task.Request, error) }, names *lenient.Names,
) (*exchange.Answer, task.Request, error) {
	body, err := lenient.Decode(r, in)
	if err != nil {
		return nil, task.Request{}, err
	}
	q, err := in.request()
	if err != nil {
		return nil, q, err
	}
	a, err := f.x.Submit(w, r, q, body)
	return a, q, names.Err(err)
}

// took tells in a header how long the answer took, from now on.
func (f *Front) took(w http.ResponseWriter, answer func(t task.Transcript, end *task.End) any) func(t task.Transcript, end *task.End) any {
	began := f.x.Now()
	return func(t task.Transcript, end *task.End) any {
		w.Header().Set("Openai-Processing-Ms", strconv.FormatInt(max(f.x.Now().Sub(began).Milliseconds(), 0), 10))
		return answer(t, end)
	}
}

// head is what every answer and chunk begins with.
type head struct {
	ID          string `json:"id"`
	Object      string `json:"object"`
	Created     int64  `json:"created"`
	Model       string `json:"model"`
	Fingerprint string `json:"system_fingerprint,omitempty"`
}

// with adds what is known in the end: the fingerprint of the replica, which is what this dialect means by the word.
func (h head) with(end *task.End) head {
	h.Fingerprint = fingerprint(end)
	return h
}

func fingerprint(end *task.End) string { return end.Receipt.Fingerprint }

type chatAnswer struct {
	head

	Choices []chatChoice `json:"choices"`
	Usage   usage        `json:"usage"`
}

type chatChoice struct {
	Index    int             `json:"index"`
	Message  chatMessage     `json:"message"`
	Logprobs json.RawMessage `json:"logprobs"`
	Finish   string          `json:"finish_reason"`
}

type chatMessage struct {
	Role      string  `json:"role"`
	Content   *string `json:"content"`
	Refusal   *string `json:"refusal"`
	Reasoning string  `json:"reasoning_content,omitempty"`
	Calls     []call  `json:"tool_calls,omitempty"`
	Call      *called `json:"function_call,omitempty"` // the old form
}

type call struct {
	ID       string `json:"id"`
	Type     string `json:"type"`
	Function called `json:"function"`
}

type called struct {
	Name      string `json:"name"`
	Arguments string `json:"arguments"`
}

// finishReason is why an answer ended, in the dialect's words. There always is a word: clients repeat a request whose answer has none.
func finishReason(end *task.End, calls, legacy bool) string {
	switch {
	case end.FinishReason == task.FinishLength:
		return "length"
	case calls && legacy:
		return "function_call"
	case calls:
		return "tool_calls"
	default:
		return "stop"
	}
}

// completion serves /v1/completions.
func (f *Front) completion(w http.ResponseWriter, r *http.Request) error {
	var in completionRequest
	a, _, err := f.submit(w, r, &in, &in.names)
	if err != nil {
		return err
	}
	head := head{ID: "cmpl-" + a.ID, Object: "text_completion", Created: a.Created.Unix(), Model: in.Model}
	if in.Stream {
		return a.Stream(w, r, newChunks(head, false, in.StreamOptions.usage()), sse{})
	}
	return a.Whole(w, r, f.took(w, func(t task.Transcript, end *task.End) any { return completionOf(head, t, end) }))
}

// completionOf is the whole answer to a completion.
func completionOf(head head, t task.Transcript, end *task.End) any {
	choice := textChoice{Text: t.Text, Logprobs: completionLogprobs(t), Finish: finishReason(end, false, false)}
	return textAnswer{head.with(end), []textChoice{choice}, usageOf(end)}
}

type textAnswer struct {
	head

	Choices []textChoice `json:"choices"`
	Usage   usage        `json:"usage"`
}

type textChoice struct {
	Index    int           `json:"index"`
	Text     string        `json:"text"`
	Logprobs *textLogprobs `json:"logprobs"`
	Finish   string        `json:"finish_reason"`
}

// embeddings serves /v1/embeddings.
func (f *Front) embeddings(w http.ResponseWriter, r *http.Request) error {
	var in embeddingsRequest
	a, _, err := f.submit(w, r, &in, &lenient.Names{})
	if err != nil {
		return err
	}
	return a.Whole(w, r, f.took(w, func(_ task.Transcript, end *task.End) any { return embeddingsOf(in.Model, in.Format, end) }))
}

// embeddingsOf is the answer to a request for embeddings.
func embeddingsOf(model, format string, end *task.End) any {
	var result struct {
		Embeddings [][]float32 `json:"embeddings"`
	}
	exchange.Result(end, &result)
	out := vectors{Object: "list", Model: model, Data: make([]vector, len(result.Embeddings))}
	out.Usage.Prompt, out.Usage.Total = end.TokensIn, end.TokensIn
	for i, v := range result.Embeddings {
		out.Data[i] = vector{Object: "embedding", Index: i, Embedding: v}
		if format == "base64" {
			out.Data[i].Embedding = encoded(v)
		}
	}
	return out
}

type vectors struct {
	Object string   `json:"object"`
	Data   []vector `json:"data"`
	Model  string   `json:"model"`
	Usage  read     `json:"usage"`
}

type vector struct {
	Object    string `json:"object"`
	Index     int    `json:"index"`
	Embedding any    `json:"embedding"` // []float32, or its bytes in base64
}

// encoded is a vector as base64: the bytes of its 32-bit floats, the lowest first.
func encoded(v []float32) string {
	b := make([]byte, 0, 4*len(v))
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
	}
	return base64.StdEncoding.EncodeToString(b)
}

// rerank serves /v1/rerank.
func (f *Front) rerank(w http.ResponseWriter, r *http.Request) error {
	var in rerankRequest
	a, q, err := f.submit(w, r, &in, &lenient.Names{})
	if err != nil {
		return err
	}
	return a.Whole(w, r, f.took(w, func(_ task.Transcript, end *task.End) any {
		var result struct {
			Scores []float64 `json:"scores"`
		}
		exchange.Result(end, &result)
		out := ranking{ID: "rerank-" + a.ID, Object: "list", Model: in.Model, Results: make([]rank, len(result.Scores))}
		out.Usage.Prompt, out.Usage.Total = end.TokensIn, end.TokensIn
		for i, score := range result.Scores {
			out.Results[i] = rank{Index: i, Score: score}
			if in.Return {
				out.Results[i].Document = &text{q.Inputs[i]}
			}
		}
		slices.SortStableFunc(out.Results, func(a, b rank) int { return cmp.Compare(b.Score, a.Score) })
		if in.TopN != nil && *in.TopN < float64(len(out.Results)) {
			out.Results = out.Results[:int(*in.TopN)]
		}
		return out
	}))
}

type ranking struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Model   string `json:"model"`
	Results []rank `json:"results"` // the best first
	Usage   read   `json:"usage"`
}

type rank struct {
	Index    int     `json:"index"` // of the document in the request
	Score    float64 `json:"relevance_score"`
	Document *text   `json:"document,omitempty"`
}

type text struct {
	Text string `json:"text"`
}

// read is the usage of what only reads.
type read struct {
	Prompt int `json:"prompt_tokens"`
	Total  int `json:"total_tokens"`
}

type modelView struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Created int64  `json:"created"`
	Owner   string `json:"owned_by"`
	Ctx     int    `json:"context_length,omitempty"`
}

func view(m exchange.Model) modelView {
	return modelView{ID: m.ID, Object: "model", Created: max(m.Created.Unix(), 0), Owner: "llama-orch", Ctx: m.Ctx}
}

// models serves /v1/models.
func (f *Front) models(w http.ResponseWriter, _ *http.Request) error {
	list := []modelView{}
	for _, m := range f.x.Models() {
		list = append(list, view(m))
	}
	f.x.Write(w, http.StatusOK, struct {
		Object string      `json:"object"`
		Data   []modelView `json:"data"`
	}{"list", list})
	return nil
}

// model serves /v1/models/{id}. An id may have slashes.
func (f *Front) model(w http.ResponseWriter, r *http.Request) error {
	m, err := f.x.Model(exchange.Under(r, modelPath))
	if err != nil {
		return err
	}
	f.x.Write(w, http.StatusOK, view(m))
	return nil
}
