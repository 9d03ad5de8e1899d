// SPDX-License-Identifier: GPL-3.0-or-later

package pool_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/llama-orch/llama-orch/service/fleet/pool"
)

// Whatever is asked for in whatever order, by two callers at once: no card is promised twice, a lease that nothing cut is
// kept, and in the end every pool that is asked for serves. The account of the cards fails the test where memory is reserved
// twice, released before its processes are gone, or never.
//
// LO-501, LO-503, ORCH-2101, ORCH-2102, ORCH-3001
func TestRandomHistories(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			memory := newCards(t, 900<<20, 500<<20) // three workers of some 360 MiB
			first, second := onGPU(func(s *pool.Spec) { s.Replicas = 2 }), onGPU(func(s *pool.Spec) { s.ID, s.OnDemand = "q", true })
			b := setup(t, func(_ *bundle, o *pool.Options) {
				o.VRAM, o.BreakerFailures, o.ReloadDeadline, o.StopGrace = memory, 1000, 20*time.Millisecond, time.Second
				o.BackoffMax = 20 * time.Millisecond
			}, first, second)
			good, bad := b.otherModel(), b.model(child{Crash: "error loading model"})
			var wg sync.WaitGroup
			for caller := range uint64(2) {
				chance := rand.New(rand.NewPCG(seed, caller))
				wg.Go(func() {
					for range 12 {
						b.randomly(chance, good, bad)
					}
				})
			}
			wg.Wait()
			for _, free := range memory.now() {
				require.GreaterOrEqual(t, free, int64(0))
			}
			for _, id := range []string{"p", "q"} {
				require.NoError(t, b.m.Load(id))
				require.NoError(t, b.m.Retry(id))
				b.await(id, is(pool.Ready))
				b.lease(id + "-0").Release()
			}
		})
	}
}

func (c *cards) now() []int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.free)
}

func (b *bundle) randomly(chance *rand.Rand, good, bad string) {
	id := []string{"p", "q"}[chance.IntN(2)]
	switch chance.IntN(8) {
	case 0:
		_ = b.m.Drain(id, time.Duration(chance.IntN(20))*time.Millisecond)
	case 1, 2:
		_ = b.m.Load(id)
	case 3:
		_ = b.m.Unload(id)
	case 4:
		_ = b.m.Reload(b.Context(), id, pool.Model{Path: []string{good, bad}[chance.IntN(2)]})
	case 5:
		specs := slices.Clone(b.specs)
		specs[chance.IntN(2)].Ctx = 64 + chance.IntN(3)
		_, _, _, _ = b.m.Apply(specs)
	case 6:
		if pid := b.m.Infos(id)[0].PID; pid != 0 {
			if fd, err := unix.PidfdOpen(pid, 0); err == nil {
				if b.m.Infos(id)[0].PID == pid { // still its own
					_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
				}
				_ = unix.Close(fd)
			}
		}
	case 7:
		if l, err := b.m.Lease(id + "-0"); err == nil {
			l.Release()
		}
	}
}
