// SPDX-License-Identifier: GPL-3.0-or-later

package gpu

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/llama-orch/llama-orch/harness/nvmlstub"
)

// library is the path of the stand-in for NVML.
var library string

func TestMain(m *testing.M) { nvmlstub.Main(m, &library) }

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// lab is a monitor over the stand-in, on a clock of its own.
type lab struct {
	*Monitor
	t      *testing.T
	path   string
	state  *nvmlstub.State
	now    time.Time
	events []Event
	counts chan []Counter // what OnEnergy got
	logs   *observer.ObservedLogs
}

// newLab has the machine of reference. The monitor's ticker never comes; it is started by start, or driven by sample.
func newLab(t *testing.T) *lab {
	l := &lab{t: t, path: filepath.Join(t.TempDir(), "gpus"), state: nvmlstub.Reference(), now: epoch, counts: make(chan []Counter, 100)}
	t.Setenv(nvmlstub.Env, l.path)
	l.write()
	core, logs := observer.New(zapcore.DebugLevel)
	l.logs = logs
	l.Monitor = NewMonitor(Options{
		LibraryPath: library, Interval: time.Hour, Log: zap.New(core), Now: func() time.Time { return l.now },
		OnEvent:  func(e Event) { l.events = append(l.events, e) },
		OnEnergy: func(c []Counter) { l.counts <- c },
	})
	return l
}

func (l *lab) write() { require.NoError(l.t, l.state.Write(l.path)) }

func (l *lab) start() {
	require.NoError(l.t, l.Start(l.t.Context()))
	l.t.Cleanup(func() { require.NoError(l.t, l.Stop(context.Background())) })
}

func (l *lab) refresh() Inventory {
	l.write()
	require.NoError(l.t, l.Refresh(l.t.Context()))
	return l.Snapshot()
}

// took returns the kinds of the events since it was last called.
func (l *lab) took() (kinds []Kind) {
	for _, e := range l.events {
		kinds = append(kinds, e.Kind)
	}
	l.events = nil
	return kinds
}

// LO-504: the counters are told with each sample, soon after a look, and as none once the driver is lost.
func TestCountersOfEnergy(t *testing.T) {
	l := newLab(t)
	l.state.Cards[1].Energy = 8_123_456
	l.write()
	l.start()
	counters := func(joules float64) []Counter {
		return []Counter{{Card: 0, UUID: l.state.Cards[0].UUID, At: epoch}, {Card: 1, UUID: l.state.Cards[1].UUID, At: epoch, Joules: joules}}
	}
	require.Equal(t, counters(8123.456), <-l.counts)
	l.state.Cards[1].Energy = 8_123_457
	l.write()
	seq := l.Snapshot().Seq
	l.Look()
	require.Equal(t, counters(8123.457), <-l.counts)
	require.Equal(t, seq, l.Snapshot().Seq, "a look is no sample")
	l.state.Cards[1].Lost = true
	l.write()
	l.Look()
	require.Equal(t, counters(0), <-l.counts)

	l.state.Driver = ""
	l.refresh()
	require.Nil(t, <-l.counts)
	l.Look() // there is nothing to read
	l.state.Driver, l.state.Cards[1].Lost = "570.86.10", false
	l.refresh()
	require.Equal(t, counters(8123.457), <-l.counts)
	require.Empty(t, l.counts)
	l.state.Cards[1].Energy, l.state.Cards[1].Flow = 1, 250_000
	l.write()
	l.Look()
	first := <-l.counts
	l.Look()
	require.Greater(t, (<-l.counts)[1].Joules, first[1].Joules, "the stand-in's counter grows by itself")
}

// The real binding reads both cards, and the log says what was found.
// ORCH-1101, ORCH-1103, LO-625: a card without a counter of energy tells none.
func TestInventory(t *testing.T) {
	l := newLab(t)
	l.state.Cards[1].Util, l.state.Cards[1].Temp, l.state.Cards[1].Power = 73, 66, 151
	l.state.Cards[1].Energy = 8_123_456
	l.state.Cards[1].Processes = []nvmlstub.Process{{PID: 7, Used: 2 << 30}, {PID: 8, Used: 1 << 30}}
	l.write()
	require.Zero(t, l.Snapshot().Seq)
	require.NotEmpty(t, l.Snapshot().Err)
	l.start()
	require.Equal(t, Inventory{Seq: 1, At: epoch, Driver: "570.86.10", CUDA: "12.8", Cards: []Card{
		{
			Index: 0, UUID: l.state.Cards[0].UUID, Name: "NVIDIA GeForce RTX 3090", Total: 24 << 30, Free: 24<<30 - 300<<20, Used: 300 << 20,
			Temperature: 41, Power: 32, Healthy: true,
		},
		{
			Index: 1, UUID: l.state.Cards[1].UUID, Name: "NVIDIA GeForce RTX 3060", Total: 12 << 30, Free: 9<<30 - 200<<20, Used: 3<<30 + 200<<20,
			Utilization: 0.73, Temperature: 66, Power: 151, Energy: 8123.456, Processes: []Process{{7, 2 << 30}, {8, 1 << 30}}, Healthy: true,
		},
	}}, l.Snapshot())
	require.Equal(t, "RTX 3060", l.Snapshot().Cards[1].Short())

	found := l.logs.FilterMessage("found a GPU").All()
	require.Len(t, found, 2)
	require.Equal(t, map[string]any{
		"card": int64(0), "name": "NVIDIA GeForce RTX 3090", "uuid": l.state.Cards[0].UUID, "vram_total_bytes": int64(24 << 30),
		"vram_free_bytes": int64(24<<30 - 300<<20), "healthy": true, "driver": "570.86.10", "cuda": "12.8",
	}, found[0].ContextMap())

	l.state.Cards[1].Processes = nil
	again := l.refresh()
	require.EqualValues(t, 2, again.Seq)
	require.EqualValues(t, 200<<20, again.Cards[1].Used)
	require.Empty(t, l.took())
}

// A machine without a driver says so and what to do, and nothing stops.
// ORCH-1101, ORCH-1102
func TestNoDriver(t *testing.T) {
	core, logs := observer.New(zapcore.DebugLevel)
	m := NewMonitor(Options{LibraryPath: filepath.Join(t.TempDir(), "libnvidia-ml.so.1"), Interval: time.Hour, Log: zap.New(core)})
	require.NoError(t, m.Start(t.Context()))
	defer func() { require.NoError(t, m.Stop(t.Context())) }()
	i := m.Snapshot()
	require.Empty(t, i.Cards)
	require.Contains(t, i.Err, "apt install nvidia-driver")
	require.Equal(t, i.Err, logs.FilterMessage("no usable GPU").All()[0].ContextMap()["reason"])
	require.NoError(t, m.Refresh(t.Context()))

	l := newLab(t) // the library is there, the kernel module is not
	require.NoError(t, os.Remove(l.path))
	l.start()
	require.Contains(t, l.Snapshot().Err, "modprobe nvidia")
	l.state.Cards = nil
	require.Contains(t, l.refresh().Err, "has no card")
	l.state = nvmlstub.Reference()
	require.Len(t, l.refresh().Cards, 2)
	require.Equal(t, []Kind{DriverBack}, l.took())
}

// A driver that goes away is noticed, looked for with a growing pause, and read again when it is back.
// ORCH-3053
func TestDriverLostAndBack(t *testing.T) {
	l := newLab(t)
	defer func() { l.session.close() }()
	l.sample(true)
	l.state.XID(1, 62)
	l.write()
	l.sample(false)
	require.False(t, l.Snapshot().Cards[1].Healthy)
	require.Equal(t, []Kind{XID}, l.took())

	l.state.Driver = ""
	l.write()
	l.sample(false)
	require.Equal(t, DriverLost, l.events[0].Kind)
	require.True(t, l.events[0].Critical)
	require.Equal(t, -1, l.events[0].Card)
	require.Equal(t, []Kind{DriverLost}, l.took())
	i := l.Snapshot()
	require.Contains(t, i.Err, "do not answer")
	require.Equal(t, Card{Index: 0, UUID: l.state.Cards[0].UUID, Name: "NVIDIA GeForce RTX 3090", Total: 24 << 30, Problem: i.Err}, i.Cards[0])

	l.o.Interval = time.Second
	l.wait, l.retryAt = time.Second, l.now.Add(time.Second)
	var pauses []time.Duration
	for tried := l.now; len(pauses) < 7; l.now = l.now.Add(time.Second) {
		seq := l.Snapshot().Seq
		l.sample(false)
		if l.Snapshot().Seq > seq { // it tried
			pauses, tried = append(pauses, l.now.Sub(tried)), l.now
		}
	}
	require.Equal(t, []time.Duration{1e9, 2e9, 4e9, 8e9, 16e9, 30e9, 30e9}, pauses)
	require.Contains(t, l.Snapshot().Err, "modprobe nvidia")
	require.Empty(t, l.took())

	l.state.Driver = "570.99"
	l.write()
	l.now = l.retryAt
	l.sample(false)
	i = l.Snapshot()
	require.Empty(t, i.Err)
	require.Equal(t, "570.99", i.Driver)
	require.True(t, i.Cards[1].Healthy, "a new driver begins anew")
	require.Contains(t, l.events[0].Text, "is back")
	require.Equal(t, []Kind{DriverBack}, l.took())
}

// A critical XID keeps a card from work until it was quiet for long enough; a program's own fault does not.
// ORCH-3053
func TestXIDs(t *testing.T) {
	l := newLab(t)
	l.state.XID(0, 79) // before anybody looked: it is history
	l.write()
	l.start()
	require.True(t, l.Snapshot().Cards[0].Healthy)

	l.state.XID(1, 31)
	l.state.XID(0, 79)
	l.state.XID(1, 999)
	i := l.refresh()
	require.False(t, i.Cards[0].Healthy)
	require.Contains(t, i.Cards[0].Problem, "XID 79: the card fell off the bus: restart the machine")
	require.True(t, i.Cards[1].Healthy)
	require.EqualValues(t, 24<<30-300<<20, i.Cards[0].Free, "what it tells is still read")
	events := l.events
	require.Equal(t, []Kind{XID, XID, XID}, l.took())
	require.Equal(t, Event{
		At: epoch, Kind: XID, Card: 1, UUID: l.state.Cards[1].UUID, XID: 31, Text: "XID 31: a program accessed memory of the card that is not its own",
	}, events[0])
	require.True(t, events[1].Critical)
	require.Contains(t, events[2].Text, "XID 999: see NVIDIA's list")

	l.now = l.now.Add(5*time.Minute - time.Second)
	l.state.XID(0, 79)
	require.False(t, l.refresh().Cards[0].Healthy)
	require.Equal(t, []Kind{XID}, l.took())
	l.now = l.now.Add(5*time.Minute - time.Second)
	require.False(t, l.refresh().Cards[0].Healthy)
	l.now = l.now.Add(time.Second)
	require.True(t, l.refresh().Cards[0].Healthy)
	require.Empty(t, l.took(), "each event once")
}

// ORCH-3053
func TestMeaningsOfXIDs(t *testing.T) {
	for code, critical := range map[uint64]bool{
		13: false, 31: false, 43: false, 45: false, 48: true, 62: true, 63: false, 64: true, 74: true, 79: true, 94: false, 95: true, 119: true, 1000: false,
	} {
		text, got := xid(code)
		require.Equal(t, critical, got, code)
		require.Contains(t, text, fmt.Sprintf("XID %d: ", code))
	}
}

// ORCH-3053
func TestUncorrectableMemory(t *testing.T) {
	l := newLab(t)
	counted := int64(3)
	l.state.Cards[1].ECC = &counted
	l.write()
	l.start()
	l.state.UncorrectableECC(0)
	counted++ // counted, with no event
	i := l.refresh()
	require.False(t, i.Cards[0].Healthy)
	require.False(t, i.Cards[1].Healthy)
	require.Equal(t, []Kind{ECC, ECC}, l.took())
	counted++
	l.state.UncorrectableECC(1) // the same, told twice
	l.refresh()
	require.Equal(t, []Kind{ECC}, l.took())
	l.refresh()
	require.Empty(t, l.took())
}

// One card that falls off the bus leaves the other in service.
// ORCH-3053
func TestCardLostAndBack(t *testing.T) {
	l := newLab(t)
	l.start()
	l.state.XID(0, 62)
	l.refresh()
	l.state.XID(1, 79)
	l.state.Cards[1].Lost = true
	i := l.refresh()
	require.Empty(t, i.Err)
	require.Equal(t, []Kind{XID, XID, CardLost}, l.took())
	require.False(t, i.Cards[1].Healthy)
	require.Zero(t, i.Cards[1].Free)
	require.Equal(t, "NVIDIA GeForce RTX 3060", i.Cards[1].Name)
	require.Contains(t, i.Cards[1].Problem, "does not answer")
	l.state.Cards[0].Used = 5 << 30
	i = l.refresh()
	require.EqualValues(t, 5<<30, i.Cards[0].Used)
	require.Equal(t, "NVIDIA GeForce RTX 3060", i.Cards[1].Name, "though it does not tell it any more")
	require.Empty(t, l.took())
	l.state.Cards[1].Lost = false
	i = l.refresh()
	require.Equal(t, []Kind{CardBack}, l.took())
	require.True(t, i.Cards[1].Healthy)
	require.False(t, i.Cards[0].Healthy, "that card was not reset")
	l.state.Cards[1].Lost = true // as the whole driver goes away
	l.refresh()
	l.state.Driver = ""
	require.Contains(t, l.refresh().Err, "not loaded")
	require.Equal(t, []Kind{CardLost, DriverLost}, l.took())
	l.state.Driver = "570"
	l.state.Cards[1].Lost = false
	require.True(t, l.refresh().Cards[1].Healthy)
	require.Equal(t, []Kind{DriverBack}, l.took())
}

// The monitor samples by itself, and whoever waits for a sample is let go when it stops.
// ORCH-1101
func TestMonitorTicksAndStops(t *testing.T) {
	l := newLab(t)
	heard := make(chan Event, 1)
	m := NewMonitor(Options{LibraryPath: library, Interval: time.Millisecond, OnEvent: func(e Event) { heard <- e }})
	require.Error(t, m.Refresh(canceled(t)), "nobody samples yet")
	require.NoError(t, m.Start(t.Context()))
	require.NoError(t, m.Start(t.Context()), "once is enough")
	l.state.XID(0, 43)
	l.write()
	require.EqualValues(t, 43, (<-heard).XID)
	require.NoError(t, m.Stop(t.Context()))
	require.NoError(t, m.Stop(t.Context()))
	require.ErrorIs(t, m.Refresh(t.Context()), errStopped)
	require.Len(t, m.Snapshot().Cards, 2)

	never := NewMonitor(Options{LibraryPath: library})
	require.NoError(t, never.Stop(t.Context()))
	require.NoError(t, never.Start(t.Context()), "what was stopped before does not start")
	require.ErrorIs(t, never.Refresh(t.Context()), errStopped)
	require.Zero(t, never.Snapshot().Seq)
}

func canceled(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

func BenchmarkSnapshot(b *testing.B) {
	m := NewMonitor(Options{})
	m.publish(Inventory{Cards: make([]Card, 2)})
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if len(m.Snapshot().Cards) != 2 {
				b.Error("no cards")
			}
		}
	})
}

// LO-803: a look at the GPUs that panics leaves none that could be relied upon. The next one opens the driver anew. Whoever is told of an
// event may panic without that.
func TestALookThatPanicsIsTakenAgain(t *testing.T) {
	l := newLab(t)
	l.start()
	require.Empty(t, l.Snapshot().Err)
	wrong := 1
	l.o.Now = func() time.Time {
		if wrong--; wrong >= 0 {
			panic("index out of range")
		}
		return l.now
	}
	i := l.refresh()
	require.Contains(t, i.Err, "went wrong")
	require.NotContains(t, i.Err, "index", "that is for the log")
	require.False(t, i.Cards[0].Healthy)
	require.Equal(t, 1, l.logs.FilterMessage(stumbled).Len())
	require.Empty(t, l.refresh().Err)
	require.Len(t, l.Snapshot().Cards, 2)
	require.Equal(t, []Kind{DriverBack}, l.took())

	l.o.OnEvent = func(Event) { panic("index out of range") }
	driver := l.state.Driver
	l.state.Driver = ""
	require.NotEmpty(t, l.refresh().Err)
	require.Equal(t, 1, l.logs.FilterMessageSnippet("somebody who was told of a GPU event panicked").Len())
	l.state.Driver = driver
	require.Empty(t, l.refresh().Err)
	require.Equal(t, 1, l.logs.FilterMessage(stumbled).Len())
}
