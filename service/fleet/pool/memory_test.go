// SPDX-License-Identifier: GPL-3.0-or-later

package pool_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/llama-orch/llama-orch/service/fleet/pool"
	"github.com/llama-orch/llama-orch/service/fleet/vram"
	"github.com/llama-orch/llama-orch/service/task"
)

const gib = 1 << 30

var cardNames = []string{"RTX 3090;driver 1", "RTX 3060;driver 1"}

// cards plays the account of two cards, a large one and a small one.
type cards struct {
	t *testing.T

	mu     sync.Mutex
	free   []int64
	held   map[string][]vram.Share
	pids   map[string]int
	wishes []vram.Wish
	calls  []string
	takes  int64 // what a worker is seen to take
	final  error // refuses for good
}

func newCards(t *testing.T, free ...int64) *cards {
	c := &cards{t: t, free: free, held: map[string][]vram.Share{}, pids: map[string]int{}}
	t.Cleanup(func() { // after the manager stopped
		require.Empty(t, c.held, "everything is released in the end")
	})
	return c
}

func (c *cards) Reserve(owner string, w vram.Wish) (vram.Grant, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	require.Empty(c.t, c.held[owner])
	c.wishes = append(c.wishes, w)
	c.calls = append(c.calls, "reserve "+owner)
	if c.final != nil {
		return vram.Grant{}, c.final
	}
	var shares []vram.Share
	switch w.Device {
	case "auto":
		best := -1
		for i, free := range c.free {
			if free >= w.Bytes && (best < 0 || free < c.free[best]) {
				best = i
			}
		}
		if best < 0 {
			return vram.Grant{}, task.Errorf(task.PoolUnavailable, "needs %d bytes, %d are free", w.Bytes, slices.Max(c.free)).Retry(time.Second)
		}
		shares = []vram.Share{{Card: best, Bytes: w.Bytes}}
	default:
		mask := strings.Split(w.Device, ",")
		for i := range mask {
			shares = append(shares, vram.Share{Card: int(mask[i][0] - '0'), Bytes: w.Bytes / int64(len(mask))})
		}
	}
	var g vram.Grant
	for _, s := range shares {
		c.free[s.Card] -= s.Bytes
		g.Cards = append(g.Cards, s.Card)
		g.Names = append(g.Names, cardNames[s.Card])
	}
	c.held[owner] = shares
	return g, nil
}

func (c *cards) Room(device string) (rooms []vram.Room) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, free := range c.free {
		room := vram.Room{Card: i, Name: cardNames[i], Free: free, Total: free}
		for _, held := range c.held {
			for _, s := range held {
				if s.Card == i {
					room.Total += s.Bytes
				}
			}
		}
		if device == "auto" || slices.Contains(strings.Split(device, ","), fmt.Sprint(i)) {
			rooms = append(rooms, room)
		}
	}
	return rooms
}

func (c *cards) Spawned(owner string, pid int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls = append(c.calls, "spawned "+owner)
	c.pids[owner] = pid
}

func (c *cards) Settle(owner string) (seen []vram.Share) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls = append(c.calls, "settle "+owner)
	for _, s := range c.held[owner] {
		if c.takes > 0 {
			seen = append(seen, vram.Share{Card: s.Card, Bytes: c.takes})
		}
	}
	return seen
}

func (c *cards) Release(owner string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls = append(c.calls, "release "+owner)
	if pid := c.pids[owner]; pid != 0 && unix.Kill(-pid, 0) != unix.ESRCH {
		c.t.Errorf("the process group of %s still is there", owner)
	}
	for _, s := range c.held[owner] {
		c.free[s.Card] += s.Bytes
	}
	delete(c.held, owner)
}

func (c *cards) asked() []vram.Wish {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.wishes)
}

func onGPU(change func(*pool.Spec)) pool.Spec {
	s := plain
	s.Device = "auto"
	if change != nil {
		change(&s)
	}
	return s
}

// restarts reads the counter of one reason of p-0.
func (b *bundle) restarts(reason string) float64 {
	families, err := b.metrics.Gather()
	require.NoError(b, err)
	for _, f := range families {
		if f.GetName() != "llorch_worker_restarts_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "reason" && l.GetValue() == reason {
					return m.GetCounter().GetValue()
				}
			}
		}
	}
	return 0
}

// LO-501, ORCH-3011, ORCH-1103
func TestAGPUWorkerReservesBeforeItIsSpawned(t *testing.T) {
	memory := newCards(t, 24*gib, gib/2)
	memory.takes = 400 << 20
	b := setup(t, func(_ *bundle, o *pool.Options) { o.VRAM = memory }, onGPU(func(s *pool.Spec) { s.Replicas = 2 }))
	b.await("p", func(pool.Info) bool {
		return !slices.ContainsFunc(b.m.Infos("p"), func(i pool.Info) bool { return i.State != pool.Ready })
	})
	infos := b.m.Infos("p")
	slices.SortFunc(infos, func(a, b pool.Info) int { return a.Cards[0] - b.Cards[0] })
	require.Equal(t, []int{0}, infos[0].Cards)
	require.Equal(t, []int{1}, infos[1].Cards, "the small one is filled first")
	require.NotEqual(t, infos[0].Fingerprint, infos[1].Fingerprint, "two cards, two replica sets")
	for i, info := range infos {
		require.Contains(t, info.LogTail[0], "CUDA_DEVICE_ORDER=PCI_BUS_ID")
		require.Contains(t, info.LogTail[0], fmt.Sprintf("CUDA_VISIBLE_DEVICES=%d ", i))
		require.EqualValues(t, 400<<20, info.ObservedBytes)
		require.Greater(t, info.EstimateBytes, int64(300<<20))
		require.Positive(t, info.LoadTime)
		require.Equal(t, info.ID, info.Owner)
	}
	require.NoError(t, unix.Kill(infos[1].PID, unix.SIGKILL))
	b.await("p", func(pool.Info) bool {
		return slices.ContainsFunc(b.m.Infos("p"), func(i pool.Info) bool { return i.State == pool.Ready && i.Restarts == 1 })
	})
	wishes := memory.asked()
	observed := float64(400 << 20)
	require.Equal(t, int64(observed*1.05), wishes[2].Bytes, "learned")
	memory.mu.Lock()
	var calls []string
	for _, call := range memory.calls {
		if strings.HasSuffix(call, infos[1].ID) {
			calls = append(calls, strings.Fields(call)[0])
		}
	}
	memory.mu.Unlock()
	require.Equal(t, []string{"reserve", "spawned", "settle", "release", "reserve", "spawned", "settle"}, calls)
}

// ORCH-3003, ORCH-1102
func TestTooLittleMemoryIsRefusedBeforeTheSpawn(t *testing.T) {
	memory := newCards(t, 1<<20, 2<<20)
	b := setup(t, func(_ *bundle, o *pool.Options) { o.VRAM, o.BackoffMin, o.BackoffMax = memory, bound, bound }, onGPU(nil))
	info := b.await("p", is(pool.Backoff))
	require.Regexp(t, `needs \d+ bytes, 2097152 are free`, info.LastError)
	require.Empty(t, info.Cards)
	require.Empty(t, b.logs.FilterMessage("worker output").All())
	memory.mu.Lock()
	memory.free[0] = 24 * gib
	memory.mu.Unlock()
	require.NoError(t, b.m.Retry("p"))
	b.await("p", is(pool.Ready))
	require.EqualValues(t, 1, b.restarts("refused"))
}

// ORCH-3003, ORCH-1102
func TestWhatNeverFitsIsFailed(t *testing.T) {
	memory := newCards(t, gib)
	memory.final = task.Errorf(task.PoolUnavailable, "a worker needs more than any card has")
	b := setup(t, func(_ *bundle, o *pool.Options) { o.VRAM, o.BackoffMin = memory, bound }, onGPU(nil))
	require.Contains(t, b.await("p", is(pool.Failed)).LastError, "more than any card has")
}

// ORCH-3003
func TestTheHostsMemoryIsChecked(t *testing.T) {
	var mu sync.Mutex
	free := int64(10 << 20)
	b := setup(t, func(_ *bundle, o *pool.Options) {
		o.BackoffMin = bound
		o.HostMemory = func() (int64, error) {
			mu.Lock()
			defer mu.Unlock()
			return free, nil
		}
	}, plain)
	info := b.await("p", is(pool.Backoff))
	require.Contains(t, info.LastError, "a worker needs 65 MiB of the host's memory, and 10 MiB are free")
	require.Empty(t, b.logs.FilterMessage("worker output").All())
	mu.Lock()
	free = gib
	mu.Unlock()
	require.NoError(t, b.m.Retry("p"))
	info = b.await("p", is(pool.Ready))
	require.Positive(t, info.ObservedBytes, "its resident memory")
}

// ORCH-3053
func TestRunningOutOfVRAMRaisesWhatIsAskedFor(t *testing.T) {
	memory := newCards(t, 24*gib, 12*gib)
	b := setup(t, func(b *bundle, o *pool.Options) {
		o.VRAM = memory
		o.Specs[0].ModelPath = b.model(child{Crash: "allocating 9000.00 MiB on device 0: cudaMalloc failed: out of memory"})
	}, onGPU(nil))
	info := b.await("p", func(i pool.Info) bool { return i.State == pool.Backoff && i.Restarts == 1 })
	require.Contains(t, info.LastError, "the worker ran out of the memory of card 1, where ")
	require.Contains(t, info.LastError, "lower `ctx` or `slots`")
	wishes := memory.asked()
	require.Equal(t, int64(float64(wishes[0].Bytes)*1.15), wishes[1].Bytes)
	require.GreaterOrEqual(t, b.restarts("oom_vram"), 1.0)
}

// ORCH-3052
func TestASplitIsToldToLlamaServer(t *testing.T) {
	spec := onGPU(func(s *pool.Spec) {
		s.Mode, s.BinaryPath, s.BinaryArgs = pool.Binary, os.Args[0], []string{asServer}
		s.Device, s.TensorSplit = "1,0", []float64{3, 1}
	})
	memory := newCards(t, 24*gib, 12*gib)
	b := setup(t, func(b *bundle, o *pool.Options) { o.VRAM, o.Specs[0].ModelPath = memory, b.model(child{}) }, spec)
	info := b.await("p", is(pool.Ready))
	require.Equal(t, []int{1, 0}, info.Cards)
	require.Contains(t, info.LogTail[0], "CUDA_VISIBLE_DEVICES=1,0 ")
	require.Contains(t, info.LogTail[1], "-ngl all --fit off --tensor-split 3,1 ")
	require.Equal(t, []float64{3, 1}, memory.asked()[0].Split)
}

// ORCH-3053
func TestDriverTroubleTakesAReplicaOut(t *testing.T) {
	memory := newCards(t, 24*gib)
	var trouble atomic.Value
	trouble.Store("")
	var looks atomic.Int32
	b := setup(t, func(_ *bundle, o *pool.Options) {
		o.VRAM = memory
		o.DeviceProblems = func([]int, time.Time) (string, bool) {
			looks.Add(1)
			text := trouble.Load().(string)
			return text, strings.HasPrefix(text, "XID 79")
		}
	}, onGPU(nil))
	b.await("p", is(pool.Ready))
	trouble.Store("XID 13: an application's own fault")
	before := looks.Load()
	require.Eventually(t, func() bool { return looks.Load() > before+2 }, bound, time.Millisecond, "health checks")
	require.Equal(t, pool.Ready, b.m.Infos("p")[0].State)
	trouble.Store("XID 79: the card has fallen off the bus")
	info := b.await("p", is(pool.Backoff, pool.Failed))
	require.Contains(t, info.LastError, "the GPU driver had trouble with card 0 (XID 79: the card has fallen off the bus)")
	trouble.Store("")
	b.await("p", is(pool.Ready))
	require.GreaterOrEqual(t, b.restarts("driver_reset"), 1.0)
}

// ORCH-3053: who is told of trouble does not wait for the next health check, whatever the worker is about.
func TestTroubleTakesAReplicaOutAtOnce(t *testing.T) {
	memory := newCards(t, 24*gib, 12*gib)
	var critical atomic.Bool
	change := func(_ *bundle, o *pool.Options) {
		o.VRAM, o.HealthInterval, o.BackoffMin, o.BackoffMax = memory, time.Hour, bound, bound
		o.DeviceProblems = func([]int, time.Time) (string, bool) {
			if critical.Load() {
				return "XID 79: fallen off the bus", true
			}
			return "", false
		}
	}
	b := setup(t, change, onGPU(func(s *pool.Spec) { s.Device = "0" }))
	b.await("p", is(pool.Ready))
	lease := b.lease("p-0")
	b.m.Trouble(1)
	require.Equal(t, pool.Ready, b.m.Infos("p")[0].State, "another card's")
	critical.Store(true)
	b.m.Trouble(0)
	b.lost(lease)
	lease.Release()
	require.Contains(t, b.await("p", func(i pool.Info) bool { return i.LastError != "" }).LastError, "XID 79")
	require.EqualValues(t, 1, b.restarts("driver_reset"))

	slow := setup(t, func(b *bundle, o *pool.Options) {
		change(b, o)
		o.Specs[0].ModelPath = b.model(child{Silent: true})
	}, onGPU(func(s *pool.Spec) { s.Device = "0" }))
	slow.await("p", func(i pool.Info) bool { return i.PID != 0 })
	slow.m.Trouble(-1)
	require.Contains(t, slow.await("p", is(pool.Backoff)).LastError, "XID 79")
}

// ORCH-3053
func TestDeathsOfRealWorkersAreToldApart(t *testing.T) {
	for reason, c := range map[string]struct {
		child child
		says  string
	}{
		"missing_library": {child{Crash: "w: error while loading shared libraries: libggml.so", Code: 127}, "orchestratord libs"},
		"bad_model":       {child{Crash: "error loading model: unknown model architecture: 'x'"}, "fetch it again"},
		"oom_host":        {child{Crash: "terminate called after throwing an instance of 'std::bad_alloc'"}, "the host's memory"},
		"load_failed":     {child{Crash: "something else"}, "its last words: something else"},
	} {
		t.Run(reason, func(t *testing.T) {
			b := setup(t, func(b *bundle, o *pool.Options) {
				o.Specs[0].ModelPath, o.BackoffMin = b.model(c.child), bound
			}, plain)
			require.Contains(t, b.await("p", is(pool.Backoff)).LastError, c.says)
			require.EqualValues(t, 1, b.restarts(reason))
		})
	}
}

// ORCH-3053
func TestAKillByTheKernelIsOutOfMemory(t *testing.T) {
	var mu sync.Mutex
	kills := int64(3)
	b := setup(t, func(_ *bundle, o *pool.Options) {
		o.OOMKills = func() int64 {
			mu.Lock()
			defer mu.Unlock()
			return kills
		}
	}, plain)
	first := b.await("p", is(pool.Ready))
	mu.Lock()
	kills++
	mu.Unlock()
	require.NoError(t, unix.Kill(first.PID, unix.SIGKILL))
	info := b.await("p", func(i pool.Info) bool { return i.State == pool.Ready && i.Restarts == 1 })
	require.Contains(t, info.LastError, "the worker ran out of the host's memory")
	require.EqualValues(t, 1, b.restarts("oom_host"))
	require.NoError(t, unix.Kill(info.PID, unix.SIGKILL))
	b.await("p", func(i pool.Info) bool { return i.State == pool.Ready && i.Restarts == 2 })
	require.EqualValues(t, 1, b.restarts("exited"))
}

// ORCH-3040, ORCH-3053
func TestTheBreakerGivesUpAndARetryTakesItBack(t *testing.T) {
	b := setup(t, func(b *bundle, o *pool.Options) {
		o.Specs[0].ModelPath = b.model(child{Crash: "the tensor is missing"})
		o.BackoffMax, o.BreakerFailures = 10*time.Second, 3
	}, plain)
	info := b.await("p", is(pool.Failed))
	require.Equal(t, 2, info.Restarts)
	require.Contains(t, info.LastError, "gave up after 3 failures in 10m0s: the worker process ended (exit status 7); its last words: the tensor is missing; next try at ")
	wait := info.NextTry.Sub(info.Since)
	require.GreaterOrEqual(t, wait, 80*time.Second)
	require.LessOrEqual(t, wait, 120*time.Second)
	require.NoError(t, b.m.Retry("p"))
	b.await("p", func(i pool.Info) bool { return i.State == pool.Backoff && i.Restarts == 3 })
}

// LO-503: who plans the swaps knows what a load will ask for, before the first one and after each.
func TestWhatALoadWillAskForIsKnown(t *testing.T) {
	memory := newCards(t, 24*gib)
	memory.takes = 1000 << 20
	b := setup(t, func(_ *bundle, o *pool.Options) { o.VRAM = memory }, onGPU(func(s *pool.Spec) { s.OnDemand = true }))
	before := b.m.Infos("p")[0]
	require.Equal(t, pool.Stopped, before.State)
	require.Greater(t, before.NeedBytes, int64(300<<20))
	require.Equal(t, before.EstimateBytes, before.NeedBytes)
	require.NoError(t, b.m.Load("p"))
	b.await("p", func(i pool.Info) bool { return i.State == pool.Ready })
	require.EqualValues(t, 1050<<20, b.m.Infos("p")[0].NeedBytes, "what was observed, and a margin")
}
