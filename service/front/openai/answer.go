// SPDX-License-Identifier: GPL-3.0-or-later

package openai

import (
	"cmp"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"strings"

	"github.com/llama-orch/llama-orch/service/front/exchange"
	"github.com/llama-orch/llama-orch/service/front/lenient"
	"github.com/llama-orch/llama-orch/service/task"
)

type usage struct {
	Prompt     int `json:"prompt_tokens"`
	Completion int `json:"completion_tokens"`
	Total      int `json:"total_tokens"`
}

func usageOf(end *task.End) usage {
	return usage{end.TokensIn, end.TokensOut, end.TokensIn + end.TokensOut}
}

// chat serves /v1/chat/completions.
func (f *Front) chat(w http.ResponseWriter, r *http.Request) error {
	var in chatRequest
	body, err := lenient.Decode(r, &in)
	if err != nil {
		return err
	}
	q, err := in.request()
	if err != nil {
		return err
	}
	a, err := f.x.Submit(w, r, q, body)
	if err != nil {
		return err
	}
	head := head{ID: "chatcmpl-" + a.ID, Object: "chat.completion", Created: f.x.Now().Unix(), Model: in.Model}
	if in.Stream {
		head.Object = "chat.completion.chunk"
		return a.Stream(w, r, newChunks(head, true, in.usage()), dialect{})
	}
	return a.Whole(w, r, func(t task.Transcript, end *task.End) any {
		parts := t.Parts()
		m := chatMessage{Role: "assistant", Reasoning: parts.Reasoning}
		if parts.Answer != "" || len(parts.Calls) == 0 {
			m.Content = &parts.Answer
		}
		for _, c := range parts.Calls {
			m.Calls = append(m.Calls, call{ID: c.ID, Type: "function", Function: function{c.Name, c.Arguments}})
		}
		return chatAnswer{head.with(end), []chatChoice{{Message: m, Finish: finish(end, len(parts.Calls) > 0)}}, usageOf(end)}
	})
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
	Index    int         `json:"index"`
	Message  chatMessage `json:"message"`
	Logprobs *struct{}   `json:"logprobs"`
	Finish   string      `json:"finish_reason"`
}

type chatMessage struct {
	Role      string  `json:"role"`
	Content   *string `json:"content"`
	Refusal   *string `json:"refusal"`
	Reasoning string  `json:"reasoning_content,omitempty"`
	Calls     []call  `json:"tool_calls,omitempty"`
}

type call struct {
	ID       string   `json:"id"`
	Type     string   `json:"type"`
	Function function `json:"function"`
}

type function struct {
	Name      string `json:"name"`
	Arguments string `json:"arguments"`
}

// finish is why an answer ended, in the dialect's words.
func finish(end *task.End, calls bool) string {
	if calls && end.FinishReason == task.FinishStop {
		return "tool_calls"
	}
	return string(end.FinishReason)
}

// completion serves /v1/completions.
func (f *Front) completion(w http.ResponseWriter, r *http.Request) error {
	var in completionRequest
	body, err := lenient.Decode(r, &in)
	if err != nil {
		return err
	}
	q, err := in.request()
	if err != nil {
		return err
	}
	a, err := f.x.Submit(w, r, q, body)
	if err != nil {
		return err
	}
	head := head{ID: "cmpl-" + a.ID, Object: "text_completion", Created: f.x.Now().Unix(), Model: in.Model}
	if in.Stream {
		return a.Stream(w, r, newChunks(head, false, in.usage()), dialect{})
	}
	return a.Whole(w, r, func(t task.Transcript, end *task.End) any {
		return textAnswer{head.with(end), []textChoice{{Text: t.Text, Finish: finish(end, false)}}, usageOf(end)}
	})
}

type textAnswer struct {
	head

	Choices []textChoice `json:"choices"`
	Usage   usage        `json:"usage"`
}

type textChoice struct {
	Index    int       `json:"index"`
	Text     string    `json:"text"`
	Logprobs *struct{} `json:"logprobs"`
	Finish   string    `json:"finish_reason"`
}

// embeddings serves /v1/embeddings.
func (f *Front) embeddings(w http.ResponseWriter, r *http.Request) error {
	var in embeddingsRequest
	body, err := lenient.Decode(r, &in)
	if err != nil {
		return err
	}
	q, err := in.request()
	if err != nil {
		return err
	}
	a, err := f.x.Submit(w, r, q, body)
	if err != nil {
		return err
	}
	return a.Whole(w, r, func(_ task.Transcript, end *task.End) any {
		var result struct {
			Embeddings [][]float32 `json:"embeddings"`
		}
		if err := json.Unmarshal(end.Result, &result); err != nil {
			panic(fmt.Errorf("an embedding's result: %w", err)) // it is ours
		}
		out := vectors{Object: "list", Model: in.Model, Data: make([]vector, len(result.Embeddings))}
		out.Usage.Prompt, out.Usage.Total = end.TokensIn, end.TokensIn
		for i, v := range result.Embeddings {
			out.Data[i] = vector{Object: "embedding", Index: i, Embedding: v}
			if in.Format == "base64" {
				out.Data[i].Embedding = encoded(v)
			}
		}
		return out
	})
}

type vectors struct {
	Object string   `json:"object"`
	Data   []vector `json:"data"`
	Model  string   `json:"model"`
	Usage  struct {
		Prompt int `json:"prompt_tokens"`
		Total  int `json:"total_tokens"`
	} `json:"usage"`
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
	id := exchange.Under(r, modelsPath)
	var known []string
	for _, m := range f.x.Models() {
		if m.ID == id {
			f.x.Write(w, http.StatusOK, view(m))
			return nil
		}
		known = append(known, m.ID)
	}
	return task.Errorf(task.ModelNotFound, "there is no model %q; there are: %s", task.Clip(id, 100), cmp.Or(strings.Join(known, ", "), "none"))
}
