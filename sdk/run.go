// SPDX-License-Identifier: GPL-3.0-or-later

package sdk

import (
	"context"
	"iter"
	"time"

	"github.com/google/uuid"
)

// lastWords bounds what is still said to the server about a task whose context has ended.
const lastWords = 5 * time.Second

// Run submits a task and reads its stream. Its first event is Started, and its last is End or ErrorEvent; an error is the last element, as with Stream.
//
// The task belongs to the loop: it is canceled if the context ends, or the loop is left, before the last event (LO-905). The cancel, and a submit that is
// under way, have a few seconds of their own. A request without a TaskID gets one, so that the task is known even if no answer came. Each range over the
// sequence is a task of its own, unless the request names one. Use Submit and Stream for a task that is to go on.
func (c *Client) Run(ctx context.Context, request *TaskRequest) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		own := *request
		if own.TaskID == "" {
			own.TaskID = uuid.NewString()
		}
		if ctx.Err() != nil {
			yield(nil, ctx.Err())
			return
		}
		_, err := c.submit(ctx, &own)
		if err == nil {
			err = c.owned(ctx, own.TaskID, yield)
		}
		if err != nil {
			yield(nil, err)
		}
	}
}

// submit lets a submit finish though the context ends: only its answer says whether there is a task to cancel.
func (c *Client) submit(ctx context.Context, request *TaskRequest) (*Admission, error) {
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(lastWords, cancel) })()
	admission, err := c.Submit(own, request)
	if own.Err() != nil {
		return nil, ctx.Err()
	}
	return admission, err
}

// owned reads the stream of a task that ends with its reader.
func (c *Client) owned(ctx context.Context, id string, yield func(Event, error) bool) error {
	over, left := false, false
	err := c.follow(ctx, newReader(id, ""), func(e Event, err error) bool {
		switch e.(type) {
		case End, ErrorEvent:
			over = true
		}
		left = !yield(e, err)
		return !left
	})
	if !over && (left || ctx.Err() != nil) {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWords)
		defer cancel()
		// What the caller gets is why the reading ended. A task that could not be canceled runs on, as one does whose client is gone.
		_, _ = c.Cancel(last, id)
	}
	return err
}
