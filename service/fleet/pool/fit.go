// SPDX-License-Identifier: GPL-3.0-or-later

package pool

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

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
func (s *Spec) fitsCtx() bool {
	told := slices.ContainsFunc(s.BinaryArgs, func(arg string) bool {
		return arg == "-c" || arg == "--ctx-size" || strings.HasPrefix(arg, "--ctx-size=")
	})
	return s.Ctx == 0 && s.cards() > 0 && !told
}

// least is the smallest context that is fitted.
func (s *sizer) least() int { return min(ctxLeast, s.own) }

// fit is the largest context up to the most whose worker takes no more than the room; 0: not even the least does. Need turns a
// context and its estimate into what is asked for.
func (s *sizer) fit(least, most int, room int64, need func(ctx int, estimate int64) int64) (ctx int) {
	below := 0 // steps above the least that are known to fit, and one
	for above := (most-least+ctxStep-1)/ctxStep + 1; below < above; {
		middle := (below + above) / 2
		try := min(least+middle*ctxStep, most)
		e, err := s.at(try)
		if wants := need(try, e.expected(s.spec)); err == nil && float64(wants)*fitMargin <= float64(room) {
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
	sizer *sizer
	model string // digest
	now   time.Time
}

func (f fitting) load(ctx int) vram.Load {
	return vram.Load{Model: f.model, Ctx: ctx, Slots: f.r.spec.Slots, Cards: f.r.spec.cards()}
}

// need is what a worker of such a context asks for on cards of the class; empty: not chosen yet.
func (f fitting) need(class string, ctx int, estimate int64) int64 {
	bytes := f.r.m.learned.Need(f.load(ctx), class, estimate, f.now)
	if f.r.spec.fitsCtx() {
		bytes = int64(float64(bytes) * f.r.stretch)
	}
	return bytes
}

// place is where a worker would go, and how large it can be there.
type place struct {
	device string
	room   int64 // for the whole worker
	class  string
	name   string // for people
}

// places are where the pool's device lets its workers go; none while a card of its mask cannot be used.
func (f fitting) places(size func(Room) int64) (places []place) {
	rooms := f.r.m.opts.Memory.Room(f.r.spec.Device)
	if f.r.spec.Device == "auto" {
		for _, room := range rooms {
			places = append(places, place{
				device: strconv.Itoa(room.Card), room: size(room), class: "gpu:" + room.Name, name: fmt.Sprintf("card %d", room.Card),
			})
		}
		return places
	}
	parts := f.r.spec.parts()
	if len(rooms) != len(parts) {
		return nil
	}
	p := place{device: f.r.spec.Device, name: "card " + f.r.spec.Device, class: "gpu:"}
	for i, room := range rooms {
		bound := int64(float64(size(room)) / parts[i])
		if i == 0 || bound < p.room {
			p.room = bound
		}
		if i > 0 {
			p.class += "+"
		}
		p.class += room.Name
	}
	return []place{p}
}

// largest is the place with the largest context from the least to the most, of equal ones that with the least room, so that large
// cards stay free; nil: no place holds the least.
func (f fitting) largest(least, most int, size func(Room) int64) (best *place, ctx int) {
	places := f.places(size)
	slices.SortStableFunc(places, func(a, b place) int { return cmp.Compare(a.room, b.room) })
	for i := range places {
		p := &places[i]
		fits := f.sizer.fit(least, most, p.room, func(c int, estimate int64) int64 { return f.need(p.class, c, estimate) })
		if fits > ctx {
			best, ctx = p, fits
		}
	}
	return best, ctx
}

// choose decides on the worker's context and device before its memory is reserved. A replica keeps the context that it had, so
// that its bytes can be made again, unless that was asked for in vain for some time.
func (f fitting) choose() (ctx int, device string) {
	spec := f.r.spec
	if !spec.fitsCtx() || f.sizer.own == 0 || f.r.m.opts.Memory == nil {
		return spec.Ctx, spec.Device
	}
	if kept := min(f.r.kept, f.sizer.own); kept > 0 && f.r.inVain < keepTries {
		return kept, spec.Device
	}
	if best, ctx := f.largest(f.sizer.least(), f.sizer.own, func(r Room) int64 { return r.Free }); best != nil {
		return ctx, best.device
	}
	return f.sizer.least(), spec.Device // and the refusal says why not
}

// refused completes a refusal by what would fit: a context that is configured is kept to (LO-501).
func (f fitting) refused(refusal *task.Error, ctx int) {
	size, when := func(r Room) int64 { return r.Total }, ""
	if refusal.Retriable {
		size, when = func(r Room) int64 { return r.Free }, " now"
	}
	if f.r.spec.fitsCtx() {
		if f.sizer.own > 0 && ctx == f.sizer.least() {
			refusal.Message += fmt.Sprintf(" (that is with a `ctx` of %d, the smallest that is tried where the configuration has none)", ctx)
		}
		return
	}
	if f.sizer.own == 0 || ctx <= ctxStep || f.r.spec.cards() == 0 {
		return
	}
	if best, fits := f.largest(ctxStep, ctx, size); best != nil && fits < ctx {
		refusal.Message += fmt.Sprintf("; with `ctx: %d` or less instead of %d it would fit %s%s", fits, ctx, best.name, when)
	}
}
