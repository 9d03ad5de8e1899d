// SPDX-License-Identifier: GPL-3.0-or-later

package exchange

import (
	"context"
	"net/http"

	"github.com/llama-orch/llama-orch/service/front/delivery"
	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/task"
)

// Record is what is known of one of this front's tasks; see Tasks. What came by another front is NOT_FOUND.
func (x *Exchange) Record(ctx context.Context, id string) (r task.Record, again bool, err error) {
	r, again, err = x.o.Tasks.Record(ctx, id)
	if err == nil && r.Task.Request.Front.Dialect != x.name {
		err = task.Errorf(task.NotFound, "the task came by another front")
	}
	return r, again, err
}

// Again sends the events of a task anew. From is the number of the first that the encoder needs; a task that has not ended is read from 0. A reader who leaves does nothing to a task that has others, or needs none.
func (x *Exchange) Again(w http.ResponseWriter, r *http.Request, of task.Record, from int, encoder delivery.Encoder, dialect delivery.Dialect) error {
	w.Header().Set("X-Task-Id", of.Task.ID)
	if gate.CallFrom(r.Context()).Head {
		delivery.Head(w, dialect)
		return nil
	}
	recorded := of.Events()
	recorded.From = from
	events := delivery.Recorded(recorded)
	if !of.State.Final() {
		var err error
		if events, err = x.o.Tasks.Events(r.Context(), of.Task.ID); err != nil {
			return err
		}
	}
	return x.o.Streams.Deliver(w, r, delivery.Again(events, encoder), dialect)
}

// Show answers with what a front makes of a record, and with its receipt where it has one.
func (x *Exchange) Show(w http.ResponseWriter, of task.Record, answer any) {
	w.Header().Set("X-Task-Id", of.Task.ID)
	if of.End != nil {
		receipt(w.Header(), of.End)
	}
	x.Write(w, http.StatusOK, answer)
}

// Cancel ends a task, or does nothing where it has ended.
func (x *Exchange) Cancel(ctx context.Context, id string) error {
	_, err := x.o.Tasks.Cancel(ctx, id)
	return err
}

// Delete deletes an ended task.
func (x *Exchange) Delete(ctx context.Context, id string) error {
	return x.o.Tasks.Delete(ctx, id, gate.CallFrom(ctx).Identity)
}

// Deleted returns those of the ids whose tasks were deleted.
func (x *Exchange) Deleted(ctx context.Context, ids []string) ([]string, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	return x.o.Tasks.Deleted(ctx, ids)
}
