// SPDX-License-Identifier: GPL-3.0-or-later

package pool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/awake"
	"github.com/llama-orch/llama-orch/service/lifecycle"
	"github.com/llama-orch/llama-orch/service/spare"
)

// missesAllowed is how many health checks in a row a ready replica may miss. A busy machine may make it miss one.
const missesAllowed = 1

// watch checks the ready worker until it is lost. It returns nil if the worker was told to end and has finished its tasks.
func (r *replica) watch(w *worker, log *zap.Logger) *loss {
	due, stop := r.m.opts.Clock.Until(r.m.now().Add(r.m.opts.HealthInterval))
	defer func() { stop() }()
	var check *checkup // the one that runs; nil: none does
	defer func() { check.end() }()
	misses := 0
	for {
		o, changed := r.watchDesired()
		if o.ends() {
			check.end() // a probe that hangs must not delay the drain
			check = nil
			if !r.drain(w, log) {
				r.leave(w)
				return nil
			}
			continue
		}
		select {
		case <-w.ctx.Done():
			return asLoss(context.Cause(w.ctx), exited)
		case <-changed:
		case <-due:
			due, stop = r.m.opts.Clock.Until(r.m.now().Add(r.m.opts.HealthInterval))
			if check == nil {
				check = r.checkup(w)
			}
		case found := <-check.found():
			check.end()
			check = nil
			switch {
			case found.lost != nil:
				w.lose(found.lost)
			case spare.Short(found.missed): // nobody was asked
				log.Warn("a worker could not be asked for its health, because this process lacks descriptors or memory", zap.Error(found.missed))
			case found.missed == nil:
				misses = 0
			default:
				if misses++; misses > missesAllowed {
					w.lose(&loss{reason: unhealthy, detail: "the engine stopped answering health checks", err: engineSaid(found.missed)})
				}
			}
		}
	}
}

// checkup is one check of a ready worker. It has a goroutine of its own, so that the replica does at once what the Manager tells it.
type checkup struct {
	life   lifecycle.Life
	result chan verdict // capacity 1
}

type verdict struct {
	missed error // the health check failed
	lost   *loss // there is no point in waiting
}

// errEnough ends a checkup whose verdict nobody waits for any more.
var errEnough = errors.New("the checkup is over")

func (r *replica) checkup(w *worker) *checkup {
	c := &checkup{result: make(chan verdict, 1)}
	c.life.Begin()
	c.life.Go(func(ctx context.Context) {
		defer func() {
			if p := recover(); p != nil {
				c.result <- verdict{lost: panicked(p, r.m.log.With(zap.String("pool_id", r.spec.ID), zap.String("replica_id", r.id)))}
			}
		}()
		ctx, stop := context.WithCancel(ctx)
		defer stop()
		defer context.AfterFunc(w.ctx, stop)() // a check of a lost worker tells nothing
		c.result <- r.examine(ctx, w)
	})
	return c
}

// found yields the verdict. It is nil, and never yields one, if no checkup runs.
func (c *checkup) found() <-chan verdict {
	if c == nil {
		return nil
	}
	return c.result
}

// end cuts the checkup short and joins it.
func (c *checkup) end() {
	if c != nil {
		_ = c.life.End(context.Background(), errEnough)
	}
}

// cardTrouble is a loss because of a card. What the trouble was, explain adds later.
func cardTrouble() *loss { return &loss{reason: unhealthy, detail: "the worker's card had trouble"} }

// Trouble takes the workers on a card out of service, because the driver has just reported something critical of it. A card below 0
// means every card. DeviceProblems must know of the report already (ORCH-3053). Trouble returns at once.
func (m *Manager) Trouble(card int) {
	for _, r := range m.layout.Load().replicas {
		cards := r.shown.Load().Cards
		if len(cards) == 0 || card >= 0 && !slices.Contains(cards, card) {
			continue
		}
		r.mu.Lock()
		if r.abort != nil { // its worker is starting
			r.abort(cardTrouble())
		}
		r.mu.Unlock()
		if w := r.current.Load(); w != nil {
			w.lose(cardTrouble())
		}
	}
}

func (r *replica) examine(ctx context.Context, w *worker) verdict {
	if cards := w.claim.cards; cards != nil {
		if _, critical := r.m.opts.DeviceProblems(cards, w.born); critical {
			return verdict{lost: cardTrouble()}
		}
	}
	if why := w.look(ctx); why != nil {
		return verdict{lost: why}
	}
	bounded, cancel := awake.WithTimeout(ctx, r.m.opts.HealthInterval)
	err := w.engine.Health(bounded)
	if err == nil {
		w.meter(bounded)
	}
	cancel()
	if err != nil || !r.takeIdle(w) {
		return verdict{missed: err}
	}
	return verdict{lost: r.liveness(ctx, w)}
}

// takeIdle takes a slot for the liveness probe if the worker has been idle for long enough.
func (r *replica) takeIdle(w *worker) bool {
	interval := r.m.opts.LivenessInterval
	if interval < 0 {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.m.now()
	idle := now.Sub(time.Unix(0, w.used.Load()))
	if r.desired.ends() || w.active.Load() != 0 || idle < interval || now.UnixNano() < w.warm.Load() {
		return false
	}
	w.active.Add(1)
	r.probing = true
	return true
}

// liveness makes the idle worker decode one token: an engine may answer health checks and yet decode nothing (ORCH-3002). The probe
// takes a slot for it.
func (r *replica) liveness(ctx context.Context, w *worker) *loss {
	bounded, cancel := awake.WithTimeoutCause(ctx, r.m.opts.ProbeTimeout, fmt.Errorf("no token within %s", r.m.opts.ProbeTimeout))
	err := r.probeError(bounded, w, r.decode(bounded, w, 1))
	cancel()
	r.mu.Lock()
	r.probing = false
	w.free()
	r.mu.Unlock()
	r.m.opts.OnChange(r.spec.ID) // somebody may have asked for the slot in vain
	if err != nil && ctx.Err() == nil && !spare.Short(err) {
		return &loss{reason: unhealthy, detail: "the engine answers health checks, but decodes nothing", err: err}
	}
	return nil
}
