// SPDX-License-Identifier: GPL-3.0-or-later

package anthropic

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/llama-orch/llama-orch/service/front/exchange"
	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/front/lenient"
	"github.com/llama-orch/llama-orch/service/task"
)

// told is what the answer to a request of a batch repeats of it.
type told struct {
	Model  string `json:"model"`            // as the client named it: a task has the name that an alias stands for
	Hidden bool   `json:"hidden,omitempty"` // its client does not want to see what the model thought
}

// Line makes a task of the parameters of a message. An answer is never streamed (LO-437). The names are what they call the task's
// fields.
func (f *Front) Line(_ context.Context, _ string, params []byte) (task.Request, *lenient.Names, error) {
	var in messageRequest
	if _, err := lenient.Read(params, &in); err != nil {
		return task.Request{}, nil, err
	}
	q, err := in.request()
	q.Front.Reply = exchange.JSON(told{Model: in.Model, Hidden: in.Thinking.hidden()})
	return q, &in.names, err
}

// LineAnswer is the message of such a task, which has completed.
func (f *Front) LineAnswer(_ string, r task.Record) any {
	var reply told
	if err := json.Unmarshal(r.Task.Request.Front.Reply, &reply); err != nil { // Line has written it
		panic(fmt.Errorf("what the answer of task %s repeats: %w", r.Task.ID, err))
	}
	return messageOf(r.Task.ID, reply.Model, reply.Hidden, r.Transcript, r.End)
}

// LineRefusal is what the client of such a request would have got in place of a message.
func (f *Front) LineRefusal(_ string, err error, requestID string) (status int, body any) {
	return gate.Refuse(err).Status, errorOf(err, requestID)
}
