// SPDX-License-Identifier: GPL-3.0-or-later

package control

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/internal/nearest"
	"github.com/llama-orch/llama-orch/service/awake"
	"github.com/llama-orch/llama-orch/service/config"
	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/httpsse"
	"github.com/llama-orch/llama-orch/service/fleet/pool"
	"github.com/llama-orch/llama-orch/service/front/upstream"
	"github.com/llama-orch/llama-orch/service/task"
)

// Upstream implements upstream.Engines: the way to the engines past the line of tasks (LO-427).
type Upstream struct {
	Fleet
	depth  func(poolID string) (interactive, batch int)
	wait   func(poolID string, p task.Priority) time.Duration
	direct *http.Transport
	kinds  map[string]engine.Kind
	log    *zap.Logger
}

// Line tells of the tasks that wait.
type Line interface {
	// Depth is the number of a pool's queued tasks of each priority.
	Depth(poolID string) (interactive, batch int)
	// Wait predicts how long a task queued now would wait for its start.
	Wait(poolID string, p task.Priority) time.Duration
}

// NewUpstream makes an Upstream. Close it at the end.
func NewUpstream(f Fleet, line Line, log *zap.Logger) *Upstream {
	u := &Upstream{Fleet: f, depth: line.Depth, wait: line.Wait, direct: httpsse.Direct(nil), kinds: map[string]engine.Kind{}, log: log.Named("upstream")}
	for _, k := range EngineKinds() {
		u.kinds[k.Name] = k
	}
	return u
}

// Close drops idle connections.
func (u *Upstream) Close() { u.direct.CloseIdleConnections() }

// Reach implements upstream.Engines. A POST takes a free slot, behind the tasks that wait; it does not wait itself.
func (u *Upstream) Reach(poolID, method, path string) (upstream.Engine, error) {
	p, known := u.pool(poolID)
	if !known {
		return upstream.Engine{}, u.unknown(poolID)
	}
	ready, err := u.serving(p)
	if err != nil {
		return upstream.Engine{}, err
	}
	if u.kinds[p.Engine].Own(method, path) {
		return upstream.Engine{}, refusal(p, task.PolicyDenied,
			"%s %s is not passed through to an engine: it changes what receipts and plans rely on, or acts beyond the engine; change the pool's configuration instead", method, task.Clip(path, 100))
	}
	if method != http.MethodPost {
		for _, r := range ready {
			if reach, ok := u.manager.Reach(r.ID); ok {
				return u.engine(p, reach, nil)
			}
		}
		return upstream.Engine{}, u.standing(p).Refusal(p.ID, p.Engine)
	}
	if interactive, batch := u.depth(p.ID); interactive+batch > 0 {
		return upstream.Engine{}, u.busy(p, "tasks wait for pool '%s', and come before requests past the line", p.ID)
	}
	slices.SortStableFunc(ready, func(a, b pool.Info) int { return cmp.Compare(a.Active, b.Active) })
	for _, r := range ready {
		l, err := u.manager.Lease(r.ID)
		if err != nil {
			continue // it was taken just now, or is not ready any more
		}
		if l.Info().Strict { // another worker has come
			l.Release()
			return upstream.Engine{}, strict(p)
		}
		return u.engine(p, l.Reach(), l)
	}
	return upstream.Engine{}, u.busy(p, "every slot of pool '%s' is busy", p.ID)
}

// serving returns the ready replicas of a pool whose engine may be reached past the line. Where tasks are strict, it may not: what else runs
// there could change their bytes.
func (u *Upstream) serving(p config.Pool) (ready []pool.Info, err error) {
	if p.Provisioning.Mode == config.ModeBuiltin {
		return nil, strict(p)
	}
	for _, r := range u.manager.Infos(p.ID) {
		if r.State != pool.Ready || !r.Wanted {
			continue
		}
		if r.Strict {
			return nil, strict(p)
		}
		ready = append(ready, r)
	}
	if len(ready) > 0 {
		return ready, nil
	}
	s := u.standing(p)
	if s.State == task.PoolUnloaded {
		return nil, refusal(p, task.PoolUnready, "the model of pool '%s' is not loaded, and no request past the line loads it: `llama-orch pool load %[1]s` does", p.ID).
			Retry(5 * time.Second)
	}
	return nil, s.Refusal(p.ID, p.Engine)
}

func strict(p config.Pool) *task.Error {
	instead := "give it `slots: 2` or more, and its tasks are best-effort"
	switch p.Provisioning.Mode {
	case config.ModeBuiltin:
		instead = "the built-in worker has one always; provisioning mode `binary` or `external` with `slots: 2` or more has best-effort tasks"
	case config.ModeExternal:
		instead = "start the engine with two slots or more, and its tasks are best-effort"
	}
	return refusal(p, task.PolicyDenied,
		"nothing is passed through to pool '%s': its engine has one slot, so its tasks are strict, and other requests could change their bytes; %s", p.ID, instead)
}

// The bounds of what a caller is told to wait.
const soonest, latest = time.Second, time.Minute

func (u *Upstream) busy(p config.Pool, format string, args ...any) *task.Error {
	e := refusal(p, task.ReplicaExhausted, format, args...)
	e.Message += ": try again, or send a task, which waits in line"
	return e.Retry(min(max(u.wait(p.ID, task.Interactive), soonest), latest))
}

func refusal(p config.Pool, code task.Code, format string, args ...any) *task.Error {
	e := task.Errorf(code, format, args...)
	e.PoolID, e.Engine = p.ID, p.Engine
	return e
}

func (u *Upstream) unknown(id string) *task.Error {
	known, like := u.manager.Pools(), ""
	if name := nearest.Name(id, known); name != "" {
		like = fmt.Sprintf(" (did you mean %s?)", name)
	}
	return task.Errorf(task.NotFound, "there is no pool %q%s: use one of %s", task.Clip(id, 80), like, strings.Join(known, ", "))
}

// engine is the way to a replica's engine. The lease is nil where the request needs no slot.
func (u *Upstream) engine(p config.Pool, at pool.Reach, l *pool.Lease) (e upstream.Engine, err error) {
	e = upstream.Engine{ReplicaID: at.Replica.ID, Key: at.Key, Transport: u.direct, Done: func(bool) {}}
	if at.Network != nil {
		e.Transport = at.Network.Transport
	}
	if e.URL, err = url.Parse(at.URL); err != nil {
		return e, fmt.Errorf("read the address of an engine: %w", err)
	}
	within := time.Duration(0)
	if l != nil {
		within = p.Timeouts.Wall
		e.Done = func(whole bool) {
			if !whole {
				u.awaitIdle(l)
			}
			l.Release()
		}
	}
	e.Bound = func(ctx context.Context) (context.Context, context.CancelFunc) { return bound(ctx, p, at, within) }
	return e, nil
}

// bound ends with the worker, and after so long; 0: it has no such end.
func bound(ctx context.Context, p config.Pool, at pool.Reach, within time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	lost := refusal(p, task.PoolUnavailable, "the worker of replica %s was lost while it served the request: try again", at.Replica.ID).Retry(soonest)
	detach := context.AfterFunc(at.Lost, func() { cancel(lost) })
	stop := func() {}
	if within > 0 {
		ctx, stop = awake.WithTimeoutCause(ctx, within, refusal(p, task.DecodeTimeout, "the engine did not come to an end within the %s of `timeouts.wall`: ask for less", within))
	}
	return ctx, func() {
		detach()
		stop()
		cancel(nil)
	}
}

// idleWithin is how long an engine may take to notice that its client is gone.
const idleWithin = 2 * time.Second

// awaitIdle waits until the slot is idle, or else has its worker replaced, as after a task that was canceled (ORCH-3026).
func (u *Upstream) awaitIdle(l *pool.Lease) {
	if engine.AwaitIdle(l, idleWithin) {
		return
	}
	u.log.Warn("a slot stayed busy after its client had gone; a worker of ours is replaced", zap.String("replica_id", l.Info().ID))
	l.Replace("slot still busy after a request past the line ended")
}
