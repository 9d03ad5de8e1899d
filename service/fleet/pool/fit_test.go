// SPDX-License-Identifier: GPL-3.0-or-later

package pool

import (
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/llama-orch/llama-orch/harness/standin"
	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/llamacpp"
	"github.com/llama-orch/llama-orch/service/fleet/vram"
	"github.com/llama-orch/llama-orch/service/task"
)

const gibi = 1 << 30

// rooms is an account of cards that only tells their room.
type rooms []vram.Room

func (r rooms) Room(device string) (all []vram.Room) {
	for _, room := range r {
		if device == "auto" || device == "0,1" || device == strconv.Itoa(room.Card) {
			all = append(all, room)
		}
	}
	return all
}

func (r rooms) Reserve(string, vram.Wish) (vram.Grant, error) { return vram.Grant{}, nil }
func (r rooms) Spawned(string, int)                           {}
func (r rooms) Settle(string) []vram.Share                    { return nil }
func (r rooms) Release(string)                                {}

// fits makes the fitting of a replica of a model of half a GiB a step of context.
func fits(t *testing.T, own int, account rooms, change func(*Spec)) fitting {
	path := filepath.Join(t.TempDir(), "m.gguf")
	require.NoError(t, standin.WriteModelOf(path, "m", gibi/2, own))
	spec := Spec{ID: "p", Engine: llamacpp.Name, Mode: Binary, BinaryPath: "llama-server", ModelPath: path, Device: "auto"}
	if change != nil {
		change(&spec)
	}
	options := Options{VRAM: account, Kinds: []engine.Kind{llamacpp.Kind()}}
	options.complete()
	require.NoError(t, spec.complete(options))
	m := &Manager{opts: options}
	s, err := llamacpp.Kind().Start.Size(spec.worker(), 1<<20)
	require.NoError(t, err)
	require.Equal(t, own, s.OwnCtx())
	return fitting{r: newReplica(m, spec, 0, "p-0", true), sizer: s, model: "sha256:1", now: time.Unix(1000, 0)}
}

// shorter is another model, whose own context is smaller.
type shorter struct{ engine.Sizer }

func (shorter) OwnCtx() int { return 3000 }

// unasked estimates nothing.
type unasked struct{ engine.Sizer }

func (unasked) At(int) (engine.Estimate, error) { return engine.Estimate{}, nil }

var reference = rooms{{Card: 0, Name: "3090", Free: 24 * gibi, Total: 24 * gibi}, {Card: 1, Name: "3060", Free: 12 * gibi, Total: 12 * gibi}}

// LO-501, ORCH-1103: the largest context that fits, and not one step more; the model's own where that fits.
func TestTheContextIsFittedToTheCard(t *testing.T) {
	f := fits(t, 1<<20, reference, nil)
	ctx, device := f.choose()
	require.Equal(t, "0", device, "the larger card gives it a larger one")
	require.InDelta(t, 11400, ctx, 600)
	require.Zero(t, ctx%ctxStep)
	asks := func(ctx int) float64 {
		e, err := f.sizer.At(ctx)
		require.NoError(t, err)
		return float64(f.need("", ctx, f.r.spec.expected(e))) * fitMargin
	}
	require.LessOrEqual(t, asks(ctx), 24.0*gibi)
	require.Greater(t, asks(ctx+ctxStep), 24.0*gibi)

	f = fits(t, 4000, reference, nil)
	ctx, device = f.choose()
	require.Equal(t, 4000, ctx, "the model's own")
	require.Equal(t, "1", device, "both give it that, and the large card stays free")

	f = fits(t, 1<<20, reference, func(s *Spec) { s.Device = "1" })
	small, device := f.choose()
	require.Equal(t, "1", device)
	require.InDelta(t, 5600, small, 600)

	f = fits(t, 1<<20, reference, func(s *Spec) { s.Device, s.TensorSplit = "0,1", []float64{1, 1} })
	even, device := f.choose()
	require.Equal(t, "0,1", device)
	require.InDelta(t, 2*small, even, 1000, "the smaller card bounds an even split")
	f = fits(t, 1<<20, reference, func(s *Spec) { s.Device, s.TensorSplit = "0,1", []float64{2, 1} })
	split, _ := f.choose()
	require.Greater(t, split, even)

	f = fits(t, 1<<20, rooms{{Card: 0, Free: gibi, Total: gibi}}, nil)
	ctx, device = f.choose()
	require.Equal(t, ctxLeast, ctx, "for the refusal")
	require.Equal(t, "auto", device)
}

// LO-501: a context that is configured, by whatever way, is not fitted.
func TestAConfiguredContextIsKept(t *testing.T) {
	for _, change := range []func(*Spec){
		func(s *Spec) { s.Ctx = 8192 },
		func(s *Spec) { s.Device = "cpu" },
		func(s *Spec) { s.BinaryArgs = []string{"-c", "4096"} },
		func(s *Spec) { s.BinaryArgs = []string{"--ctx-size=4096"} },
	} {
		f := fits(t, 1<<20, reference, change)
		ctx, device := f.choose()
		require.Equal(t, f.r.spec.Ctx, ctx)
		require.Equal(t, f.r.spec.Device, device)
	}
	f := fits(t, 1<<20, reference, func(s *Spec) { s.Ctx, s.Device = 8192, "1" })
	never := task.Errorf(task.PoolUnavailable, "too large")
	f.refused(never, 8192)
	require.Regexp(t, `^too large; with .ctx: 5\d\d\d. or less instead of 8192 it would fit card 1$`, never.Message)
	f.r.m.opts.VRAM = rooms{{Card: 1, Free: 3 * gibi, Total: 12 * gibi}}
	later := task.Errorf(task.PoolUnavailable, "no room").Retry(time.Second)
	f.refused(later, 8192)
	require.Regexp(t, `^no room; with .ctx: 1[0-9]{3}. or less instead of 8192 it would fit card 1 now$`, later.Message)
	f.r.m.opts.VRAM = rooms{{Card: 1, Free: 1, Total: 12 * gibi}}
	later.Message = "no room"
	f.refused(later, 8192)
	require.Equal(t, "no room", later.Message, "nothing would fit")
}

// LO-501: a replica keeps its context for its bytes, gives it up when that is not to be had, and asks for less after it ran out.
func TestAFittedContextIsKeptWhileItCanBe(t *testing.T) {
	f := fits(t, 1<<20, reference, nil)
	f.r.kept = 4096
	ctx, device := f.choose()
	require.Equal(t, 4096, ctx)
	require.Equal(t, "auto", device)
	f.r.inVain = keepTries
	ctx, _ = f.choose()
	require.Greater(t, ctx, 10000)
	f.r.kept, f.r.stretch = 0, vram.ShortMargin
	less, _ := f.choose()
	require.Less(t, less, ctx)
	f.sizer = shorter{f.sizer}
	f.r.kept, f.r.inVain = 4096, 0
	ctx, _ = f.choose()
	require.Equal(t, 3000, ctx, "another model's own is smaller")

	old, next := &group{replicas: []*replica{f.r}}, &group{replicas: []*replica{fits(t, 1<<20, reference, nil).r}}
	f.r.change(func(i *Info) { i.Ctx = 6144 })
	next.keepCtx(old)
	require.Equal(t, 6144, next.replicas[0].kept, "a reload beside the old model is no smaller than that")
}

// LO-501: whatever the memory, what is fitted fits, and a step more would not, or is more than the model has.
func TestFittingIsExact(t *testing.T) {
	f := fits(t, 1<<16, reference, nil)
	f.sizer = unasked{f.sizer} // need has its own figures, and an estimate takes milliseconds
	rapid.Check(t, func(t *rapid.T) {
		per, fixed := rapid.Int64Range(1, 1<<20).Draw(t, "per token"), rapid.Int64Range(0, 1<<32).Draw(t, "fixed")
		room := rapid.Int64Range(0, 1<<37).Draw(t, "room")
		need := func(ctx int, _ int64) int64 { return fixed + per*int64(ctx) }
		ctx := f.fit(ctxLeast, f.sizer.OwnCtx(), room, need)
		holds := func(ctx int) bool { return float64(need(ctx, 0))*fitMargin <= float64(room) }
		if ctx == 0 {
			require.False(t, holds(ctxLeast))
			return
		}
		require.True(t, holds(ctx))
		require.True(t, ctx == f.sizer.OwnCtx() || !holds(min(ctx+ctxStep, f.sizer.OwnCtx())))
	})
}
