// SPDX-License-Identifier: GPL-3.0-or-later

package openai

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/llama-orch/llama-orch/service/front/exchange"
	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/front/lenient"
	"github.com/llama-orch/llama-orch/service/task"
)

// Endpoints are the paths whose requests a batch can have (LO-436).
var Endpoints = []string{chatPath, completionsPath, embeddingsPath, responsesPath}

// told is what the answer to a line of a batch repeats of its request.
type told struct {
	Model  string `json:"model"`            // as the client named it: a task has the name that an alias stands for
	Legacy bool   `json:"legacy,omitempty"` // of a chat: its client speaks of functions
	Format string `json:"format,omitempty"` // of embeddings
}

// Line makes a task of a body that would have been sent to one of Endpoints. An answer is never streamed (LO-437). The names are what the body calls
// the task's fields.
func (f *Front) Line(ctx context.Context, path string, body []byte) (q task.Request, names *lenient.Names, err error) {
	repeats := told{}
	switch path {
	case chatPath:
		var in chatRequest
		names = &in.names
		q, err = decoded(body, &in)
		repeats.Legacy = in.legacy()
	case completionsPath:
		var in completionRequest
		names = &in.names
		q, err = decoded(body, &in)
	case embeddingsPath:
		var in embeddingsRequest
		names = &lenient.Names{}
		q, err = decoded(body, &in)
		repeats.Format = in.Format
	case responsesPath:
		return f.responseLine(ctx, body)
	default:
		err = fmt.Errorf("a batch cannot have requests for %s", path)
	}
	repeats.Model = q.ModelRef
	q.Front.Reply = exchange.JSON(repeats)
	return q, names, err
}

// responseLine makes the task of a response.
func (f *Front) responseLine(ctx context.Context, body []byte) (task.Request, *lenient.Names, error) {
	var in responseRequest
	if _, err := lenient.Read(body, &in); err != nil {
		return task.Request{}, nil, err
	}
	earlier := f.earlier(ctx)
	q, err := in.request(earlier)
	if err != nil {
		return q, nil, err
	}
	in.Background = false // a batch is that
	q.Front.Reply = exchange.JSON(reply{Head: in.head(q), Chain: earlier.chain, Hidden: !in.kept()})
	return q, &in.names, nil
}

func decoded(body []byte, in interface{ request() (task.Request, error) }) (task.Request, error) {
	if _, err := lenient.Read(body, in); err != nil {
		return task.Request{}, err
	}
	return in.request()
}

// LineAnswer is the body of the answer to such a task, which has completed.
func (f *Front) LineAnswer(path string, r task.Record) any {
	t, accepted := r.Task, r.Task.AcceptedAt.Unix()
	if path == responsesPath {
		return newResponse(t.ID, t.AcceptedAt, repeated[reply](t).Head).show(r)
	}
	switch of := repeated[told](t); path {
	case chatPath:
		return chatOf(head{ID: "chatcmpl-" + t.ID, Object: "chat.completion", Created: accepted, Model: of.Model}, of.Legacy, r.Transcript, r.End)
	case embeddingsPath:
		return embeddingsOf(of.Model, of.Format, r.End)
	default:
		return completionOf(head{ID: "cmpl-" + t.ID, Object: "text_completion", Created: accepted, Model: of.Model}, r.Transcript, r.End)
	}
}

// repeated is what a task keeps for its answer. Line has written it.
func repeated[T any](t task.Task) (of T) {
	if err := json.Unmarshal(t.Request.Front.Reply, &of); err != nil {
		panic(fmt.Errorf("what the answer of task %s repeats: %w", t.ID, err))
	}
	return of
}

// LineRefusal is what the client of such a request would have got in place of an answer.
func (f *Front) LineRefusal(path string, err error, _ string) (status int, body any) {
	return gate.Refuse(err).Status, errorAt(path, err)
}
