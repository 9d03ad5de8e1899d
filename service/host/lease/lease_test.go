// SPDX-License-Identifier: GPL-3.0-or-later

package lease

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/llama-orch/llama-orch/service/record/ledger"
	"github.com/llama-orch/llama-orch/service/task"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// store is what daemons share. Who holds a pool is who came first, until it is free.
type store struct {
	mu    sync.Mutex
	hosts []task.Host
	asked []task.Host
	fail  error
	over  bool // the lease
}

func (s *store) Hosts(context.Context) ([]task.Host, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hosts, s.fail
}

// change changes what the others are, or what is asked meets.
func (s *store) change(do func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	do()
}

func (s *store) Holder(context.Context, string) (string, error) { return "", nil }
func (s *store) Holds() bool                                    { return !s.over }
func (s *store) Claim(_ context.Context, by task.Host) (ledger.Claim, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, by)
	c := ledger.Claim{Owner: by.ID, Fence: uint64(len(s.asked))}
	for _, p := range by.Pools {
		free := p.Holds
		for _, h := range s.hosts {
			if other := h.Pool(p.ID); other != nil && other.Holds && h.Up && h.ID != by.ID {
				free = false
			}
		}
		if free {
			c.Pools = append(c.Pools, p.ID)
		}
	}
	return c, nil
}

func other(up, holds bool, digest string) task.Host {
	return task.Host{ID: "b", Name: "attic", Address: "https://attic:1", Up: up, Pools: []task.HostPool{{ID: "p", Digest: digest, Holds: holds}}}
}

func rig(t *testing.T, digest string, hosts ...task.Host) (*Keeper, *store, *observer.ObservedLogs, *[]ledger.Claim) {
	t.Helper()
	s := &store{hosts: hosts}
	core, logs := observer.New(zapcore.DebugLevel)
	took := &[]ledger.Claim{}
	k := New(Options{
		Ledger: s, Lease: 5 * time.Second, Log: zap.New(core), Metrics: NewMetrics(prometheus.NewRegistry()), Took: func(c ledger.Claim) { *took = append(*took, c) },
		Self: func() task.Host { return task.Host{ID: "a", Pools: []task.HostPool{{ID: "p", Digest: digest}}} },
	})
	return k, s, logs, took
}

// LO-711, LO-722: a daemon holds what nobody does, stands by for what another has, says who that is, and takes it once the other's lease is over, within a lease.
func TestStandsByAndTakesOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, s, _, took := rig(t, "d", other(true, true, "d"))
		require.NoError(t, k.Claim(t.Context()))
		err := k.Refusal("p")
		require.True(t, task.HasCode(err, task.PoolUnavailable))
		require.ErrorContains(t, err, "served by the host attic")
		require.ErrorContains(t, err, "https://attic:1")
		holder, ok := k.Holder("p")
		require.True(t, ok)
		require.Equal(t, "b", holder.ID)
		require.NoError(t, k.Start(t.Context()))
		time.Sleep(20 * time.Second)
		synctest.Wait()
		require.Len(t, s.asked, 1, "nothing is claimed while there is nothing to claim")
		require.InDelta(t, 1, testutil.ToFloat64(k.o.Metrics.hosts.WithLabelValues("up")), 0)
		require.Zero(t, testutil.ToFloat64(k.o.Metrics.takeovers))
		s.change(func() { s.hosts = []task.Host{other(false, true, "d")} })
		time.Sleep(5 * time.Second / looks)
		synctest.Wait()
		require.NoError(t, k.Refusal("p"))
		require.Len(t, *took, 2)
		require.InDelta(t, 1, testutil.ToFloat64(k.o.Metrics.hosts.WithLabelValues("gone")), 0)
		require.InDelta(t, 1, testutil.ToFloat64(k.o.Metrics.takeovers), 0)
		require.NoError(t, k.Stop(t.Context()))
	})
}

// LO-711: one pool is one model. A daemon whose model is another one does not take the queue, and says so once; one that does not know its model yet waits.
func TestOnePoolIsOneModel(t *testing.T) {
	k, s, logs, _ := rig(t, "mine", other(false, true, "theirs"))
	for range 3 {
		require.NoError(t, k.Claim(t.Context()))
		require.Error(t, k.Refusal("p"))
	}
	require.Len(t, s.asked[0].Pools, 1, "it is announced all the same")
	require.Len(t, logs.FilterMessageSnippet("has another model").All(), 1)

	k, _, logs, _ = rig(t, "", other(false, true, "theirs"))
	require.NoError(t, k.Claim(t.Context()))
	require.ErrorContains(t, k.Refusal("p"), "no host's")
	require.Empty(t, logs.FilterMessageSnippet("has another model").All())

	k, _, _, _ = rig(t, "", other(false, true, ""))
	require.NoError(t, k.Claim(t.Context()))
	require.NoError(t, k.Refusal("p"))
}

// LO-711: while the database is away nothing changes, and it is said once.
func TestAwayIsSaidOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, s, logs, _ := rig(t, "d")
		require.NoError(t, k.Claim(t.Context()))
		require.NoError(t, k.Start(t.Context()))
		s.change(func() { s.fail = errors.New("away") })
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Len(t, logs.FilterMessageSnippet("cannot be looked at").All(), 1)
		require.NoError(t, k.Refusal("p"))
		require.NoError(t, k.Stop(t.Context()))
	})
}

// LO-717: who cannot share does not claim while another daemon is up.
func TestWhoCannotShareWaits(t *testing.T) {
	k, s, _, _ := rig(t, "d", other(true, false, "d"))
	k.o.Alone = "budgets.token is set"
	require.ErrorContains(t, k.Claim(t.Context()), "the host attic uses the same ledger, and this one cannot share it: budgets.token is set")
	require.Empty(t, s.asked)
	s.hosts[0].Up = false
	require.NoError(t, k.Claim(t.Context()))
}

// LO-718: once the lease may be over, clients of a pool that another daemon has too are told nothing more. Where nobody has it, as on the only host while the database is away, they are.
func TestWhoMaySend(t *testing.T) {
	k, s, _, _ := rig(t, "d", other(false, false, "d"))
	require.NoError(t, k.Claim(t.Context()))
	require.True(t, k.MaySend("p"))
	s.over = true
	require.False(t, k.MaySend("p"))
	require.True(t, k.MaySend("q"))
}
