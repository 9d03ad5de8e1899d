// SPDX-License-Identifier: GPL-3.0-or-later

package delivery

import (
	"context"
	"io"
	"time"

	"github.com/llama-orch/llama-orch/service/task"
)

// Recorded are the events of a task that has ended, as its record has them.
func Recorded(all task.Events) Events { return &recorded{all: all} }

type recorded struct {
	all   task.Events
	taken bool
}

// NextEvents is Events'. All come at once.
func (r *recorded) NextEvents(context.Context, <-chan time.Time) (e task.Events, news bool, err error) {
	if r.taken {
		return e, false, io.EOF
	}
	r.taken = true
	return r.all, true, nil
}

// Last is Events'.
func (r *recorded) Last() bool { return r.taken }

// DirectEvents is Events'. Nobody appends any more.
func (r *recorded) DirectEvents(func(e task.Events) bool) {}

// Written is Events'.
func (r *recorded) Written() {}

// Metrics is Events'. The task has ended.
func (r *recorded) Metrics() (task.Metrics, bool) { return task.Metrics{}, false }

// Close is Events'.
func (r *recorded) Close() {}
