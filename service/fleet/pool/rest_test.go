// SPDX-License-Identifier: GPL-3.0-or-later

package pool_test

import (
	"context"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/llamacpp"
	"github.com/llama-orch/llama-orch/service/fleet/pool"
)

// LO-840: one pool fails alone, and is back once its file is there, without anybody's call.
func TestAMissingFileFailsOnePoolAlone(t *testing.T) {
	clock := newHandClock()
	var late, rare string
	missing, onDemand := plain, plain
	missing.ID, onDemand.ID, onDemand.OnDemand = "q", "r", true
	b := setup(t, func(b *bundle, o *pool.Options) {
		late, rare = filepath.Join(b.dir, "late"), filepath.Join(b.dir, "rare")
		o.Clock, o.LivenessInterval, o.BackoffMax = clock, -1, 30*time.Second
		o.Specs[1].ModelPath, o.Specs[2].ModelPath = late, rare
	}, plain, missing, onDemand)
	reach := func(id string, ok func(pool.Info) bool) pool.Info {
		var info pool.Info
		require.Eventually(t, func() bool {
			clock.move(time.Second)
			info = b.m.Infos(id)[0]
			return ok(info)
		}, bound, time.Millisecond)
		return info
	}
	reach("p", is(pool.Ready))
	info := reach("q", func(i pool.Info) bool { return i.State == pool.Failed && i.Failing && i.Fixed })
	require.Contains(t, info.LastError, "put it there")
	info = reach("r", func(i pool.Info) bool { return i.Missing != "" })
	require.Equal(t, pool.Stopped, info.State)
	require.Contains(t, info.Missing, "put it there")

	model, err := os.ReadFile(b.model(child{}))
	require.NoError(t, err)
	for _, path := range []string{late, rare} {
		require.NoError(t, os.WriteFile(path+".new", model, 0o600))
		require.NoError(t, os.Rename(path+".new", path))
	}
	info = reach("q", is(pool.Ready))
	require.False(t, info.Failing || info.Fixed)
	reach("r", func(i pool.Info) bool { return i.Missing == "" && !i.Wanted })
}

// shaky is an engine whose code panics for a while.
type shaky struct {
	engine.Engine
	panics *atomic.Int32
}

func (s shaky) Health(ctx context.Context) error {
	if s.panics.Add(-1) >= 0 {
		panic("index out of range")
	}
	return s.Engine.Health(ctx)
}

// LO-840: a panic in what looks after one worker ends that worker. It starts again, and no other pool notices.
func TestAPanicInTheSupervisionIsContained(t *testing.T) {
	var panics, told atomic.Int32
	panics.Store(1)
	kind := llamacpp.Kind()
	fresh := kind.New
	kind.New = func(at engine.Endpoint) engine.Engine { return shaky{fresh(at), &panics} }
	b := setup(t, func(_ *bundle, o *pool.Options) {
		o.Kinds, o.HealthInterval, o.StopGrace = []engine.Kind{kind}, 20*time.Millisecond, time.Millisecond
		onChange := o.OnChange
		o.OnChange = func(id string) {
			onChange(id)
			if told.Add(1) == 1 {
				panic("whoever listens has a fault")
			}
		}
	}, plain)
	info := b.await("p", func(i pool.Info) bool { return i.State == pool.Ready && i.Restarts == 1 })
	require.Contains(t, info.LastError, "INTERNAL", "a load")
	lease := b.lease("p-0")
	panics.Store(1)
	b.lost(lease)
	lease.Release()
	info = b.await("p", func(i pool.Info) bool { return i.State == pool.Ready && i.Restarts == 2 })
	require.Contains(t, info.LastError, "INTERNAL", "a check of a ready worker")
	require.Equal(t, 3, b.logs.FilterMessage("the supervision of a worker panicked").Len())
	require.NotContains(t, info.LastError, "index out of range", "that is for the log")
}
