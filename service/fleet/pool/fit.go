// SPDX-License-Identifier: GPL-3.0-or-later

package pool

import (
	"fmt"
	"time"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/vram"
	"github.com/llama-orch/llama-orch/service/task"
)

const (
	// ctxStep is the step in which contexts are fitted. Engines round to it.
	ctxStep = 256
	// ctxLeast is the smallest context that is fitted, unless the model's own is even smaller.
	ctxLeast = 2048
	// fitMargin is left free when a context fills a card up: estimates are not exact.
	fitMargin = 1.05
	// keepTries is how often a replica asks for the context that it had before another is fitted. The memory of its last worker may
	// take a moment to be free.
	keepTries = 5
)

// fitsCtx reports whether each worker's context is chosen to fit its cards, because none is configured.
func (s *Spec) fitsCtx(kind engine.Kind) bool {
	return s.Ctx == 0 && s.cards() > 0 && !kind.Start.ToldCtx(s.BinaryArgs)
}

func (r *replica) fitsCtx() bool { return r.spec.fitsCtx(r.kind) }

// least is the smallest context that is fitted.
func least(s engine.Sizer) int { return min(ctxLeast, s.OwnCtx()) }

// fit is the largest context, from the least to the most, whose worker takes no more than the room; 0: even the least takes more. Need
// says what a worker of a context asks for, given its estimate.
func (f fitting) fit(least, most int, room int64, need func(ctx int, estimate int64) int64) (ctx int) {
	below := 0 // one more than the steps above the least that are known to fit
	for above := (most-least+ctxStep-1)/ctxStep + 1; below < above; {
		middle := (below + above) / 2
		try := min(least+middle*ctxStep, most)
		e, err := f.sizer.At(try)
		if wants := need(try, f.r.spec.expected(e)); err == nil && float64(wants)*fitMargin <= float64(room) {
			ctx, below = try, middle+1
		} else {
			above = middle
		}
	}
	return ctx
}

// fitting is what choosing a replica's context goes by, just before its memory is reserved.
type fitting struct {
	r     *replica
	sizer engine.Sizer
	model string // digest
	now   time.Time
}

func (f fitting) load(ctx int) vram.Load {
	return vram.Load{Model: f.model, Ctx: ctx, Slots: f.r.spec.Slots, Cards: f.r.spec.cards()}
}

// need is what a worker with such a context asks for on cards of the class, which is empty while they are not chosen.
func (f fitting) need(class string, ctx int, estimate int64) int64 {
	bytes := f.r.m.learned.Need(f.load(ctx), class, estimate, f.now)
	if f.r.fitsCtx() {
		bytes = int64(float64(bytes) * f.r.stretch)
	}
	return bytes
}

// largest finds the place that gives the worker the largest context, from the least to the most. Room says how much of a place counts.
// It returns nil if no place holds the least.
func (f fitting) largest(least, most int, room func(vram.Place) int64) (best *vram.Place, ctx int) {
	spec := &f.r.spec
	places := vram.Places(spec.Device, spec.TensorSplit, f.r.m.opts.VRAM.Room(spec.Device))
	fits := func(p vram.Place) int {
		return f.fit(least, most, room(p), func(c int, estimate int64) int64 { return f.need(p.Class, c, estimate) })
	}
	at := vram.Best(places, fits)
	if at < 0 {
		return nil, 0
	}
	return &places[at], fits(places[at])
}

// free is what a place can give now; whole is what it could give if nobody else used it.
func free(p vram.Place) int64  { return p.Free }
func whole(p vram.Place) int64 { return p.Total }

// choose decides on the worker's context and device before its memory is reserved. A replica keeps the context that it had, so that its
// bytes can be made again, until it has asked for that in vain often enough.
func (f fitting) choose() (ctx int, device string) {
	spec := f.r.spec
	if !f.r.fitsCtx() || f.sizer.OwnCtx() == 0 || f.r.m.opts.VRAM == nil {
		return spec.Ctx, spec.Device
	}
	if kept := min(f.r.kept, f.sizer.OwnCtx()); kept > 0 && f.r.inVain < keepTries {
		return kept, spec.Device
	}
	if best, ctx := f.largest(least(f.sizer), f.sizer.OwnCtx(), free); best != nil {
		return ctx, best.Device
	}
	return least(f.sizer), spec.Device // the refusal will say why it does not fit
}

// refused adds to a refusal which context would fit. One that is configured is not changed (LO-501).
func (f fitting) refused(refusal *task.Error, ctx int) {
	room, when := whole, ""
	if refusal.Retriable {
		room, when = free, " now"
	}
	if f.r.fitsCtx() {
		if f.sizer.OwnCtx() > 0 && ctx == least(f.sizer) {
			refusal.Message += fmt.Sprintf(" (that is with a `ctx` of %d, the smallest that is tried where the configuration has none)", ctx)
		}
		return
	}
	if f.sizer.OwnCtx() == 0 || ctx <= ctxStep || f.r.spec.cards() == 0 {
		return
	}
	if best, fits := f.largest(ctxStep, ctx, room); best != nil && fits < ctx {
		refusal.Message += fmt.Sprintf("; with `ctx: %d` or less instead of %d it would fit %s%s", fits, ctx, best.Name, when)
	}
}
