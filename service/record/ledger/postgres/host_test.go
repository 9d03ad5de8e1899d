// SPDX-License-Identifier: GPL-3.0-or-later

package postgres

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/record/ledger"
	"github.com/llama-orch/llama-orch/service/record/ledger/ledgertest"
	"github.com/llama-orch/llama-orch/service/task"
)

// host is a daemon with pools.
func host(id string, pools ...string) task.Host {
	h := task.Host{ID: id, Name: "the " + id, Address: "http://127.0.0.1:1", Version: "v"}
	for _, p := range pools {
		h.Pools = append(h.Pools, task.HostPool{ID: p, Engine: "llamacpp", Model: "m", Ref: "file:m", Digest: "sha256:" + p, Holds: true})
	}
	return h
}

// in is a task of a pool.
func in(pool string, seq uint64) task.Task {
	t := sample(seq)
	t.PoolID, t.Session = pool, nil
	return t
}

func beside(t *testing.T, l *Ledger, owner string) *Ledger {
	t.Helper()
	o := l.o
	o.Owner, o.Registerer, o.Lost = owner, nil, nil
	return open(t, o)
}

// LO-710, LO-711: two daemons with other pools share a schema. Each has the tasks of its pools, and nothing of the other's, not even when the other's lease is over.
func TestEachDaemonHasItsPools(t *testing.T) {
	a := open(t, options())
	first, err := a.Claim(t.Context(), host("me", "p", "q"))
	require.NoError(t, err)
	require.Equal(t, []string{"p", "q"}, first.Pools)
	require.NoError(t, a.Accept(t.Context(), in("p", 1)))
	b := beside(t, a, "another")
	second, err := b.Claim(t.Context(), host("another", "q", "r"))
	require.NoError(t, err)
	require.Equal(t, []string{"r"}, second.Pools)
	require.Equal(t, map[string]string{"q": "me"}, second.Others)
	require.Empty(t, second.Tasks)
	require.NoError(t, b.Accept(t.Context(), in("r", 2)))
	require.ErrorIs(t, b.Finish(t.Context(), finished(in("p", 1))), ledger.ErrFenced)

	hosts, err := b.Hosts(t.Context())
	require.NoError(t, err)
	require.Len(t, hosts, 2)
	require.Equal(t, "another", hosts[0].ID)
	require.Equal(t, "the another", hosts[0].Name)
	require.True(t, hosts[0].Up)
	require.True(t, hosts[1].Up)
	require.Equal(t, task.HostPool{ID: "q", Engine: "llamacpp", Model: "m", Ref: "file:m", Digest: "sha256:q"}, *hosts[0].Pool("q"))
	require.True(t, hosts[0].Pool("r").Holds)
	require.True(t, hosts[1].Pool("q").Holds)
	require.Nil(t, hosts[1].Pool("r"))
	holder, err := b.Holder(t.Context(), id(1))
	require.NoError(t, err)
	require.Equal(t, "me", holder)
	holder, err = b.Holder(t.Context(), id(9))
	require.NoError(t, err)
	require.Empty(t, holder)

	lapse(t, a)
	again, err := b.Claim(t.Context(), host("another", "r"))
	require.NoError(t, err)
	require.Equal(t, []string{"r"}, again.Pools)
	require.Empty(t, again.Tasks, "nobody but its own daemon has the pool")
	require.NoError(t, a.Dispatch(t.Context(), dispatched(in("p", 1))), "its lease goes on")
	hosts, err = b.Hosts(t.Context())
	require.NoError(t, err)
	require.False(t, hosts[1].Up)
}

// LO-711, LO-714: a pool that two daemons can serve goes to the other one once the lease is over, with its tasks in their order and its sessions. What the first
// then writes changes nothing, and it knows that its lease is over without asking.
func TestAPoolIsTakenOver(t *testing.T) {
	o := options()
	o.Lease = 300 * time.Millisecond
	a := open(t, o)
	_, err := a.Claim(t.Context(), host("me", "p"))
	require.NoError(t, err)
	require.True(t, a.Holds())
	for seq := uint64(1); seq <= 4; seq++ {
		x := in("p", seq)
		if seq == 1 {
			s := ledgertest.Session("s")
			s.PoolID, s.Turns = "p", 1
			x.Session = &s
		}
		require.NoError(t, a.Accept(t.Context(), x))
	}
	require.NoError(t, a.Dispatch(t.Context(), dispatched(in("p", 3))))
	b := beside(t, a, "another")
	own, err := b.Sessions(t.Context())
	require.NoError(t, err)
	require.Empty(t, own, "the sessions of others are not its own")
	got, err := b.Claim(t.Context(), host("another", "p"))
	require.NoError(t, err)
	require.Empty(t, got.Pools)
	require.NoError(t, b.Accept(t.Context(), in("z", 5)), "as one of a pool that nobody has")
	a.mute.Store(true) // it hangs
	for len(got.Pools) == 0 {
		got, err = b.Claim(t.Context(), host("another", "p"))
		require.NoError(t, err)
	}
	require.False(t, a.Holds(), "by its own clock the lease ends no later than by the database's")
	require.Equal(t, []string{id(3), id(1), id(2), id(4)}, ids(got.Tasks), "what ran comes first")
	require.Len(t, got.Sessions, 1)
	require.Equal(t, "s", got.Sessions[0].ID)
	require.ErrorIs(t, a.Accept(t.Context(), in("p", 6)), ledger.ErrFenced)
	require.ErrorIs(t, a.Finish(t.Context(), finished(in("p", 3))), ledger.ErrFenced)
	own, err = a.Sessions(t.Context())
	require.NoError(t, err)
	require.Empty(t, own)
}

// LO-710: a task of a pool that no daemon has any more is taken by whoever claims next, so that it ends. One of a daemon that is away waits for it, until that is forgotten.
func TestTasksOfPoolsThatNobodyHas(t *testing.T) {
	a := open(t, options())
	_, err := a.Claim(t.Context(), host("me", "p", "q"))
	require.NoError(t, err)
	require.NoError(t, a.Accept(t.Context(), in("p", 1)))
	require.NoError(t, a.Accept(t.Context(), in("q", 2)))
	require.NoError(t, a.Close())
	b := beside(t, a, "another")
	got, err := b.Claim(t.Context(), host("another", "r"))
	require.NoError(t, err)
	require.Empty(t, got.Tasks)
	next := beside(t, a, "me")
	mine, err := next.Claim(t.Context(), host("me", "p"))
	require.NoError(t, err)
	require.Equal(t, []string{id(1), id(2)}, ids(mine.Tasks), "its next life has one pool less, and ends what is of that")
	require.NoError(t, next.Close())
	b.exec(t, `UPDATE host SET seen = seen - interval '25 hours' WHERE id = 'me'`)
	got, err = b.Claim(t.Context(), host("another", "r"))
	require.NoError(t, err)
	require.Equal(t, []string{id(1), id(2)}, ids(got.Tasks))
}

// LO-710: files and batches are with the daemon to which they were sent, which has their bytes.
func TestFilesAreWithTheirHost(t *testing.T) {
	a := open(t, options())
	f := task.File{ID: "f", Artifact: "sha256:f", CreatedAt: epoch}
	require.NoError(t, a.KeepFile(t.Context(), f))
	require.NoError(t, a.KeepBatch(t.Context(), task.BatchRecord{ID: "b", Dialect: "openai", FileID: "f", CreatedAt: epoch}, nil))
	b := beside(t, a, "another")
	for l, want := range map[*Ledger]int{a: 1, b: 0} {
		files, err := l.Files(t.Context(), task.FileFilter{Sent: true, Own: true})
		require.NoError(t, err)
		require.Len(t, files, want)
		batches, err := l.Batches(t.Context(), task.BatchFilter{Live: true, Own: true})
		require.NoError(t, err)
		require.Len(t, batches, want)
		files, err = l.Files(t.Context(), task.FileFilter{Sent: true})
		require.NoError(t, err)
		require.Len(t, files, 1, "who asks for all gets all")
	}
}
