// SPDX-License-Identifier: GPL-3.0-or-later

package control

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"

	"github.com/llama-orch/llama-orch/service/config"
	"github.com/llama-orch/llama-orch/service/fleet/engine/httpsse"
	"github.com/llama-orch/llama-orch/service/fleet/pool"
	"github.com/llama-orch/llama-orch/service/flow/admission"
	"github.com/llama-orch/llama-orch/service/flow/placement"
	"github.com/llama-orch/llama-orch/service/flow/scheduler"
	"github.com/llama-orch/llama-orch/service/front/opaque"
	"github.com/llama-orch/llama-orch/service/task"
)

// Opaque implements opaque.Line: the way through the line of tasks to servers that get their requests as they are (LO-467).
type Opaque struct {
	candidates candidates
	desk       *admission.Desk
	schedule   *scheduler.Scheduler
	direct     *http.Transport
}

// NewOpaque makes an Opaque. Close it at the end.
func NewOpaque(f Fleet, desk *admission.Desk, s *scheduler.Scheduler) *Opaque {
	return &Opaque{candidates{Fleet: f, schedule: s}, desk, s, httpsse.Direct(nil)}
}

// Close drops idle connections.
func (o *Opaque) Close() { o.direct.CloseIdleConnections() }

// Takes implements opaque.Line. Every request of the native API asks it, so it looks at the configuration alone.
func (o *Opaque) Takes(path, model string) bool {
	now := o.candidates.config()
	takes := func(p config.Pool) bool { return len(p.Routes) > 0 && placement.Takes(p.Routes, path) }
	if model == "" {
		return slices.ContainsFunc(now.Pools, takes)
	}
	q, err := o.candidates.resolve(now, task.Request{ModelRef: model, Workload: task.Opaque, Path: path})
	return err == nil && slices.ContainsFunc(serving(now, q.ModelRef), takes)
}

// Pass implements opaque.Line.
func (o *Opaque) Pass(ctx context.Context, q task.Request, p opaque.Passage) error {
	var queued *scheduler.Passing
	if err := o.desk.Pass(ctx, q, func(t task.Task) (err error) {
		queued, err = o.schedule.Pass(t, passage{o, p})
		return err
	}); err != nil {
		return err
	}
	return queued.Wait(ctx)
}

// passage is scheduler.Passage.
type passage struct {
	o *Opaque
	opaque.Passage
}

// Pass implements scheduler.Passage.
func (p passage) Pass(ctx context.Context, at scheduler.Lease, signs scheduler.Signs) error {
	l, ok := at.(interface{ Reach() pool.Reach })
	if !ok {
		return fmt.Errorf("the replica %s cannot be reached past its adapter", at.Replica().ID)
	}
	reach := l.Reach()
	to, err := url.Parse(reach.URL)
	if err != nil {
		return fmt.Errorf("read the address of an engine: %w", err)
	}
	e := opaque.Engine{ReplicaID: reach.Replica.ID, URL: to, Key: reach.Key, Transport: p.o.direct}
	if reach.Network != nil {
		e.Transport = reach.Network.Transport
	}
	return p.Serve(ctx, e, signs.Sent, signs.Came)
}
