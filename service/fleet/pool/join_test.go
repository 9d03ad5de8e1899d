// SPDX-License-Identifier: GPL-3.0-or-later

package pool_test

import (
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/fakeengine"
	"github.com/llama-orch/llama-orch/service/fleet/pool"
	"github.com/llama-orch/llama-orch/service/task"
)

// roaming is a pool whose engines all register themselves.
var roaming = pool.Spec{ID: "r", Engine: "llamacpp", ModelID: "m", ModelRef: "any label", Mode: pool.External}

// elsewhere is an engine that somebody else runs.
func elsewhere(t *testing.T) string {
	server := httptest.NewServer(fakeengine.New(fakeengine.Options{Slots: 1, Ctx: 64}))
	t.Cleanup(server.Close)
	return server.URL
}

// join is for a lease that outlasts the test.
func (b *bundle) join(name, url string) {
	b.Helper()
	id, err := b.m.Join("r", pool.Announced{Name: name, URL: url, ModelDigest: "sha256:aa"}, time.Hour)
	require.NoError(b, err)
	require.Equal(b, "r-"+name, id)
}

// until waits for the replicas of r to be as asked.
func (b *bundle) until(ok func([]pool.Info) bool) {
	b.Helper()
	for timeout := time.After(bound); ; {
		b.mu.Lock()
		changed := b.changed
		b.mu.Unlock()
		infos := b.m.Infos("r")
		if ok(infos) {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			require.Fail(b, "the replicas did not get there", "%+v", infos)
		}
	}
}

// ORCH-2101
func TestARegisteredEngineServesUntilItsLeaseEnds(t *testing.T) {
	b := setup(t, nil, roaming)
	require.Empty(t, b.m.Infos("r"))
	b.join("attic", elsewhere(t))
	info := b.await("r", is(pool.Ready))
	require.Equal(t, "r-attic", info.ID)
	require.Equal(t, "sha256:aa", info.ModelDigest)
	require.Equal(t, 64, info.Ctx)

	short := elsewhere(t)
	_, err := b.m.Join("r", pool.Announced{Name: "short", URL: short, ModelDigest: "sha256:aa"}, time.Millisecond)
	require.NoError(t, err)
	b.until(func(infos []pool.Info) bool { return len(infos) == 1 })
	require.Equal(t, pool.Ready, b.m.Infos("r")[0].State, "the other one stays")
	require.Len(t, b.logs.FilterMessage("a worker that registered was not heard of again and leaves its pool").All(), 1)

	_, err = b.m.Join("r", pool.Announced{Name: "short", URL: short, ModelDigest: "sha256:aa"}, time.Hour) // it is heard of after all
	require.NoError(t, err)
	b.until(func(infos []pool.Info) bool { return len(infos) == 2 && infos[1].State == pool.Ready })
}

// ORCH-2101
func TestWhatALapsedEngineRunsMayEnd(t *testing.T) {
	for name, deadline := range map[string]time.Duration{"in time": bound, "or is cut": time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			b := setup(t, func(_ *bundle, o *pool.Options) { o.ReloadDeadline = deadline }, roaming)
			url := elsewhere(t)
			b.join("attic", url)
			b.await("r", is(pool.Ready))
			lease := b.lease("r-attic")
			// It is renewed with a lease that ends.
			_, err := b.m.Join("r", pool.Announced{Name: "attic", URL: url, ModelDigest: "sha256:aa"}, time.Millisecond)
			require.NoError(t, err)
			b.until(func(infos []pool.Info) bool { return len(infos) == 0 })
			_, err = b.m.Lease("r-attic")
			require.True(t, task.HasCode(err, task.PoolUnready), "%v", err)
			if deadline == bound {
				select {
				case <-lease.Lost():
					require.Fail(t, "a task on it may end")
				default:
				}
			} else {
				b.lost(lease)
			}
			lease.Release()
		})
	}
}

// A timer that has fired while the lease was renewed must not end it.
// ORCH-2101
func TestARenewalInTimeCounts(t *testing.T) {
	b := setup(t, nil, roaming)
	a := pool.Announced{Name: "attic", URL: elsewhere(t)}
	for i := range 300 {
		_, err := b.m.Join("r", a, time.Duration(i%5)*50*time.Microsecond)
		require.NoError(t, err)
		_, err = b.m.Join("r", a, time.Hour)
		require.NoError(t, err)
		infos := b.m.Infos("r")
		require.Len(t, infos, 1)
		require.Equal(t, "r-attic", infos[0].ID)
	}
}

// ORCH-2101
func TestARegistrationThatDoesNotFit(t *testing.T) {
	url, fixed := elsewhere(t), elsewhere(t)
	own := pool.Spec{ID: "own", ModelID: "m", Mode: pool.External, URLs: []string{fixed + "/"}}
	b := setup(t, nil, roaming, own, plain)
	b.join("attic", url)
	renamed := strings.Replace(url, "http", "HTTP", 1)
	for says, c := range map[string]struct {
		pool string
		a    pool.Announced
		code task.Code
	}{
		"use one of r, own, p":      {"nowhere", pool.Announced{Name: "x", URL: "http://h:1"}, task.NotFound},
		"runs its own workers":      {"p", pool.Announced{Name: "x", URL: "http://h:1"}, task.InvalidParams},
		"another URL or model":      {"r", pool.Announced{Name: "attic", URL: "http://h:1", ModelDigest: "sha256:aa"}, task.Conflict},
		"come back once its lease":  {"r", pool.Announced{Name: "attic", URL: url, ModelDigest: "sha256:bb"}, task.Conflict},
		"in pool 'r' already":       {"own", pool.Announced{Name: "x", URL: renamed + "/"}, task.Conflict},
		"in pool 'own' already":     {"r", pool.Announced{Name: "x", URL: fixed, ModelDigest: "sha256:aa"}, task.Conflict},
		"there is a replica own-0":  {"own", pool.Announced{Name: "0", URL: "http://h:1"}, task.Conflict},
		"have the model sha256:aa,": {"r", pool.Announced{Name: "x", URL: "http://h:1", ModelDigest: "sha256:bb"}, task.InvalidParams},
	} {
		_, err := b.m.Join(c.pool, c.a, time.Hour)
		require.True(t, task.HasCode(err, c.code), "%s: %v", says, err)
		require.ErrorContains(t, err, says)
	}
	require.Len(t, b.m.Infos("r"), 1)
	require.Len(t, b.m.Infos("own"), 1)
	for i := range 64 - 3 {
		_, err := b.m.Join("own", pool.Announced{Name: fmt.Sprint("n", i), URL: fmt.Sprintf("http://127.0.0.1:1/%d", i)}, time.Hour)
		require.NoError(t, err)
	}
	_, err := b.m.Join("own", pool.Announced{Name: "many", URL: "http://127.0.0.1:1/many"}, time.Hour)
	require.True(t, task.HasCode(err, task.Conflict))
	require.ErrorContains(t, err, "64 replicas, as many as there can be")
}

// ORCH-2101
func TestAnEngineThatJoinsADrainedPoolWaitsWithIt(t *testing.T) {
	b := setup(t, nil, roaming)
	b.join("attic", elsewhere(t))
	b.await("r", is(pool.Ready))
	require.NoError(t, b.m.Drain("r", bound))
	b.await("r", is(pool.Stopped))
	b.join("cellar", elsewhere(t))
	require.False(t, slices.ContainsFunc(b.m.Infos("r"), func(i pool.Info) bool { return i.Wanted }))
	require.NoError(t, b.m.Load("r"))
	b.until(func(infos []pool.Info) bool { return infos[0].State == pool.Ready && infos[1].State == pool.Ready })
}

// ORCH-2101
func TestApplyKeepsMembersOfAPoolThatIsNotTouched(t *testing.T) {
	b := setup(t, nil, roaming)
	url := elsewhere(t)
	b.join("attic", url)
	b.await("r", is(pool.Ready))
	_, _, _, err := b.m.Apply([]pool.Spec{roaming})
	require.NoError(t, err)
	require.Len(t, b.m.Infos("r"), 1)
	other := roaming
	other.Slots = 2
	_, _, _, err = b.m.Apply([]pool.Spec{other})
	require.NoError(t, err)
	require.Empty(t, b.m.Infos("r"), "it has to announce itself to the pool as it is now")
	b.join("attic", url)
	b.await("r", is(pool.Ready))
}

// ORCH-2101
func TestStopWithMembers(t *testing.T) {
	b := setup(t, nil, roaming)
	a := pool.Announced{Name: "attic", URL: elsewhere(t), ModelDigest: "sha256:aa"}
	b.join("cellar", elsewhere(t))
	_, err := b.m.Join("r", a, time.Millisecond) // its lease ends about when all stops
	require.NoError(t, err)
	require.NoError(t, b.m.Stop(t.Context()))
	_, err = b.m.Join("r", a, time.Hour)
	require.True(t, task.HasCode(err, task.ShuttingDown), "%v", err)
}
