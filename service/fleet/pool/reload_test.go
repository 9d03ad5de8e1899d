// SPDX-License-Identifier: GPL-3.0-or-later

package pool_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/fleet/pool"
	"github.com/llama-orch/llama-orch/service/task"
)

// otherModel is a model file of another digest.
func (b *bundle) otherModel() string { return b.model(child{IgnoreStdin: true}) }

// ORCH-2102
func TestAReloadBesideTheOldModel(t *testing.T) {
	spec := plain
	spec.Replicas = 2
	b := setup(t, nil, spec)
	first := b.await("p", is(pool.Ready))
	lease := b.lease("p-0")
	require.NoError(t, b.m.Reload(t.Context(), "p", pool.Model{ID: "m2", Ref: "file:m2.gguf", Path: b.otherModel()}))
	infos := b.m.Infos("p")
	for _, i := range infos {
		require.Equal(t, pool.Ready, i.State)
		require.Equal(t, "m2", i.ModelID)
		require.NotEqual(t, first.ModelDigest, i.ModelDigest)
		require.NotEqual(t, i.ID, i.Owner, "both were there for a while")
	}
	select {
	case <-lease.Lost():
		require.Fail(t, "a task on the old worker may end")
	default:
	}
	fd := pidfd(t, lease.Info().PID)
	b.lease("p-0").Release() // of the new one
	lease.Release()
	gone(t, fd)
	require.NoError(t, testutil.GatherAndCompare(b.metrics, strings.NewReader(`
# HELP model_state 1 for the state of the model's life cycle, 0 for the other.
# TYPE model_state gauge
model_state{model_id="m2",state="Active"} 1
model_state{model_id="m2",state="Retired"} 0
`), "model_state"))
}

// ORCH-2102
func TestAReloadInTheOldModelsPlace(t *testing.T) {
	memory := newCards(t, 500<<20) // for one
	b := setup(t, func(_ *bundle, o *pool.Options) { o.VRAM, o.BackoffMin = memory, bound }, onGPU(nil))
	b.await("p", is(pool.Ready))
	lease := b.lease("p-0")
	done := make(chan error, 1)
	path := b.otherModel()
	go func() { done <- b.m.Reload(context.Background(), "p", pool.Model{Ref: "file:m2.gguf", Path: path}) }()
	b.await("p", is(pool.Draining))
	err := b.m.Drain("p", time.Second)
	require.True(t, task.HasCode(err, task.Conflict), "%v", err)
	require.True(t, task.HasCode(b.m.Reload(t.Context(), "p", pool.Model{Path: path}), task.Conflict))
	_, _, _, err = b.m.Apply(nil)
	require.True(t, task.HasCode(err, task.Conflict))
	lease.Release()
	require.NoError(t, <-done)
	info := b.m.Infos("p")[0]
	require.Equal(t, pool.Ready, info.State)
	require.Equal(t, []int{0}, info.Cards)
	require.NotEqual(t, lease.Info().ModelDigest, info.ModelDigest)
}

// ORCH-2102, LO-806
func TestAFailedReloadLeavesTheOldModelInService(t *testing.T) {
	for name, where := range map[string]int64{"beside": 24 * gib, "in place": 500 << 20} {
		t.Run(name, func(t *testing.T) {
			memory := newCards(t, where)
			b := setup(t, func(_ *bundle, o *pool.Options) { o.VRAM, o.BackoffMin = memory, bound }, onGPU(nil))
			first := b.await("p", is(pool.Ready))
			for says, c := range map[string]struct {
				model pool.Model
				code  task.Code
			}{
				"fetch it, or correct": {pool.Model{Ref: "file:none.gguf", Path: "/nowhere/none.gguf"}, task.ModelNotFound},
				"is expected":          {pool.Model{Path: b.otherModel(), Digest: "sha256:00"}, task.UntrustedArtifact},
			} {
				err := b.m.Reload(t.Context(), "p", c.model)
				require.True(t, task.HasCode(err, c.code), "%v", err)
				require.ErrorContains(t, err, says)
				require.Equal(t, first.PID, b.m.Infos("p")[0].PID, "refused up front")
			}
			err := b.m.Reload(t.Context(), "p", pool.Model{Path: b.model(child{Crash: "error loading model: unknown model architecture"})})
			require.True(t, task.HasCode(err, task.InvalidParams), "%v", err)
			require.False(t, task.AsError(err).Retriable)
			require.ErrorContains(t, err, "the new model of pool 'p' was not loaded, and the old one")
			require.ErrorContains(t, err, "unknown model architecture")
			info := b.m.Infos("p")[0]
			require.Equal(t, pool.Ready, info.State)
			require.Equal(t, first.ModelDigest, info.ModelDigest)
			require.Equal(t, first.Fingerprint, info.Fingerprint)
			require.Equal(t, name == "beside", first.PID == info.PID)

			err = b.m.Reload(t.Context(), "p", pool.Model{Path: b.model(child{Crash: "nobody knows why"})})
			require.True(t, task.HasCode(err, task.PoolUnavailable), "%v", err)
			b.await("p", is(pool.Ready))

			ctx, cancel := context.WithCancelCause(t.Context())
			cancel(errors.New("the client went"))
			err = b.m.Reload(ctx, "p", pool.Model{Path: b.model(child{Silent: true})})
			require.Error(t, err)
			b.await("p", is(pool.Ready))
			b.lease("p-0").Release()
		})
	}
	b := setup(t, nil, plain)
	require.True(t, task.HasCode(b.m.Reload(t.Context(), "nobody", pool.Model{}), task.NotFound))
	x := setup(t, nil, pool.Spec{ID: "x", Mode: pool.External, URLs: []string{"http://127.0.0.1:1"}})
	require.True(t, task.HasCode(x.m.Reload(t.Context(), "x", pool.Model{}), task.InvalidParams))
}

// ORCH-2102
func TestAReloadMendsABrokenPoolAndBringsADrainedOneBack(t *testing.T) {
	b := setup(t, func(b *bundle, o *pool.Options) {
		o.Specs[0].ModelPath, o.BackoffMin = b.model(child{Crash: "error loading model"}), bound
	}, plain)
	b.await("p", is(pool.Backoff))
	require.NoError(t, b.m.Reload(t.Context(), "p", pool.Model{Path: b.model(child{})}))
	b.await("p", is(pool.Ready))
	require.NoError(t, b.m.Drain("p", 0))
	b.await("p", is(pool.Stopped))
	require.NoError(t, b.m.Reload(t.Context(), "p", pool.Model{Path: b.otherModel()}))
	require.Equal(t, pool.Ready, b.m.Infos("p")[0].State)

	spec := plain
	spec.OnDemand = true
	d := setup(t, nil, spec)
	require.NoError(t, d.m.Reload(t.Context(), "p", pool.Model{ID: "m2", Path: d.otherModel()}))
	info := d.await("p", func(i pool.Info) bool { return i.ModelID == "m2" && i.State == pool.Stopped })
	require.False(t, info.Wanted, "nobody asked for it")
	require.NoError(t, d.m.Load("p"))
	d.await("p", is(pool.Ready))
}

// ORCH-2102, ORCH-3031: nobody else would try the model before a task needs it.
func TestAReloadTriesTheModelOfAnUnloadedPool(t *testing.T) {
	spec := onGPU(func(s *pool.Spec) { s.OnDemand = true })
	memory := newCards(t, 500<<20) // for one
	other := onGPU(func(s *pool.Spec) { s.ID, s.OnDemand = "q", true })
	b := setup(t, func(_ *bundle, o *pool.Options) { o.VRAM, o.BackoffMin = memory, bound }, spec, other)
	err := b.m.Reload(t.Context(), "p", pool.Model{ID: "m2", Path: b.model(child{Crash: "error loading model: unknown model architecture"})})
	require.True(t, task.HasCode(err, task.InvalidParams), "%v", err)
	require.ErrorContains(t, err, "the pool keeps the old one")
	require.ErrorContains(t, err, "unknown model architecture")
	require.Equal(t, b.specs[0].ModelID, b.m.Infos("p")[0].ModelID)
	require.False(t, b.m.Infos("p")[0].Wanted, "it is as it was: unloaded")

	require.NoError(t, b.m.Load("q"))
	b.await("q", is(pool.Ready))
	err = b.m.Reload(t.Context(), "p", pool.Model{ID: "m2", Path: b.otherModel()})
	require.True(t, task.HasCode(err, task.PoolUnavailable), "no room to try it: %v", err)
	require.Equal(t, b.specs[0].ModelID, b.m.Infos("p")[0].ModelID)
	require.Equal(t, pool.Ready, b.m.Infos("q")[0].State)

	require.NoError(t, b.m.Load("p")) // it waits for room
	require.NoError(t, b.m.Unload("p"))
	require.NoError(t, b.m.Unload("q"))
	b.await("q", is(pool.Stopped))
	require.NoError(t, b.m.Reload(t.Context(), "p", pool.Model{ID: "m2", Path: b.otherModel()}))
	b.await("p", func(i pool.Info) bool { return i.ModelID == "m2" && i.State == pool.Stopped && !i.Wanted })
	require.NoError(t, b.m.Load("p"))
	b.await("p", is(pool.Ready))
}

// ORCH-2102
func TestApplyTouchesWhatDiffersOnly(t *testing.T) {
	named := func(id string) pool.Spec {
		s := plain
		s.ID = id
		return s
	}
	b := setup(t, nil, named("keep"), named("change"), named("remove"))
	for _, id := range b.m.Pools() {
		b.await(id, is(pool.Ready))
	}
	keep, change := b.m.Infos("keep")[0], b.m.Infos("change")[0]
	lease, removed := b.lease("change-0"), b.lease("remove-0")
	given := func(s pool.Spec, path string) pool.Spec { s.ModelPath = path; return s }
	// The bundle chose the files of the first specs; Apply must get the same ones.
	same := given(named("keep"), b.specs[0].ModelPath)
	other := given(named("change"), b.otherModel())
	fresh := given(named("fresh"), b.model(child{}))

	_, _, _, err := b.m.Apply([]pool.Spec{same, other, {ID: "wrong", Engine: "llamacpp", Mode: "magic"}})
	require.ErrorContains(t, err, "unknown provisioning mode")
	require.Equal(t, []string{"keep", "change", "remove"}, b.m.Pools())

	changed, added, gonePools, err := b.m.Apply([]pool.Spec{fresh, same, other})
	require.NoError(t, err)
	require.Equal(t, []string{"change"}, changed)
	require.Equal(t, []string{"fresh"}, added)
	require.Equal(t, []string{"remove"}, gonePools)
	require.Equal(t, []string{"fresh", "keep", "change"}, b.m.Pools())
	require.Nil(t, b.m.Infos("remove"))
	b.await("fresh", is(pool.Ready))
	require.Equal(t, keep.PID, b.m.Infos("keep")[0].PID)
	b.await("change", is(pool.Draining))
	_, err = b.m.Lease("remove-0")
	require.True(t, task.HasCode(err, task.PoolUnready))
	fd, fd2 := pidfd(t, change.PID), pidfd(t, removed.Info().PID)
	lease.Release()
	removed.Release()
	gone(t, fd)
	gone(t, fd2)
	info := b.await("change", is(pool.Ready))
	require.NotEqual(t, change.ModelDigest, info.ModelDigest)

	changed, added, gonePools, err = b.m.Apply([]pool.Spec{fresh, same, other})
	require.NoError(t, err)
	require.Empty(t, append(append(changed, added...), gonePools...))
}

// ORCH-2102
func TestApplyCutsWhatDoesNotEnd(t *testing.T) {
	b := setup(t, func(_ *bundle, o *pool.Options) { o.ReloadDeadline = time.Millisecond }, plain)
	lease := b.lease("p-0")
	spec := b.specs[0]
	spec.Ctx = 128
	_, _, _, err := b.m.Apply([]pool.Spec{spec})
	require.NoError(t, err)
	b.lost(lease)
	lease.Release()
	b.await("p", func(i pool.Info) bool { return i.State == pool.Ready && i.Owner != lease.Info().Owner })
}

// ORCH-2102: with another number of replicas only the difference comes or goes, and what a reload gave the pool stays.
func TestApplyOfAnotherNumberOfReplicasTouchesTheDifference(t *testing.T) {
	b := setup(t, nil, plain)
	b.await("p", is(pool.Ready))
	require.NoError(t, b.m.Reload(t.Context(), "p", pool.Model{ID: "m2", Path: b.otherModel()}))
	sized := func(n int) {
		spec := b.specs[0]
		spec.Replicas = n
		changed, added, removed, err := b.m.Apply([]pool.Spec{spec})
		require.NoError(t, err)
		require.Equal(t, []string{"p"}, changed)
		require.Empty(t, append(added, removed...))
		require.Len(t, b.m.Infos("p"), n)
	}
	all := func(pool.Info) bool {
		return !slices.ContainsFunc(b.m.Infos("p"), func(i pool.Info) bool { return i.State != pool.Ready })
	}
	first := b.await("p", is(pool.Ready))
	lease := b.lease("p-0")
	sized(3)
	b.await("p", all)
	infos := b.m.Infos("p")
	require.Equal(t, first.PID, infos[0].PID, "it goes on")
	for _, i := range infos {
		require.Equal(t, "m2", i.ModelID)
		require.Equal(t, first.ModelDigest, i.ModelDigest)
		require.Equal(t, first.Fingerprint, i.Fingerprint, "one replica set")
	}

	last, kept := b.lease("p-2"), pidfd(t, infos[2].PID)
	sized(2)
	_, err := b.m.Lease("p-2")
	require.True(t, task.HasCode(err, task.PoolUnready))
	select {
	case <-last.Lost():
		require.Fail(t, "a task on it may end")
	default:
	}
	sized(3)
	again := b.m.Infos("p")[2]
	require.NotEqual(t, infos[2].Owner, again.Owner, "the one before may still hold memory")
	require.NotEqual(t, pool.Ready, again.State)
	last.Release()
	gone(t, kept)
	b.await("p", all)
	require.Equal(t, infos[0].PID, b.m.Infos("p")[0].PID)
	require.Equal(t, infos[1].PID, b.m.Infos("p")[1].PID)

	require.NoError(t, b.m.Drain("p", time.Minute))
	sized(4)
	require.False(t, b.m.Infos("p")[3].Wanted, "the pool is drained")
	lease.Release()
	b.await("p", is(pool.Stopped))
	require.NoError(t, b.m.Load("p"))
	b.await("p", all)
	sized(1)
}
