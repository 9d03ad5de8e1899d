// SPDX-License-Identifier: GPL-3.0-or-later

package pool_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/llamacpp"
	"github.com/llama-orch/llama-orch/service/fleet/pool"
)

// Whoever asks for a model on slow storage waits until its header is read, and nobody else does: neither a drain nor a load.
//
// ORCH-2101, LO-503
func TestSlowStorageHoldsNobodyElseUp(t *testing.T) {
	reading, release := make(chan struct{}), make(chan struct{})
	kind := llamacpp.Kind()
	start, size := *kind.Start, kind.Start.Size
	start.Size = func(w engine.Worker, bytes int64) (engine.Sizer, error) {
		if strings.Contains(w.Model, "slow") {
			reading <- struct{}{}
			<-release
		}
		return size(w, bytes)
	}
	kind.Start = &start
	b := setup(t, func(_ *bundle, o *pool.Options) { o.Kinds = []engine.Kind{kind} }, plain)
	b.await("p", is(pool.Ready))
	slow := plain
	slow.ID, slow.OnDemand, slow.ModelPath = "slow", true, filepath.Join(b.dir, "slow")
	require.NoError(t, os.WriteFile(slow.ModelPath, []byte(`{}`), 0o600))
	b.meanwhile(reading, release, func() error {
		_, _, _, err := b.m.Apply([]pool.Spec{b.specs[0], slow})
		return err
	})
	b.meanwhile(reading, release, func() error { return b.m.Reload(t.Context(), "slow", pool.Model{Path: slow.ModelPath}) })
	require.Positive(t, b.m.Infos("slow")[0].NeedBytes, "who plans the swaps knows what it takes")
}

// meanwhile drains and loads pool p while what is asked for waits for a header, which is released then.
func (b *bundle) meanwhile(reading <-chan struct{}, release chan<- struct{}, ask func() error) {
	b.Helper()
	asked, done := make(chan error, 1), make(chan error, 2)
	go func() { asked <- ask() }()
	<-reading
	go func() { done <- b.m.Drain("p", 0); done <- b.m.Load("p") }()
	for range 2 {
		select {
		case err := <-done:
			require.NoError(b, err)
		case <-time.After(10 * time.Second):
			release <- struct{}{}
			require.Fail(b, "pool p waits for the storage of another")
		}
	}
	release <- struct{}{}
	for {
		select {
		case <-reading: // a reload tries the model too, and reads the header again for that
			release <- struct{}{}
		case err := <-asked:
			require.NoError(b, err)
			return
		}
	}
}
