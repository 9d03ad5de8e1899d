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
	// ctxStep is what contexts that are fitted are multiples of, but for the model's own: llama.cpp rounds to it.
	ctxStep = 256
	// ctxLeast is the smallest context that is fitted, where the model's own is not smaller yet.
	ctxLeast = 2048
	// fitMargin is left free on a card that is filled up by a context: what is expected is not exact.
	fitMargin = 1.05
	// keepTries is how often a context that a replica had is asked for in vain before another is fitted: what its last worker held
	// may be there for a moment.
	keepTries = 5
)

// fitsCtx reports whether each worker's context is made to fit its cards: where none is configured.
func (s *Spec) fitsCtx(kind engine.Kind) bool {
	return s.Ctx == 0 && s.cards() > 0 && !kind.Start.ToldCtx(s.BinaryArgs)
}

func (r *replica) fitsCtx() bool { return r.spec.fitsCtx(r.kind) }

// least is the smallest context that is fitted.
func least(s engine.Sizer) int { return min(ctxLeast, s.OwnCtx()) }

// fit is the largest context up to the most whose worker takes no more than the room; 0: not even the least does. Need turns a
// context and its estimate into what is asked for.
func (f fitting) fit(least, most int, room int64, need func(ctx int, estimate int64) int64) (ctx int) {
	below := 0 // steps above the least that are known to fit, and one
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

// fitting is a replica's memory as it is about to be reserved.
type fitting struct {
	r     *replica
	sizer engine.Sizer
	model string // digest
	now   time.Time
}

func (f fitting) load(ctx int) vram.Load {
	return vram.Load{Model: f.model, Ctx: ctx, Slots: f.r.spec.Slots, Cards: f.r.spec.cards()}
}

// need is what a worker of such a context asks for on cards of the class; empty: not chosen yet.
func (f fitting) need(class string, ctx int, estimate int64) int64 {
	bytes := f.r.m.learned.Need(f.load(ctx), class, estimate, f.now)
	if f.r.fitsCtx() {
		bytes = int64(float64(bytes) * f.r.stretch)
	}
	return bytes
}

// largest is the place that gives the worker the largest context from the least to the most, with so much of its memory; nil: no
// place holds the least.
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

// free is what a place has now, total what it has in all.
func free(p vram.Place) int64  { return p.Free }
func whole(p vram.Place) int64 { return p.Total }

// choose decides on the worker's context and device before its memory is reserved. A replica keeps the context that it had, so
// that its bytes can be made again, unless that was asked for in vain for some time.
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
	return least(f.sizer), spec.Device // and the refusal says why not
}

// refused completes a refusal by what would fit: a context that is configured is kept to (LO-501).
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
