// SPDX-License-Identifier: GPL-3.0-or-later

package control

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/config"
	"github.com/llama-orch/llama-orch/service/fleet/energy"
	"github.com/llama-orch/llama-orch/service/fleet/gpu"
	"github.com/llama-orch/llama-orch/service/fleet/pool"
	"github.com/llama-orch/llama-orch/service/fleet/vram"
	"github.com/llama-orch/llama-orch/service/flow/scheduler"
)

// Cards is the pools' view of the cards: the VRAM ledger over the monitor's samples (LO-501).
type Cards struct {
	monitor *gpu.Monitor
	ledger  *vram.Ledger
	meter   *energy.Meter
	// Watch sets back and hurt before the monitor starts.
	back func()
	hurt func(card int)
}

// NewCards makes a Cards. Watch has to be called before Start.
func NewCards(log *zap.Logger, prices config.Energy) *Cards {
	c := &Cards{back: func() {}, hurt: func(int) {}}
	c.meter = energy.New(energy.Options{Look: func() { c.monitor.Look() }, Tariff: tariff(prices)})
	c.monitor = gpu.NewMonitor(gpu.Options{Log: log, Now: time.Now, OnEvent: c.note, OnEnergy: c.count})
	c.ledger = vram.NewLedger(vram.LedgerOptions{Snapshot: c.monitor.Snapshot, Refresh: c.monitor.Refresh, Now: time.Now})
	return c
}

// Watch has back called when a card or the driver can be used again, and hurt when something critical happened to a card. A card below
// 0 stands for all of them.
func (c *Cards) Watch(back func(), hurt func(card int)) { c.back, c.hurt = back, hurt }

// Start begins to look at the cards.
func (c *Cards) Start(ctx context.Context) error { return c.monitor.Start(ctx) }

// Stop ends that.
func (c *Cards) Stop(ctx context.Context) error { return c.monitor.Stop(ctx) }

func (c *Cards) note(e gpu.Event) {
	if e.Back() {
		c.back()
	}
	if e.Critical { // the pools look for the cause
		c.hurt(e.Card)
	}
}

func (c *Cards) count(counters []gpu.Counter) {
	readings := make([]energy.Reading, len(counters))
	for i, counter := range counters {
		readings[i] = energy.Reading(counter)
	}
	c.meter.Take(readings)
}

// tariff is what electricity costs by a configuration.
func tariff(c config.Energy) energy.Tariff {
	t := energy.Tariff{PerKWh: c.PricePerKWh}
	if c.Night.From != "" {
		t.NightPerKWh, t.NightFrom, t.NightTo = c.Night.PricePerKWh, config.Clock(c.Night.From), config.Clock(c.Night.To)
	}
	return t
}

// Meter tells the scheduler what the cards take for tasks (LO-504).
func (c *Cards) Meter() scheduler.Meter { return meter{c.meter} }

type meter struct{ *energy.Meter }

func (m meter) Begin(cards []int, now time.Time) scheduler.Use {
	if u := m.Meter.Begin(cards, now); u != nil {
		return u
	}
	return nil
}

// Grant has the pools ask here for cards.
func (c *Cards) Grant(o *pool.Options) {
	o.CheckGPU, o.VRAM, o.DeviceProblems = c.ledger.Check, c.ledger, c.monitor.Problems
}
