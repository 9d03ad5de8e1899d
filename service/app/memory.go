// SPDX-License-Identifier: GPL-3.0-or-later

package app

import (
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/fleet/gpu"
	"github.com/llama-orch/llama-orch/service/fleet/vram"
)

// memory is the account of the cards' memory over the monitor's samples (LO-501).
type memory struct {
	monitor *gpu.Monitor
	ledger  *vram.Ledger
	// back is called when a card or the driver can be used again; set before the monitor starts.
	back func()
	// hurt is called when a card, or below 0 all of them, had something critical; set before the monitor starts.
	hurt func(card int)
}

func newMemory(log *zap.Logger) *memory {
	m := &memory{back: func() {}, hurt: func(int) {}}
	m.monitor = gpu.NewMonitor(gpu.Options{Log: log, Now: time.Now, OnEvent: m.note})
	m.ledger = vram.NewLedger(vram.LedgerOptions{Snapshot: m.monitor.Snapshot, Refresh: m.monitor.Refresh, Now: time.Now})
	return m
}

func (m *memory) note(e gpu.Event) {
	if e.Back() {
		m.back()
	}
	if e.Critical { // the pools look for the cause
		m.hurt(e.Card)
	}
}
