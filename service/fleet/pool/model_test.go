// SPDX-License-Identifier: GPL-3.0-or-later

package pool_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/fleet/pool"
	"github.com/llama-orch/llama-orch/service/task"
)

// library fetches one model, as far as it is told to.
type library struct {
	path     string
	begun    chan struct{} // closed by the first fetch
	arrived  chan error    // what the fetch ends with
	released chan struct{}
}

func (l *library) Use(ctx context.Context, ref, digest string, progress func(done, total int64)) (pool.Held, bool, error) {
	if ref != "hf:org/repo" {
		return pool.Held{}, false, nil
	}
	progress(1, 4)
	close(l.begun)
	select {
	case err := <-l.arrived:
		return pool.Held{Path: l.path, Digest: "sha256:11", Size: 4, Release: func() { close(l.released) }}, true, err
	case <-ctx.Done():
		return pool.Held{}, true, ctx.Err()
	}
}

func (l *library) Path(string) string { return "" }

func (l *library) Retired(string) bool { return false }

func newLibrary() *library {
	return &library{begun: make(chan struct{}), arrived: make(chan error, 1), released: make(chan struct{})}
}

func far() pool.Spec {
	s := plain
	s.ModelRef = "hf:org/repo"
	return s
}

// ORCH-3090, ORCH-3091, ORCH-3062
func TestAReplicaWaitsForItsModelAndHoldsIt(t *testing.T) {
	l := newLibrary()
	b := setup(t, func(b *bundle, o *pool.Options) { l.path, o.Models = b.model(child{}), l }, far())
	<-l.begun
	info := b.m.Infos("p")[0]
	require.Equal(t, pool.Provisioning, info.State)
	require.Equal(t, [2]int64{1, 4}, [2]int64{info.FetchedBytes, info.FetchTotal})
	l.arrived <- nil
	info = b.await("p", is(pool.Ready))
	require.Equal(t, "sha256:11", info.ModelDigest)
	require.Zero(t, info.FetchTotal)
	select {
	case <-l.released:
		require.Fail(t, "a model in use was let go")
	default:
	}
	require.NoError(t, b.m.Drain("p", 0))
	b.await("p", is(pool.Stopped))
	<-l.released
}

// ORCH-3091, ORCH-3040
func TestAModelThatCannotBeHadIsARefusalWithItsReason(t *testing.T) {
	for state, err := range map[pool.State]error{
		pool.Failed:  task.Errorf(task.PolicyDenied, "the policy does not let this server call it"),
		pool.Backoff: task.Errorf(task.Internal, "the source fails").Retry(0),
	} {
		t.Run(string(state), func(t *testing.T) {
			l := newLibrary()
			l.arrived <- err
			b := setup(t, func(_ *bundle, o *pool.Options) { o.Models, o.BackoffMin = l, bound }, far())
			info := b.await("p", is(state))
			require.Contains(t, info.LastError, err.Error())
			require.Empty(t, b.logs.FilterMessage("worker output").All(), "nothing was started")
		})
	}
}

// ORCH-3091
func TestAPoolThatIsDrainedDoesNotWaitForItsModel(t *testing.T) {
	l := newLibrary()
	b := setup(t, func(_ *bundle, o *pool.Options) { o.Models = l }, far())
	<-l.begun
	require.NoError(t, b.m.Drain("p", bound))
	b.await("p", is(pool.Stopped))
}
