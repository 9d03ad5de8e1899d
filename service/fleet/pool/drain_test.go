// SPDX-License-Identifier: GPL-3.0-or-later

package pool_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/llama-orch/llama-orch/harness/fakeengine"
	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/llamacpp"
	"github.com/llama-orch/llama-orch/service/fleet/pool"
	"github.com/llama-orch/llama-orch/service/task"
)

// told gives the ready worker of p-0 a script.
func (b *bundle) told(s fakeengine.Script) {
	data, err := json.Marshal(s)
	require.NoError(b, err)
	b.ask(http.MethodPut, "/_fake/script", data)
}

// ask calls a control path of the ready worker of p-0.
func (b *bundle) ask(method, path string, data []byte) {
	var said struct{ Listening string }
	require.NoError(b, json.Unmarshal([]byte(b.m.Infos("p")[0].LogTail[2]), &said))
	request, err := http.NewRequestWithContext(b.Context(), method, "http://"+said.Listening+path, bytes.NewReader(data))
	require.NoError(b, err)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	require.NoError(b, err)
	require.NoError(b, response.Body.Close())
	require.Less(b, response.StatusCode, 300)
}

// lease takes a slot as soon as one is free.
func (b *bundle) lease(replicaID string) *pool.Lease {
	b.Helper()
	for timeout := time.After(bound); ; {
		b.mu.Lock()
		changed := b.changed
		b.mu.Unlock()
		l, err := b.m.Lease(replicaID)
		if err == nil {
			return l
		}
		select {
		case <-changed:
		case <-timeout:
			require.NoError(b, err)
		}
	}
}

// ORCH-3002
func TestAnEngineThatDecodesNothingIsReplaced(t *testing.T) {
	b := setup(t, func(_ *bundle, o *pool.Options) {
		o.LivenessInterval, o.ProbeTimeout = time.Millisecond, 2*time.Second
	}, plain)
	first := b.await("p", is(pool.Ready))
	for range 20 { // probes that are answered harm nobody
		b.lease("p-0").Release()
	}
	b.told(fakeengine.Script{Fault: fakeengine.Stall}) // its health stays good
	again := b.await("p", func(i pool.Info) bool { return i.State == pool.Ready && i.Restarts == 1 })
	require.NotEqual(t, first.PID, again.PID)
	require.Contains(t, again.LastError, "answers health checks, but decodes nothing: no token within 2s")
	require.EqualValues(t, 1, b.restarts("unhealthy"))
}

// watched is an engine that says when its health is asked for and when it decodes.
type watched struct {
	*llamacpp.Engine
	healths chan struct{} // unbuffered
	decodes *atomic.Int32
}

func (w watched) Health(ctx context.Context) error {
	select {
	case w.healths <- struct{}{}:
	case <-ctx.Done():
	default:
	}
	return w.Engine.Health(ctx)
}

func (w watched) Generate(ctx context.Context, job engine.Job, emit func(task.Piece) error) (engine.Result, error) {
	w.decodes.Add(1)
	return w.Engine.Generate(ctx, job, emit)
}

// ORCH-3002
func TestALeaseIsNotProbed(t *testing.T) {
	var decodes atomic.Int32
	healths := make(chan struct{})
	b := setup(t, func(_ *bundle, o *pool.Options) {
		o.LivenessInterval = time.Millisecond
		kind := llamacpp.Kind()
		kind.New = func(at engine.Endpoint) engine.Engine { return watched{llamacpp.New(at), healths, &decodes} }
		o.Kinds = []engine.Kind{kind}
	}, plain)
	b.await("p", is(pool.Ready))
	l := b.lease("p-0")
	before := decodes.Load()
	for range 4 { // each follows a whole check-up
		select {
		case <-healths:
		case <-time.After(bound):
			require.Fail(t, "its health is not looked at")
		}
	}
	require.Equal(t, before, decodes.Load())
	require.Equal(t, 0, l.Others())
	require.Equal(t, 1, b.m.Infos("p")[0].Active)
	b.told(fakeengine.Script{Fault: fakeengine.Refuse})
	l.Release()
	b.await("p", func(i pool.Info) bool { return i.Restarts == 1 }) // now it is
	require.EqualValues(t, 1, b.restarts("unhealthy"))
}

// LO-503
func TestAProbeDoesNotKeepAPoolLoaded(t *testing.T) {
	b := setup(t, func(_ *bundle, o *pool.Options) { o.LivenessInterval, o.ProbeTimeout = time.Millisecond, bound }, plain)
	b.await("p", is(pool.Ready))
	b.told(fakeengine.Script{Fault: fakeengine.Stall})
	b.ask(http.MethodGet, "/_fake/state?busy=1", nil)
	require.Equal(t, 1, b.m.Infos("p")[0].Active)
	require.NoError(t, b.m.Unload("p"))
	b.await("p", is(pool.Stopped))
}

// ORCH-2101, ORCH-3010
func TestADrainLetsTasksEndAndThenStops(t *testing.T) {
	spec := plain
	spec.Replicas = 2
	b := setup(t, nil, spec)
	lease := b.lease("p-0")
	fd := pidfd(t, b.m.Infos("p")[0].PID)
	require.True(t, task.HasCode(b.m.Drain("nobody", time.Second), task.NotFound))
	require.NoError(t, b.m.Drain("p", bound))
	_, err := b.m.Lease("p-0")
	require.True(t, task.HasCode(err, task.PoolUnready), "at once")
	require.NoError(t, b.m.Drain("p", 2*bound), "again")
	info := b.await("p", is(pool.Draining))
	require.Equal(t, 1, info.Active)
	require.False(t, info.Wanted)
	b.await("p", func(pool.Info) bool { return b.m.Infos("p")[1].State == pool.Stopped })
	select {
	case <-lease.Lost():
		require.Fail(t, "it may end")
	default:
	}
	lease.Release()
	require.Zero(t, b.await("p", is(pool.Stopped)).PID)
	gone(t, fd)
	require.NoError(t, b.m.Drain("p", 0), "of what is drained")
	require.NoError(t, b.m.Load("p"))
	require.True(t, b.await("p", is(pool.Ready)).Wanted)
	require.Zero(t, b.restarts("drained"))
	b.lease("p-0").Release()
}

// ORCH-2101
func TestTheDrainsDeadlineCutsWhatIsLeft(t *testing.T) {
	b := setup(t, nil, plain)
	lease := b.lease("p-0")
	require.NoError(t, b.m.Drain("p", bound))
	b.await("p", is(pool.Draining))
	require.NoError(t, b.m.Drain("p", time.Millisecond), "nearer")
	b.lost(lease)
	b.await("p", is(pool.Stopped))
	lease.Release()
	require.EqualValues(t, 1, b.restarts("drained"))
}

// ORCH-2101
func TestADrainIsTakenBack(t *testing.T) {
	b := setup(t, nil, plain)
	lease := b.lease("p-0")
	require.NoError(t, b.m.Drain("p", bound))
	b.await("p", is(pool.Draining))
	require.NoError(t, b.m.Load("p"))
	info := b.await("p", is(pool.Ready))
	require.Equal(t, lease.Info().PID, info.PID)
	lease.Release()
	b.lease("p-0").Release()
}

// ORCH-2101
func TestALoadingPoolIsDrainedToo(t *testing.T) {
	for name, c := range map[string]child{"loading": {Silent: true}, "failing": {Crash: "no"}} {
		t.Run(name, func(t *testing.T) {
			b := setup(t, func(b *bundle, o *pool.Options) { o.Specs[0].ModelPath, o.BackoffMin = b.model(c), bound }, plain)
			b.await("p", func(i pool.Info) bool { return i.PID != 0 || i.State == pool.Backoff })
			require.NoError(t, b.m.Drain("p", bound))
			require.Zero(t, b.await("p", is(pool.Stopped)).PID)
		})
	}
}

// LO-503
func TestOnDemandPoolsLoadAndUnload(t *testing.T) {
	spec := plain
	spec.OnDemand, spec.Replicas = true, 2
	other := plain
	other.ID = "q"
	b := setup(t, nil, spec, other)
	b.await("q", is(pool.Ready))
	info := b.m.Infos("p")[0]
	require.Equal(t, pool.Stopped, info.State)
	require.False(t, info.Wanted)
	require.Zero(t, info.LoadTime)
	for range 3 {
		require.NoError(t, b.m.Load("p"))
		require.Positive(t, b.await("p", is(pool.Ready)).LoadTime)
		lease := b.lease("p-1")
		err := b.m.Unload("p")
		require.True(t, task.HasCode(err, task.Conflict), "never while it generates: %v", err)
		b.lease("p-0").Release() // and nothing ended
		lease.Release()
		require.NoError(t, b.m.Unload("p"))
		_, err = b.m.Lease("p-0")
		require.Error(t, err)
		b.await("p", is(pool.Stopped))
	}
	require.True(t, task.HasCode(b.m.Load("nobody"), task.NotFound))
	require.True(t, task.HasCode(b.m.Unload("nobody"), task.NotFound))
	require.Equal(t, pool.Ready, b.m.Infos("q")[0].State)
}

// LO-503: whoever gets a lease keeps it, whatever unloads meanwhile.
func TestUnloadAndLeasesExcludeEachOther(t *testing.T) {
	b := setup(t, nil, plain)
	for range 5 {
		b.await("p", is(pool.Ready))
		unloaded := make(chan error, 1)
		go func() { unloaded <- b.m.Unload("p") }()
		lease, err := b.m.Lease("p-0")
		conflict := <-unloaded
		if err == nil {
			if conflict == nil { // it came after the release of an earlier one: then the lease must have been refused
				require.Fail(t, "unloaded under a lease")
			}
			select {
			case <-lease.Lost():
				require.Fail(t, "lost")
			default:
			}
			lease.Release()
			continue
		}
		require.NoError(t, conflict)
		require.NoError(t, b.m.Load("p"))
	}
}

// ORCH-3001, ORCH-2101
func TestStopAmidEverything(t *testing.T) {
	for i := range 6 {
		spec := plain
		spec.Replicas = 2
		b := setup(t, nil, spec)
		b.await("p", is(pool.Ready))
		var fds []int
		for _, info := range b.m.Infos("p") {
			if info.PID != 0 {
				if fd, err := unix.PidfdOpen(info.PID, 0); err == nil {
					fds = append(fds, fd)
				}
			}
		}
		lease := b.lease("p-0")
		changed := make(chan struct{})
		next := b.model(child{Silent: true})
		switch i % 3 {
		case 0:
			require.NoError(t, b.m.Drain("p", bound))
			close(changed)
		case 1:
			go func() {
				defer close(changed)
				_ = b.m.Reload(b.Context(), "p", pool.Model{Path: next}) // cut short by the stop, or done before
			}()
		case 2:
			other := spec
			other.ModelPath, other.Ctx = next, 128
			_, _, _, err := b.m.Apply([]pool.Spec{other})
			require.NoError(t, err)
			close(changed)
		}
		require.NoError(t, b.m.Stop(t.Context()))
		<-changed
		b.lost(lease)
		lease.Release()
		for _, fd := range fds {
			gone(t, fd)
			_ = unix.Close(fd)
		}
		require.False(t, slices.ContainsFunc(b.m.Infos("p"), func(i pool.Info) bool { return i.PID != 0 }), fmt.Sprint(b.m.Infos("p")))
	}
}
