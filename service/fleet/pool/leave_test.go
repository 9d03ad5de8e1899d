// SPDX-License-Identifier: GPL-3.0-or-later

package pool_test

import (
	"context"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/pool"
)

// farewells are the workers that said they were about to end.
type farewells struct {
	mu  sync.Mutex
	all []string
}

func (f *farewells) note(ctx context.Context, i pool.Info, e engine.Engine) {
	f.mu.Lock()
	defer f.mu.Unlock()
	said := i.ID + " " + string(i.State)
	if e.Health(ctx) == nil && i.Fingerprint != "" && i.Active == 0 {
		said += ", well"
	}
	f.all = append(f.all, said)
}

func (f *farewells) said() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.all)
}

// LO-473: a worker of a llama-server of ours tells before it ends that it does, once its tasks have ended: where it is unloaded and where it is reloaded. One that
// is cut off or dies does not, nor does one when everything stops, nor the built-in worker, which saves nothing.
func TestAWorkerTellsBeforeItEnds(t *testing.T) {
	var told farewells
	saves := t.TempDir()
	binary := plain
	binary.Mode, binary.BinaryPath, binary.BinaryArgs = pool.Binary, os.Args[0], []string{asServer}
	builtin := plain
	builtin.ID = "own"
	b := setup(t, func(b *bundle, o *pool.Options) {
		o.Leaving, o.SaveDir = told.note, saves
		o.Specs[0].ModelPath = b.model(child{})
	}, binary, builtin)
	b.await("p", is(pool.Ready))
	b.await("own", is(pool.Ready))

	lease := b.lease("p-0")
	require.NoError(t, b.m.Drain("p", time.Minute))
	b.await("p", is(pool.Draining))
	require.Empty(t, told.said(), "a task runs there")
	lease.Release()
	b.await("p", is(pool.Stopped))
	require.Equal(t, []string{"p-0 draining, well"}, told.said())

	require.NoError(t, b.m.Load("p"))
	b.await("p", is(pool.Ready))
	lease = b.lease("p-0")
	require.NoError(t, b.m.Drain("p", 0))
	b.lost(lease)
	lease.Release()
	b.await("p", is(pool.Stopped))
	require.Len(t, told.said(), 1, "a worker that was cut off does not know what it holds")

	require.NoError(t, b.m.Load("p"))
	b.await("p", is(pool.Ready))
	require.NoError(t, b.m.Reload(t.Context(), "p", pool.Model{ID: "m2", Ref: "file:m2.gguf", Path: b.otherModel()}))
	require.Eventually(t, func() bool { return len(told.said()) == 2 }, bound, time.Millisecond)

	require.NoError(t, b.m.Drain("own", time.Minute))
	b.await("own", is(pool.Stopped))
	require.NoError(t, b.m.Stop(context.Background()))
	require.Len(t, told.said(), 2)
}
