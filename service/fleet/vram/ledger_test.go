// SPDX-License-Identifier: GPL-3.0-or-later

package vram

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/nvmlstub"
	"github.com/llama-orch/llama-orch/service/fleet/gpu"
	"github.com/llama-orch/llama-orch/service/task"
)

const gib = 1 << 30

// library is the path of the stand-in for NVML.
var library string

func TestMain(m *testing.M) { nvmlstub.Main(m, &library) }

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// desk is a ledger over samples made by hand.
type desk struct {
	*Ledger
	now time.Time
	inv gpu.Inventory
}

func newDesk() *desk {
	d := &desk{now: epoch}
	d.Ledger = NewLedger(LedgerOptions{
		Snapshot: func() gpu.Inventory { return d.inv }, Now: func() time.Time { return d.now }, Group: func(int) (int, bool) { return 0, false },
	})
	d.sample(nil)
	return d
}

// sample is the reference machine with processes, by card.
func (d *desk) sample(processes map[int][]gpu.Process) {
	d.now = d.now.Add(time.Second)
	d.inv = gpu.Inventory{Seq: d.inv.Seq + 1, At: d.now, Cards: []gpu.Card{
		{Index: 0, Name: "NVIDIA GeForce RTX 3090", Total: 24 * gib, Used: gib, Healthy: true},
		{Index: 1, Name: "NVIDIA GeForce RTX 3060", Total: 12 * gib, Used: gib, Healthy: true},
	}}
	for i := range d.inv.Cards {
		c := &d.inv.Cards[i]
		for _, p := range processes[i] {
			c.Processes = append(c.Processes, p)
			c.Used += p.Bytes
		}
		c.Free = c.Total - c.Used
	}
	d.now = d.now.Add(time.Second)
}

// A worker's promise gives way to what the driver shows for it, and what it held stays taken until the driver shows it gone.
// LO-501
func TestLifeOfAHolding(t *testing.T) {
	d := newDesk()
	require.NoError(t, d.reserve("a", []Share{{0, 10 * gib}}))
	require.EqualValues(t, 13*gib, d.Free(0))
	d.Spawned("a", 100)
	d.sample(map[int][]gpu.Process{0: {{PID: 100, Bytes: 4 * gib}, {PID: 7, Bytes: 2 * gib}}})
	require.EqualValues(t, 11*gib, d.Free(0), "4 of its 10 show, 2 are somebody else's")
	require.Equal(t, CardView{
		Index: 0, Name: "NVIDIA GeForce RTX 3090", Total: 24 * gib, DriverFree: 17 * gib, Promised: 6 * gib, Free: 11 * gib, Foreign: 3 * gib, Healthy: true,
		Holders: []Holder{{"a", Starting, 10 * gib, 4 * gib, 6 * gib}},
	}, d.View().Cards[0])

	require.Equal(t, []Share{{0, 4 * gib}}, d.Settle("a"))
	require.EqualValues(t, 11*gib, d.Free(0), "that sample is from before it had loaded")
	d.sample(map[int][]gpu.Process{0: {{PID: 100, Bytes: 8 * gib}, {PID: 7, Bytes: 2 * gib}}})
	require.EqualValues(t, 13*gib, d.Free(0), "it took less than was promised")
	require.EqualValues(t, 8*gib, d.Used("a", 0))
	require.Equal(t, []Share{{0, 8 * gib}}, d.Settle("a"), "settling again only tells")
	require.Equal(t, []Holder{{"a", Running, 10 * gib, 8 * gib, 0}}, d.View().Cards[0].Holders)

	d.Release("a")
	require.EqualValues(t, 13*gib, d.Free(0))
	require.NoError(t, d.reserve("a", []Share{{0, gib}}), "its next worker")
	require.EqualValues(t, 12*gib, d.Free(0))
	d.sample(map[int][]gpu.Process{0: {{PID: 100, Bytes: 3 * gib}}}) // half torn down
	require.EqualValues(t, 14*gib, d.Free(0), "of 20 free, 1 is promised and 5 are being given back")
	require.EqualValues(t, 5*gib, d.View().Cards[0].Leaving)
	require.Len(t, d.View().Cards[0].Holders, 2)
	d.sample(nil)
	require.EqualValues(t, 22*gib, d.Free(0))
	d.Release("a") // never started: back at once
	d.Release("unknown")
	d.Spawned("unknown", 5)
	require.Nil(t, d.Settle("unknown"))
	require.EqualValues(t, 23*gib, d.Free(0))
	require.Empty(t, d.pids)
	require.Empty(t, d.leaders)
}

// A driver that never shows a process gone is believed after 30 s, in what it says of its free memory.
// LO-501
func TestLeavingIsBounded(t *testing.T) {
	d := newDesk()
	require.NoError(t, d.reserve("a", []Share{{1, 8 * gib}}))
	d.Spawned("a", 100)
	d.sample(map[int][]gpu.Process{1: {{PID: 100, Bytes: 6 * gib}}})
	d.Release("a")
	released := d.now
	for d.now.Sub(released) < 28*time.Second {
		d.sample(map[int][]gpu.Process{1: {{PID: 100, Bytes: 6 * gib}}})
		require.EqualValues(t, 3*gib, d.Free(1))
	}
	d.sample(map[int][]gpu.Process{1: {{PID: 100, Bytes: 6 * gib}}})
	d.sample(map[int][]gpu.Process{1: {{PID: 100, Bytes: 6 * gib}}})
	require.EqualValues(t, 5*gib, d.Free(1))
	require.EqualValues(t, 7*gib, d.View().Cards[1].Foreign)
}

// Small models fill small cards.
// LO-501, ORCH-1103
func TestChoice(t *testing.T) {
	d := newDesk()
	for i, want := range []struct {
		bytes int64
		card  int
	}{{8 * gib, 1}, {4 * gib, 0}, {3 * gib, 1}, {gib, 0}, {18 * gib, 0}} {
		card, err := d.reserveAuto(fmt.Sprint(i), want.bytes)
		require.NoError(t, err)
		require.Equal(t, want.card, card, want)
	}
	require.Zero(t, d.Free(0))
	require.Zero(t, d.Free(1))

	d = newDesk()
	d.inv.Cards[0] = d.inv.Cards[1]
	d.inv.Cards[0].Index = 0
	card, err := d.reserveAuto("x", gib)
	require.NoError(t, err)
	require.Equal(t, 0, card, "of equal cards, the first")
}

// What cannot be had is refused in words that say what to do, and it can be told whether waiting helps.
// LO-501, ORCH-1102, ORCH-3003, ORCH-3052
func TestRefusals(t *testing.T) {
	d := newDesk()
	require.NoError(t, d.reserve("first", []Share{{0, 20 * gib}, {1, 5 * gib}}))
	auto := func(bytes int64) error {
		_, err := d.reserveAuto("x", bytes)
		return err
	}
	for _, c := range []struct {
		name  string
		do    func() error
		never bool
		cause error
		says  string
	}{
		{"auto, not now", func() error { return auto(14*gib + gib/5) }, false, nil, "a worker needs 14.2 GiB on one card, and the most that is free is 6.0 GiB on card 1 (RTX 3060): drain another pool"},
		{"auto, never", func() error { return auto(30 * gib) }, true, nil, "the largest, card 0 (RTX 3090), has 24.0 GiB in all, so waiting will not help"},
		{"one card, not now", func() error { return d.reserve("x", []Share{{0, 4 * gib}}) }, false, nil, "a worker needs 4.0 GiB on card 0 (RTX 3090), and 3.0 GiB are free there"},
		{"one card, never", func() error { return d.reserve("x", []Share{{1, 13 * gib}}) }, true, nil, "which has 12.0 GiB in all, so waiting will not help"},
		{"a split that the small card bounds", func() error { return d.reserve("x", []Share{{0, gib}, {1, 7 * gib}}) }, false, nil, "7.0 GiB on card 1 (RTX 3060), and 6.0 GiB are free there"},
		{"no such card", func() error { return d.reserve("x", []Share{{0, gib}, {2, gib}}) }, true, nil, "`device` names card 2"},
		{"no driver", func() error { d.inv.Err = "gone: do this"; defer func() { d.inv.Err = "" }(); return auto(gib) }, false, ErrNoDriver, "gone: do this"},
		{"unhealthy", func() error {
			d.sample(nil)
			d.inv.Cards[1].Healthy, d.inv.Cards[1].Problem = false, "XID 79: bad"
			return d.reserve("x", []Share{{1, gib}})
		}, false, ErrUnhealthy, "card 1 (RTX 3060) is not used for now: XID 79: bad"},
		{"auto, beside an unhealthy one", func() error { return auto(5 * gib) }, false, nil, "3.0 GiB on card 0 (RTX 3090): drain another pool, end what else holds its memory (`nvidia-smi` shows it), or lower `ctx` or `slots`; card 1 (RTX 3060) is not used for now: XID 79: bad"},
		{"auto, all unhealthy", func() error {
			d.sample(nil)
			d.inv.Cards[0].Healthy, d.inv.Cards[1].Healthy = false, false
			return auto(gib)
		}, false, ErrUnhealthy, "card 0 (RTX 3090) is not used for now"},
		{"a driver that hangs", func() error { d.now = d.now.Add(31 * time.Second); return auto(gib) }, false, ErrNoDriver, "has not told its free memory for 32 s"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.do()
			require.True(t, task.HasCode(err, task.PoolUnavailable), "%v", err)
			require.ErrorContains(t, err, c.says)
			require.Equal(t, c.never, NeverFits(err))
			if c.cause != nil {
				require.ErrorIs(t, err, c.cause)
				return
			}
			var short *ShortageError
			require.ErrorAs(t, err, &short)
			require.Equal(t, !c.never, task.AsError(err).RetryAfter > 0)
		})
	}
	require.Zero(t, d.Free(0))
	require.NotEmpty(t, d.View().Err)
	require.Zero(t, d.View().Cards[0].Free)
	require.Nil(t, d.active["x"], "a refusal promises nothing")

	d.sample(nil)
	require.True(t, task.HasCode(d.reserve("first", []Share{{0, 1}}), task.Conflict))
	for _, senseless := range [][]Share{nil, {{0, 0}}, {{0, -1}}, {{0, 1}, {0, 1}}} {
		require.True(t, task.HasCode(d.reserve("x", senseless), task.Internal))
	}
	require.True(t, task.HasCode(auto(0), task.Internal))
	require.Zero(t, d.Free(9))
}

// Real processes that claim memory of the stand-in's cards: a worker, and a child in its group.
// LO-501
func TestLedgerOverTheDriver(t *testing.T) {
	now, path := epoch, filepath.Join(t.TempDir(), "gpus")
	t.Setenv(nvmlstub.Env, path)
	require.NoError(t, nvmlstub.Reference().Write(path))
	monitor := gpu.NewMonitor(gpu.Options{LibraryPath: library, Interval: time.Hour, Now: func() time.Time { return now }})
	require.NoError(t, monitor.Start(t.Context()))
	defer func() { require.NoError(t, monitor.Stop(t.Context())) }()
	refresh := func() { require.NoError(t, monitor.Refresh(t.Context())) }
	ledger := NewLedger(LedgerOptions{Snapshot: monitor.Snapshot, Now: func() time.Time { now = now.Add(time.Millisecond); return now }})
	free := ledger.Free(1)
	require.EqualValues(t, 12*gib-200<<20, free)
	card, err := ledger.reserveAuto("a", 8*gib)
	require.NoError(t, err)
	require.Equal(t, 1, card)

	leader := sleeper(t, 0)
	ledger.Spawned("a", leader.Process.Pid)
	child := sleeper(t, leader.Process.Pid)
	require.NoError(t, nvmlstub.Claim(path, leader.Process.Pid, map[int]int64{1: 5 * gib}))
	require.NoError(t, nvmlstub.Claim(path, child.Process.Pid, map[int]int64{1: gib}))
	require.NoError(t, nvmlstub.Claim(path, os.Getpid(), map[int]int64{1: gib})) // somebody else
	refresh()
	require.Equal(t, []Share{{1, 6 * gib}}, ledger.Settle("a"))
	require.Equal(t, free-9*gib, ledger.Free(1))
	refresh()
	require.Equal(t, free-7*gib, ledger.Free(1))
	require.EqualValues(t, gib+200<<20, ledger.View().Cards[1].Foreign)

	require.NoError(t, syscall.Kill(-leader.Process.Pid, syscall.SIGKILL))
	require.Error(t, leader.Wait())
	require.Error(t, child.Wait())
	ledger.Release("a")
	require.Equal(t, free-7*gib, ledger.Free(1), "nobody has looked yet")
	refresh()
	require.Equal(t, free-gib, ledger.Free(1))
	require.Empty(t, ledger.View().Cards[1].Holders)
}

// sleeper is a process that does nothing, in a group of its own or in another's.
func sleeper(t *testing.T, group int) *exec.Cmd {
	cmd := exec.Command("sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pgid: group}
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return cmd
}

// ORCH-1102
func TestWhichMasksCanBeUsed(t *testing.T) {
	machine := gpu.Inventory{Seq: 1, Cards: []gpu.Card{{Index: 0}, {Index: 1}}}
	l := NewLedger(LedgerOptions{Snapshot: func() gpu.Inventory { return machine }})
	require.NoError(t, l.Check(Auto))
	require.NoError(t, l.Check("0,1"))
	require.ErrorContains(t, l.Check("0,"), "no list of GPU indices")
	err := l.Check("0,2")
	require.True(t, task.HasCode(err, task.PoolUnavailable))
	require.True(t, NeverFits(err))
	require.ErrorContains(t, err, "`device` names card 2, which is not in this machine, which has 2 cards")

	machine = gpu.Inventory{Err: "install the driver"}
	err = l.Check("0")
	require.True(t, task.HasCode(err, task.PoolUnavailable))
	require.ErrorIs(t, err, ErrNoDriver)
	require.False(t, NeverFits(err))
}

func TestProcessGroup(t *testing.T) {
	group, ok := processGroup(os.Getpid())
	require.True(t, ok)
	require.Equal(t, syscall.Getpgrp(), group)
	_, ok = processGroup(-1)
	require.False(t, ok)
	group, ok = groupOf([]byte("12 (a) b (c) S 1 34 5 6"))
	require.True(t, ok)
	require.Equal(t, 34, group)
	for _, odd := range []string{"", "12", "12 (a)", "12 (a) S 1", "12 (a) S 1 x 5"} {
		_, ok = groupOf([]byte(odd))
		require.False(t, ok, odd)
	}
}

func BenchmarkReserve(b *testing.B) {
	for _, n := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("beside %d", n), func(b *testing.B) {
			d := newDesk()
			for i := range n {
				require.NoError(b, d.reserve(fmt.Sprint(i), []Share{{i % 2, 1 << 20}}))
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := d.reserveAuto("x", gib); err != nil {
					b.Fatal(err)
				}
				d.Release("x")
			}
		})
	}
}
