// SPDX-License-Identifier: GPL-3.0-or-later

package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/fleet/gpu"
	"github.com/llama-orch/llama-orch/service/fleet/pool"
	"github.com/llama-orch/llama-orch/service/fleet/vram"
	"github.com/llama-orch/llama-orch/service/task"
)

// refreshWithin bounds a look at the cards for a reservation; what the last sample says does as well, only worse.
const refreshWithin = 2 * time.Second

// troubleKept is how many of the driver's last events are remembered.
const troubleKept = 64

// Memory is the pools' view of the cards: the VRAM ledger over the monitor's samples (LO-501).
type Memory struct {
	monitor *gpu.Monitor
	ledger  *vram.Ledger
	// back is called when a card or the driver can be used again; set before the monitor starts.
	back func()
	// hurt is called when a card, or below 0 all of them, had something critical; set before the monitor starts.
	hurt func(card int)

	mu      sync.Mutex
	trouble []gpu.Event // the newest last
}

// NewMemory makes one; Watch and Start come before its use.
func NewMemory(log *zap.Logger) *Memory {
	m := &Memory{back: func() {}, hurt: func(int) {}}
	m.monitor = gpu.NewMonitor(gpu.Options{Log: log, Now: time.Now, OnEvent: m.note})
	m.ledger = vram.NewLedger(vram.LedgerOptions{Snapshot: m.monitor.Snapshot, Now: time.Now})
	return m
}

// Watch has back called when a card or the driver can be used again, and hurt when a card, or below 0 all of them, had something
// critical. It is called before Start.
func (m *Memory) Watch(back func(), hurt func(card int)) { m.back, m.hurt = back, hurt }

// Start begins to look at the cards.
func (m *Memory) Start(ctx context.Context) { m.monitor.Start(ctx) }

// Stop joins that.
func (m *Memory) Stop() { m.monitor.Stop() }

func (m *Memory) note(e gpu.Event) {
	if e.Kind == gpu.CardBack || e.Kind == gpu.DriverBack {
		m.back()
	}
	m.remember(e)
	if e.Critical { // the pools look for the cause
		m.hurt(e.Card)
	}
}

func (m *Memory) remember(e gpu.Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.trouble = append(m.trouble, e)
	if over := len(m.trouble) - troubleKept; over > 0 {
		m.trouble = slices.Delete(m.trouble, 0, over)
	}
}

// Problems says what the driver reported of the cards since then; empty: nothing (ORCH-3053). Where it gave a number to what
// happened, that says more than what follows from it.
func (m *Memory) Problems(cards []int, since time.Time) (text string, critical bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	numbered := false
	for _, e := range slices.Backward(m.trouble) {
		back := e.Kind == gpu.DriverBack || e.Kind == gpu.CardBack
		if back || e.At.Before(since) || e.Card >= 0 && !slices.Contains(cards, e.Card) {
			continue
		}
		critical = critical || e.Critical
		if text == "" || e.XID != 0 && !numbered {
			text, numbered = e.Text, e.XID != 0
		}
	}
	return text, critical
}

// Check says why no worker could run on a device mask, whatever is free (ORCH-1102).
func (m *Memory) Check(mask string) error {
	cards, err := indices(mask)
	if err != nil {
		return err
	}
	return vram.Check(m.monitor.Snapshot(), cards...)
}

// indices are the cards of a mask; none: any one card.
func indices(mask string) (cards []int, err error) {
	if mask == "auto" {
		return nil, nil
	}
	for text := range strings.SplitSeq(mask, ",") {
		card, err := strconv.Atoi(text)
		if err != nil {
			return nil, task.Errorf(task.PoolUnavailable, "the device mask %q is no list of GPU indices: correct it", mask)
		}
		cards = append(cards, card)
	}
	return cards, nil
}

// shares deals the bytes out over the cards of a mask, by the split.
func shares(cards []int, split []float64, bytes int64) []vram.Share {
	sum := 0.0
	for _, part := range split {
		sum += part
	}
	out := make([]vram.Share, len(cards))
	for i, card := range cards {
		out[i] = vram.Share{Card: card, Bytes: bytes}
		if len(split) == len(cards) && sum > 0 {
			out[i].Bytes = int64(float64(bytes) * split[i] / sum)
		}
	}
	return out
}

// Reserve is pool.Memory's.
func (m *Memory) Reserve(owner string, wish pool.Wish) (pool.Grant, error) {
	cards, err := indices(wish.Device)
	if err != nil {
		return pool.Grant{}, err
	}
	m.refresh()
	want := shares(cards, wish.Split, wish.Bytes)
	if len(cards) == 0 {
		var card int
		card, err = m.ledger.ReserveAuto(owner, wish.Bytes)
		want = []vram.Share{{Card: card, Bytes: wish.Bytes}}
	} else {
		err = m.ledger.Reserve(owner, want)
	}
	if err != nil { // without a driver, or on too small a card, making room helps as little as waiting
		refusal := *task.AsError(err)
		refusal.Retriable = !vram.NeverFits(err) && !errors.Is(err, vram.ErrNoDriver)
		return pool.Grant{}, &refusal
	}
	inventory, grant := m.monitor.Snapshot(), pool.Grant{}
	for _, s := range want {
		c, _ := inventory.Card(s.Card)
		grant.Cards = append(grant.Cards, s.Card)
		grant.Names = append(grant.Names, cardName(c.Name, inventory.Driver))
		grant.Shares = append(grant.Shares, pool.Share(s))
	}
	return grant, nil
}

// Room is pool.Memory's.
func (m *Memory) Room(device string) (rooms []pool.Room) {
	mask, err := indices(device)
	if err != nil {
		return nil
	}
	m.refresh()
	inventory, view := m.monitor.Snapshot(), m.ledger.View()
	usable := map[int]pool.Room{}
	for _, c := range view.Cards {
		if c.Healthy && view.Err == "" {
			usable[c.Index] = pool.Room{Card: c.Index, Name: cardName(c.Name, inventory.Driver), Free: c.Free, Total: c.Total}
		}
		if len(mask) == 0 && usable[c.Index].Total > 0 {
			rooms = append(rooms, usable[c.Index])
		}
	}
	for _, card := range mask {
		if usable[card].Total == 0 {
			return nil
		}
		rooms = append(rooms, usable[card])
	}
	return rooms
}

// cardName tells what of a card and its driver can change bytes.
func cardName(name, driver string) string { return fmt.Sprintf("%s;driver %s", name, driver) }

// Spawned is pool.Memory's.
func (m *Memory) Spawned(owner string, pid int) { m.ledger.Spawned(owner, pid) }

// Settle is pool.Memory's.
func (m *Memory) Settle(owner string) (observed []pool.Share) {
	m.refresh()
	for _, s := range m.ledger.Settle(owner) {
		observed = append(observed, pool.Share(s))
	}
	return observed
}

// Release is pool.Memory's.
func (m *Memory) Release(owner string) { m.ledger.Release(owner) }

func (m *Memory) refresh() {
	ctx, stop := context.WithTimeout(context.Background(), refreshWithin)
	defer stop()
	_ = m.monitor.Refresh(ctx)
}

// free is the least that is free on the cards of a replica, in bytes.
func (m *Memory) free(cards []int) (least int64) {
	for i, card := range cards {
		if free := m.ledger.Free(card); i == 0 || free < least {
			least = free
		}
	}
	return least
}
