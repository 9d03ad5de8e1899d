// SPDX-License-Identifier: GPL-3.0-or-later

package control

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/fleet/gpu"
	"github.com/llama-orch/llama-orch/service/fleet/pool"
	"github.com/llama-orch/llama-orch/service/fleet/vram"
)

// Cards is the pools' view of the cards: the VRAM ledger over the monitor's samples (LO-501).
type Cards struct {
	monitor *gpu.Monitor
	ledger  *vram.Ledger
	// Watch sets back and hurt before the monitor starts.
	back func()
	hurt func(card int)
}

// NewCards makes a Cards. Watch has to be called before Start.
func NewCards(log *zap.Logger) *Cards {
	c := &Cards{back: func() {}, hurt: func(int) {}}
	c.monitor = gpu.NewMonitor(gpu.Options{Log: log, Now: time.Now, OnEvent: c.note})
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

// Grant has the pools ask here for cards.
func (c *Cards) Grant(o *pool.Options) {
	o.CheckGPU, o.VRAM, o.DeviceProblems = c.ledger.Check, c.ledger, c.monitor.Problems
}
