// SPDX-License-Identifier: GPL-3.0-or-later

package openai

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/llama-orch/llama-orch/service/front/exchange"
	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/front/lenient"
	"github.com/llama-orch/llama-orch/service/task"
)

// Endpoints are the paths whose requests a batch can have (LO-436).
var Endpoints = []string{chatPath, completionsPath, embeddingsPath, responsesOf}

// The paths of Endpoints.
const (
	chatPath        = "/v1/chat/completions"
	completionsPath = "/v1/completions"
	embeddingsPath  = "/v1/embeddings"
	responsesOf     = "/v1/responses"
)

// told is what the answer to a line of a batch repeats of its request.
type told struct {
	Model  string `json:"model"`            // as the client named it: a task has the name that an alias stands for
	Legacy bool   `json:"legacy,omitempty"` // of a chat: its client speaks of functions
	Format string `json:"format,omitempty"` // of embeddings
}

// Line makes a task of a body that would have been sent to one of Endpoints. An answer is never streamed (LO-437).
func (f *Front) Line(ctx context.Context, path string, body []byte) (q task.Request, err error) {
	repeats := told{}
	switch path {
	case chatPath:
		var in chatRequest
		q, err = decoded(body, &in)
		repeats.Legacy = in.legacy()
	case completionsPath:
		q, err = decoded(body, &completionRequest{})
	case embeddingsPath:
		var in embeddingsRequest
		q, err = decoded(body, &in)
		repeats.Format = in.Format
	case responsesOf:
		var in responseRequest
		if _, err = lenient.Read(body, &in); err != nil {
			return q, err
		}
		in.Background = false // a batch is that
		earlier := f.earlier(ctx)
		if q, err = in.request(earlier); err == nil {
			q.Front.Reply = exchange.JSON(reply{Head: in.head(q), Chain: earlier.chain})
		}
		return q, err
	default:
		err = fmt.Errorf("a batch cannot have requests for %s", path)
	}
	repeats.Model = q.ModelRef
	q.Front.Reply = exchange.JSON(repeats)
	return q, err
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
	if path == responsesOf {
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
	out := errorOf(err)
	if param := prompts[strings.TrimRight(path, "/")]; out.Error.Code == tooLong && param != "" {
		out.Error.Param = &param
	}
	return gate.Refuse(err).Status, out
}
