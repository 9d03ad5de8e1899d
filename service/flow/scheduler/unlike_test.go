// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

// unlike makes the rig's second replica one of another build, which gives other bytes.
func unlike(r *rig) { r.set(func() { r.replicas[1].build, r.replicas[1].says = "b2", "other " }) }

// In a pool of unlike replicas a strict task goes on byte for byte on the one that it had, although the crash comes right behind its
// first tokens, before any note is written.
//
// LO-202
func TestACrashBehindTheFirstTokensInAPoolOfUnlikeReplicas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		undisturbed := newRig(t, 1, nil)
		undisturbed.must("strict")
		want := undisturbed.read("strict")
		undisturbed.stop()

		r := newUnstartedRig(t, &book{records: map[string]task.Record{}}, 2, nil)
		unlike(r)
		require.NoError(t, r.s.Start(t.Context()))
		r.book.forgets.Store(true)
		r.must("strict") // on the first by its id
		time.Sleep(35 * time.Millisecond)
		at := r.status("strict").LastEventID
		require.Equal(t, 3, r.status("strict").TokensOut)
		left := r.crash()
		require.Equal(t, task.Running, left[0].State)

		r = newUnstartedRig(t, r.book, 2, nil)
		unlike(r)
		r.set(func() { r.replicas[0].ready = false }) // it takes longer to load
		r.s.Recover(left)
		require.NoError(t, r.s.Start(t.Context()))
		defer r.stop()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		require.Empty(t, r.order, "the other is no choice")
		r.set(func() { r.replicas[0].ready, r.replicas[0].dies = true, -1 })
		r.s.Wake("default")
		time.Sleep(10 * time.Second)
		synctest.Wait()
		require.Equal(t, []string{"strict"}, r.order, "nor after a worker that died before it decoded anything again")
		r.set(func() { r.replicas[0].ready = true })
		r.s.Wake("default")
		tail := r.readAfter("strict", at)
		require.Contains(t, tail, "event: end")
		require.NotContains(t, tail, "other")
		require.Contains(t, tokenLines(want), tokenLines(tail))
		require.Equal(t, tokenLines(want), tokenLines(r.read("strict")))
	})
}

// A strict task whose dispatch has to be on the disk waits with its first token until it is there, for as long as that takes. Where
// all replicas are alike, and where the task is bound to one kind already, nothing has to.
//
// LO-202
func TestWhichDispatchHasToBeRecorded(t *testing.T) {
	for name, c := range map[string]struct {
		build string // of the second replica
		waits bool
	}{
		"alike": {}, "unlike": {build: "b2", waits: true}, "one was never ready": {build: "none", waits: true},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, 2, nil, func(t *testing.T, r *rig) {
				defer r.book.full.Store(false)
				r.set(func() { r.replicas[1].build, r.replicas[1].ready = c.build, false })
				for _, name := range []string{"runs", "is canceled"} {
					r.set(func() { r.replicas[0].busy = 1 })
					r.must(name)
					synctest.Wait()
					r.book.full.Store(true)
					r.set(func() { r.replicas[0].busy = 0 })
					r.s.Wake("default")
					time.Sleep(30 * time.Second) // longer than a replica may send nothing
					require.Equal(t, task.Running, r.status(name).State)
					require.Equal(t, c.waits, r.status(name).TokensOut == 0)
					if name == "is canceled" && c.waits {
						ctx, stop := context.WithTimeout(t.Context(), time.Second)
						defer stop()
						_, err := r.s.Cancel(ctx, name)
						require.ErrorIs(t, err, context.DeadlineExceeded, "nor can that be recorded")
					}
					r.book.full.Store(false)
					got := r.read(name)
					require.Equal(t, name == "runs" || !c.waits, strings.Contains(got, "event: end"), got)
				}
			})
		})
	}
	t.Run("bound already", func(t *testing.T) {
		run(t, 2, nil, func(t *testing.T, r *rig) {
			defer r.book.full.Store(false)
			unlike(r)
			r.set(func() { r.replicas[0].dies = 3 })
			r.must("a")
			time.Sleep(35 * time.Millisecond)
			r.book.full.Store(true)
			time.Sleep(time.Second)
			r.set(func() { r.replicas[0].ready = true })
			r.s.Wake("default")
			time.Sleep(time.Second)
			require.Equal(t, 10, r.status("a").TokensOut)
			r.book.full.Store(false)
			require.Contains(t, r.read("a"), "event: end")
		})
	})
}

// ORCH-3014: a prompt that nobody has counted goes to a replica whose context holds it for sure.
func TestAnUncountedPromptGoesWhereItFits(t *testing.T) {
	run(t, 2, nil, func(t *testing.T, r *rig) {
		r.set(func() { r.replicas[0].ctx, r.replicas[1].ctx = 128, 1024 })
		for name, most := range map[string]int{"short": 100, "long": 500, "beyond": 5000} {
			r.must(name, func(t *task.Task) { t.MostTokens = most })
			require.Contains(t, r.read(name), "event: end\n")
			if most > 128 {
				require.Equal(t, "default-1", r.status(name).ReplicaID)
			}
		}
	})
}
