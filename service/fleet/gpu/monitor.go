// SPDX-License-Identifier: GPL-3.0-or-later

package gpu

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/contain"
	"github.com/llama-orch/llama-orch/service/lifecycle"
)

// Options of a monitor. All have defaults.
type Options struct {
	LibraryPath  string        // of NVML; empty: where the loader finds libnvidia-ml.so.1
	Interval     time.Duration // between samples; 0: 1 s
	HealthyAfter time.Duration // how long a card stays unhealthy after its last critical event; 0: 5 min
	Log          *zap.Logger
	Now          func() time.Time
	// OnEvent is called in the monitor's goroutine, once Snapshot has the sample of the event and Problems knows of it. It must return
	// soon, and must not call Refresh or Stop.
	OnEvent func(Event)
	// OnEnergy is called in the monitor's goroutine with what the cards' counters say: with each sample, soon after each Look, and, with none, when
	// the driver is lost. It must return soon.
	OnEnergy func([]Counter)
}

// The longest waits: between two tries to get the driver back, and in Stop for a call of NVML that hangs.
const (
	longestWait = 30 * time.Second
	stopWithin  = 5 * time.Second
)

var errStopped = errors.New("the GPU monitor is stopped")

var _ lifecycle.Service = (*Monitor)(nil)

// Monitor samples the GPUs. Only one goroutine calls NVML. What it found is read without a lock.
type Monitor struct {
	o Options
	trouble
	current  atomic.Pointer[Inventory]
	requests chan chan struct{}
	looks    chan struct{} // capacity 1: somebody wants the counters of energy
	life     lifecycle.Life
	over     sync.Once
	done     chan struct{} // closed once no more samples are taken

	// What follows belongs to the goroutine.
	lib     nvml.Interface
	session *session
	wait    time.Duration // until the next try to get back what is lost
	retryAt time.Time
	had     bool            // there has been a driver
	marks   map[string]mark // by UUID
	gone    map[int]bool    // the cards of this session that do not answer
}

// mark says why a card gets no work.
type mark struct {
	text string
	at   time.Time // of the last event
}

// NewMonitor makes a monitor that has not looked yet.
func NewMonitor(o Options) *Monitor {
	if o.Interval <= 0 {
		o.Interval = time.Second
	}
	if o.HealthyAfter <= 0 {
		o.HealthyAfter = 5 * time.Minute
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.OnEvent == nil {
		o.OnEvent = func(Event) {}
	}
	if o.OnEnergy == nil {
		o.OnEnergy = func([]Counter) {}
	}
	var options []nvml.LibraryOption
	if o.LibraryPath != "" {
		options = append(options, nvml.WithLibraryPath(o.LibraryPath))
	}
	m := &Monitor{
		o: o, requests: make(chan chan struct{}), looks: make(chan struct{}, 1), done: make(chan struct{}), lib: nvml.New(options...), marks: map[string]mark{}, gone: map[int]bool{},
	}
	m.current.Store(&Inventory{Err: "nobody has looked for GPUs yet: try again in a moment"})
	return m
}

// Start begins to sample, and returns after the first sample or when ctx ends. If there is no driver, that is no error: the inventory and
// the log say so, and the monitor goes on looking for one (ORCH-1101).
func (m *Monitor) Start(ctx context.Context) error {
	first := make(chan struct{})
	opened := sync.OnceFunc(func() { close(first) })
	if !m.life.Begin() || !m.life.Go(func(ctx context.Context) {
		contain.Loop(ctx, m.o.Log, stumbled, func(ctx context.Context) { m.run(ctx, opened) })
		contain.Each(m.o.Log, stumbled, []func(){opened, m.shut, m.end})
	}) {
		return nil
	}
	select {
	case <-first:
	case <-ctx.Done():
	}
	return nil
}

// Stop ends the sampling and joins the goroutine. If the driver hangs in a call, Stop gives up after 5 s.
func (m *Monitor) Stop(ctx context.Context) error {
	bounded, enough := context.WithTimeout(ctx, stopWithin)
	defer enough()
	if err := m.life.End(bounded, errStopped); err != nil {
		m.o.Log.Warn("the NVIDIA driver hangs in a call and is left to itself")
	}
	m.end()
	return nil
}

func (m *Monitor) end() { m.over.Do(func() { close(m.done) }) }

// Snapshot is what the last sample found.
func (m *Monitor) Snapshot() Inventory { return *m.current.Load() }

// Refresh takes a sample now, for which it also looks for a lost driver. It returns once Snapshot has a sample that began after the call.
func (m *Monitor) Refresh(ctx context.Context) error {
	sampled := make(chan struct{})
	select {
	case m.requests <- sampled:
	case <-m.done:
		return errStopped
	case <-ctx.Done():
		return fmt.Errorf("wait for a sample of the GPUs: %w", ctx.Err())
	}
	select {
	case <-sampled:
		return nil
	case <-m.done:
		return errStopped
	case <-ctx.Done():
		return fmt.Errorf("wait for a sample of the GPUs: %w", ctx.Err())
	}
}

// Look asks for the cards' counters of energy, which OnEnergy gets soon from a reading that begins after the call. It does not wait.
func (m *Monitor) Look() {
	select {
	case m.looks <- struct{}{}:
	default: // somebody else has asked, and that reading has not begun
	}
}

// stumbled is what the log says where a look at the GPUs panicked. Until the next one succeeds there is no usable GPU.
const stumbled = "a look at the GPUs panicked, and is tried again"

// shut closes the session, if there is one.
func (m *Monitor) shut() {
	s := m.session
	m.session = nil // also if the close panics
	if s != nil {
		_ = contain.Do(m.o.Log, stumbled, s.close) // the driver forgets it then when the process ends
	}
}

func (m *Monitor) run(ctx context.Context, opened func()) {
	m.sampleSafely(true)
	m.introduce()
	opened()
	ticker := time.NewTicker(m.o.Interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			m.sampleSafely(false)
		case <-m.looks:
			m.safely(func() {
				if m.session != nil {
					m.count()
				}
			})
		case sampled := <-m.requests:
			waiting := []chan struct{}{sampled}
			for more := true; more; { // one sample is enough for all who wait
				select {
				case sampled := <-m.requests:
					waiting = append(waiting, sampled)
				default:
					more = false
				}
			}
			m.sampleSafely(true)
			for _, sampled := range waiting {
				close(sampled)
			}
		}
	}
}

// sampleSafely takes a sample.
func (m *Monitor) sampleSafely(urgent bool) { m.safely(func() { m.sample(urgent) }) }

// safely looks at the cards. Where that panics, nobody relies on what is known of them until a new session knows better.
func (m *Monitor) safely(look func()) {
	if contain.Do(m.o.Log, stumbled, look) == nil {
		return
	}
	m.wait = min(max(2*m.wait, m.o.Interval), longestWait)
	if m.session != nil { // it is the first time
		m.wait = m.o.Interval
	}
	m.shut()
	now := m.o.Now()
	m.gone, m.retryAt = map[int]bool{}, now.Add(m.wait)
	m.without(now, "something went wrong inside the orchestrator while it looked at the GPUs, and it tries again: its log has the cause")
}

// introduce logs what was found at start (ORCH-1101).
func (m *Monitor) introduce() {
	i := m.Snapshot()
	if i.Err != "" {
		m.o.Log.Info("no usable GPU", zap.String("reason", i.Err))
		return
	}
	for _, c := range i.Cards {
		m.o.Log.Info("found a GPU", zap.Int("card", c.Index), zap.String("name", c.Name), zap.String("uuid", c.UUID),
			zap.Int64("vram_total_bytes", c.Total), zap.Int64("vram_free_bytes", c.Free), zap.Bool("healthy", c.Healthy),
			zap.String("driver", i.Driver), zap.String("cuda", i.CUDA))
	}
}

// sample takes one sample and publishes it. It looks for what is lost if that is due, or if it is urgent.
func (m *Monitor) sample(urgent bool) {
	now := m.o.Now()
	var events []Event
	if due := urgent || !now.Before(m.retryAt); due && (m.session == nil || len(m.gone) > 0) {
		events = m.reopen(now)
	}
	if m.session != nil {
		events = append(events, m.read(now)...)
	}
	for _, e := range events {
		log := m.o.Log.Info
		if e.Critical || e.Kind == XID {
			log = m.o.Log.Warn
		}
		log("GPU event", zap.String("kind", string(e.Kind)), zap.Int("card", e.Card), zap.String("uuid", e.UUID), zap.Uint64("xid", e.XID),
			zap.Bool("critical", e.Critical), zap.String("text", e.Text))
		m.remember(e)
		_ = contain.Do(m.o.Log, "somebody who was told of a GPU event panicked", func() { m.o.OnEvent(e) }) // the others go on
	}
}

func (m *Monitor) publish(i Inventory) {
	i.Seq = m.current.Load().Seq + 1
	m.current.Store(&i)
}

// reopen initialises NVML again, because there is no session, or a card of it does not answer.
func (m *Monitor) reopen(now time.Time) (events []Event) {
	lost := m.session == nil
	if !lost {
		for _, h := range m.session.happened() { // a new session would not know of them
			events = append(events, m.note(now, m.session.known[h.card], h.xid))
		}
		m.session.close()
		m.session = nil
	}
	before := m.current.Load()
	opened, ret := open(m.lib, before.Cards)
	m.wait = min(max(2*m.wait, m.o.Interval), longestWait)
	m.retryAt = now.Add(m.wait)
	if ret != nvml.SUCCESS {
		m.gone = map[int]bool{}
		if !lost {
			return append(events, m.lose(now, ret))
		}
		m.without(now, useless(ret))
		return nil
	}
	m.session = opened
	if !lost {
		maps.DeleteFunc(m.gone, func(i int, _ bool) bool { return i >= len(opened.devices) })
		return events // read finds out which of the cards are back
	}
	m.marks = map[string]mark{}
	if before.Seq > 0 { // there was no driver at the start, or it has been lost since
		text := fmt.Sprintf("the NVIDIA driver %s is there, with %d cards", opened.driver, len(opened.devices))
		if m.had {
			text = fmt.Sprintf("the NVIDIA driver %s is back, with %d cards", opened.driver, len(opened.devices))
		}
		events = append(events, Event{At: now, Kind: DriverBack, Card: -1, Text: text})
	}
	m.had = true
	return events
}

// lose notes that the driver is gone.
func (m *Monitor) lose(now time.Time, ret nvml.Return) Event {
	text := useless(ret)
	m.wait, m.retryAt = m.o.Interval, now.Add(m.o.Interval)
	m.without(now, text)
	return Event{At: now, Kind: DriverLost, Card: -1, Critical: true, Text: text}
}

// without publishes that there is no driver. The cards that it had stay visible, but nobody can use them.
func (m *Monitor) without(now time.Time, why string) {
	i := Inventory{At: now, Err: why}
	for _, c := range m.current.Load().Cards {
		i.Cards = append(i.Cards, Card{Index: c.Index, UUID: c.UUID, Name: c.Name, Total: c.Total, Problem: why})
	}
	m.publish(i)
	m.told(nil)
}

// count reads the counters of energy, and tells of them.
func (m *Monitor) count() []Counter {
	counters := m.session.counters(m.o.Now)
	m.told(counters)
	return counters
}

func (m *Monitor) told(counters []Counter) {
	_ = contain.Do(m.o.Log, "somebody who was told of the cards' energy panicked", func() { m.o.OnEnergy(counters) }) // the look goes on
}

// read samples the session's cards and takes their events.
func (m *Monitor) read(now time.Time) []Event {
	s := m.session
	happened := s.happened()
	cards, lost, ret := s.read()
	var events []Event
	for _, h := range happened {
		events = append(events, m.note(now, s.known[h.card], h.xid))
	}
	if ret != nvml.SUCCESS {
		s.close()
		m.session, m.gone = nil, map[int]bool{}
		return append(events, m.lose(now, ret))
	}
	for i := range cards {
		c := &cards[i]
		why, isLost := lost[i]
		switch {
		case isLost && !m.gone[i]:
			m.gone[i], m.wait, m.retryAt = true, m.o.Interval, now.Add(m.o.Interval)
			events = append(events, Event{At: now, Kind: CardLost, Card: i, UUID: c.UUID, Critical: true, Text: silent(why)})
		case !isLost && m.gone[i]:
			delete(m.gone, i)
			delete(m.marks, c.UUID) // it was initialised again
			events = append(events, Event{At: now, Kind: CardBack, Card: i, UUID: c.UUID, Text: "the card answers the driver again"})
		}
		if mark, ok := m.marks[c.UUID]; ok && now.Sub(mark.at) >= m.o.HealthyAfter {
			delete(m.marks, c.UUID)
		} else if ok {
			c.Healthy, c.Problem = false, mark.text
		}
		if isLost {
			c.Healthy, c.Problem = false, silent(why)
		}
	}
	for i, counter := range m.count() {
		cards[i].Energy = counter.Joules
	}
	m.publish(Inventory{At: now, Driver: s.driver, CUDA: s.cuda, Cards: slices.Clip(cards)})
	return events
}

// note makes an event of what happened to a card, and marks the card if it must get no more work.
func (m *Monitor) note(now time.Time, c Card, code uint64) Event {
	e := Event{At: now, Kind: XID, Card: c.Index, UUID: c.UUID, XID: code}
	if code == 0 {
		e.Kind, e.Critical = ECC, true
		e.Text = "the card's memory had an error that it could not correct: reset the card with `nvidia-smi --gpu-reset`, or restart the machine"
	} else {
		e.Text, e.Critical = xid(code)
	}
	if e.Critical {
		m.marks[c.UUID] = mark{e.Text, now}
	}
	return e
}
