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

// Memory is the pools' view of the cards: the VRAM ledger over the monitor's samples (LO-501).
type Memory struct {
	monitor *gpu.Monitor
	ledger  *vram.Ledger
	// back and hurt are those of Watch, set before the monitor starts.
	back func()
	hurt func(card int)
}

// NewMemory makes a Memory. Watch has to be called before Start.
func NewMemory(log *zap.Logger) *Memory {
	m := &Memory{back: func() {}, hurt: func(int) {}}
	m.monitor = gpu.NewMonitor(gpu.Options{Log: log, Now: time.Now, OnEvent: m.note})
	m.ledger = vram.NewLedger(vram.LedgerOptions{Snapshot: m.monitor.Snapshot, Refresh: m.monitor.Refresh, Now: time.Now})
	return m
}

// Watch has back called when a card or the driver can be used again, and hurt when something critical happened to a card. A card below
// 0 stands for all of them.
func (m *Memory) Watch(back func(), hurt func(card int)) { m.back, m.hurt = back, hurt }

// Start begins to look at the cards.
func (m *Memory) Start(ctx context.Context) error { return m.monitor.Start(ctx) }

// Stop ends that.
func (m *Memory) Stop(ctx context.Context) error { return m.monitor.Stop(ctx) }

func (m *Memory) note(e gpu.Event) {
	if e.Back() {
		m.back()
	}
	if e.Critical { // the pools look for the cause
		m.hurt(e.Card)
	}
}

// Grant has the pools ask the account for cards.
func (m *Memory) Grant(o *pool.Options) {
	o.CheckGPU, o.VRAM, o.DeviceProblems = m.ledger.Check, m.ledger, m.monitor.Problems
}
