// SPDX-License-Identifier: GPL-3.0-or-later

package ollama

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/llama-orch/llama-orch/service/front/exchange"
	"github.com/llama-orch/llama-orch/service/front/lenient"
	"github.com/llama-orch/llama-orch/service/task"
)

// figures are the counts of a finished answer, and its times in nanoseconds. They are the task's own: what it waited counts as loading, and
// what its worker took before the first token as the prompt's evaluation.
type figures struct {
	Total       int64 `json:"total_duration"`
	Load        int64 `json:"load_duration"`
	PromptCount int   `json:"prompt_eval_count"`
	PromptTime  int64 `json:"prompt_eval_duration"`
	Count       int   `json:"eval_count"`
	Time        int64 `json:"eval_duration"`
}

// statusWithin bounds the look at a task that has ended.
const statusWithin = 2 * time.Second

// ended takes the figures of a task that has ended, and lets go of its model where the client asked for that. It lives as long as the
// stream, and so keeps nothing of the request.
func (f *Front) ended(id string, unload bool) func(end *task.End) figures {
	return func(end *task.End) figures {
		ctx, stop := context.WithTimeout(context.Background(), statusWithin)
		defer stop()
		decoded := time.Duration(end.DecodeTimeMS) * time.Millisecond
		out := figures{PromptCount: end.TokensIn, Count: end.TokensOut, Time: int64(decoded), Total: int64(decoded)}
		s, err := f.o.Status(ctx, id)
		if err != nil { // it was forgotten at once
			return out
		}
		if unload {
			f.o.Library.Release(ctx, s.PoolID)
		}
		if s.FinishedAt.IsZero() {
			s.FinishedAt = f.x.Now()
		}
		if !s.StartedAt.IsZero() { // the clock may have been set back in between
			out.Load = int64(max(between(s.AcceptedAt, s.StartedAt), 0))
			out.PromptTime = int64(max(between(s.StartedAt, s.FinishedAt)-decoded, 0))
		}
		out.Total = out.Load + out.PromptTime + out.Time
		return out
	}
}

// between is the time from one moment to another, as the ledger keeps them: who joins the task later gets the same figures.
func between(from, to time.Time) time.Duration {
	return to.Truncate(time.Millisecond).Sub(from.Truncate(time.Millisecond))
}

// head is what every answer begins with.
type head struct {
	Model   string    `json:"model"` // as the client named it
	Created time.Time `json:"created_at"`
}

// now is the head of an answer that no task gives.
func (f *Front) now(model string) head { return head{model, f.x.Now().UTC()} }

// The words of done_reason, besides those of a task.
const (
	doneLoad   = "load"
	doneUnload = "unload"
)

// doneReason is a task's end in the dialect's word, which has none of its own for calls.
func doneReason(r task.FinishReason) string {
	if r == task.FinishToolCalls {
		r = task.FinishStop
	}
	return string(r)
}

// done ends an answer. Figures are nil where nothing was generated.
type done struct {
	Done   bool   `json:"done"`
	Reason string `json:"done_reason"`
	*figures
}

type chatAnswer struct {
	head

	Message  answered        `json:"message"`
	Logprobs json.RawMessage `json:"logprobs,omitempty"`
	done
}

// answered is the message of an answer.
type answered struct {
	Role      string     `json:"role"`
	Content   string     `json:"content"`
	Thinking  string     `json:"thinking,omitempty"`
	ToolCalls []toolCall `json:"tool_calls,omitempty"`
}

type textAnswer struct {
	head

	Response string          `json:"response"`
	Thinking string          `json:"thinking,omitempty"`
	Logprobs json.RawMessage `json:"logprobs,omitempty"`
	done
}

// chat serves /api/chat.
func (f *Front) chat(w http.ResponseWriter, r *http.Request) error {
	var in chatRequest
	body, model, unload, err := f.read(r, &in, &in.common)
	if err != nil {
		return err
	}
	if len(in.Messages) == 0 {
		return f.move(w, r, in.shown(), model, unload, func(d done) any {
			return chatAnswer{head: f.now(in.shown()), Message: answered{Role: task.RoleAssistant}, done: d}
		})
	}
	q, err := in.request(model)
	if err != nil {
		return err
	}
	return f.answer(w, r, q, &in.names, asked{body: body, shown: in.shown(), chat: true, streams: in.streams(), unload: unload})
}

// generate serves /api/generate.
func (f *Front) generate(w http.ResponseWriter, r *http.Request) error {
	var in generateRequest
	body, model, unload, err := f.read(r, &in, &in.common)
	if err != nil {
		return err
	}
	if in.Prompt == "" && len(in.Images) == 0 && in.Suffix == "" {
		return f.move(w, r, in.shown(), model, unload, func(d done) any { return textAnswer{head: f.now(in.shown()), done: d} })
	}
	q, err := in.request(model)
	if err != nil {
		return err
	}
	return f.answer(w, r, q, &in.names, asked{body: body, shown: in.shown(), streams: in.streams(), unload: unload})
}

// read decodes a body, and returns the model by the name that the pools know.
func (f *Front) read(r *http.Request, into any, c *common) (body []byte, model string, unload bool, err error) {
	if body, err = lenient.Decode(r, into); err != nil {
		return nil, "", false, err
	}
	if model, err = f.named(c); err != nil {
		return nil, "", false, err
	}
	unload, err = c.unload()
	return body, model, unload, err
}

// asked is how an answer is wanted.
type asked struct {
	body    []byte
	shown   string // the model, as the client named it
	chat    bool   // else it is a completion
	streams bool
	unload  bool
}

// answer submits the task, and sends what comes of it.
func (f *Front) answer(w http.ResponseWriter, r *http.Request, q task.Request, names *lenient.Names, how asked) error {
	a, err := f.submit(w, r, how.shown, q, names, how.body)
	if err != nil {
		return err
	}
	ended, head := f.ended(a.ID, how.unload), head{how.shown, a.Created}
	if how.streams {
		return a.Stream(w, r, newLines(head, how.chat, ended), lineByLine)
	}
	return a.Whole(w, r, func(t task.Transcript, end *task.End) any {
		parts, fig := t.Parts(), ended(end)
		whole, rest := calls(parts.Calls)
		d := done{Done: true, Reason: doneReason(end.FinishReason), figures: &fig}
		likely := json.RawMessage(task.JoinLogprobs(t.Logprobs))
		if !how.chat {
			return textAnswer{head, parts.Answer + rest, parts.Reasoning, likely, d}
		}
		return chatAnswer{head, answered{task.RoleAssistant, parts.Answer + rest, parts.Reasoning, whole}, likely, d}
	})
}

// embed serves /api/embed.
func (f *Front) embed(w http.ResponseWriter, r *http.Request) error {
	var in embedRequest
	body, model, unload, err := f.read(r, &in, &in.common)
	if err != nil {
		return err
	}
	if len(in.Input) == 0 || len(in.Input) == 1 && in.Input[0] == "" {
		return f.move(w, r, in.shown(), model, unload, func(done) any { return vectors{Model: in.shown(), Embeddings: [][]float32{}} })
	}
	return f.vectors(w, r, &in, in.Input, model, body, func(list [][]float32, fig figures) any {
		return vectors{Model: in.shown(), Embeddings: list, Total: fig.Total, Load: fig.Load, PromptCount: fig.PromptCount}
	}, unload)
}

type vectors struct {
	Model       string      `json:"model"`
	Embeddings  [][]float32 `json:"embeddings"`
	Total       int64       `json:"total_duration"`
	Load        int64       `json:"load_duration"`
	PromptCount int         `json:"prompt_eval_count"`
}

// embeddings serves /api/embeddings, which is the older /api/embed.
func (f *Front) embeddings(w http.ResponseWriter, r *http.Request) error {
	type vector struct {
		Embedding []float32 `json:"embedding"`
	}
	var in embedRequest
	body, model, unload, err := f.read(r, &in, &in.common)
	if err != nil {
		return err
	}
	if in.Prompt == "" {
		return f.move(w, r, in.shown(), model, unload, func(done) any { return vector{[]float32{}} })
	}
	return f.vectors(w, r, &in, []string{in.Prompt}, model, body, func(list [][]float32, _ figures) any { return vector{list[0]} }, unload)
}

func (f *Front) vectors(w http.ResponseWriter, r *http.Request, in *embedRequest, inputs []string, model string, body []byte,
	answer func([][]float32, figures) any, unload bool,
) error {
	q, err := in.request(model, inputs)
	if err != nil {
		return err
	}
	a, err := f.submit(w, r, in.shown(), q, &in.names, body)
	if err != nil {
		return err
	}
	ended := f.ended(a.ID, unload)
	return a.Whole(w, r, func(_ task.Transcript, end *task.End) any {
		var result struct {
			Embeddings [][]float32 `json:"embeddings"`
		}
		exchange.Result(end, &result)
		return answer(result.Embeddings, ended(end))
	})
}

// receiptOf is what proves an answer, as the last line of a stream has it.
func receiptOf(end *task.End) map[string]string {
	out := map[string]string{}
	for _, part := range exchange.ReceiptParts(&end.Receipt) {
		out[part[0]] = part[1]
	}
	return out
}
