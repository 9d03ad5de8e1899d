// SPDX-License-Identifier: GPL-3.0-or-later

// Package vram keeps account of the cards' memory. The Ledger knows who was promised how much of it, so that nothing is promised twice
// (LO-501), and chooses the card that a worker gets. Learned remembers what workers really took.
package vram

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/llama-orch/llama-orch/service/fleet/gpu"
	"github.com/llama-orch/llama-orch/service/task"
)

// LedgerOptions are what a Ledger is made from. Snapshot is needed; the rest has defaults.
type LedgerOptions struct {
	Snapshot func() gpu.Inventory // the monitor's last sample
	// Refresh makes the monitor take a sample, before a decision that rests on it. Nil: the last sample is good enough.
	Refresh func(context.Context) error
	Now     func() time.Time                   // the monitor's clock
	Group   func(pid int) (group int, ok bool) // a process's group; nil: from /proc
	// LeavingAtMost is how long the memory of an ended worker counts as taken at most, if the driver never shows it gone; 0: 30 s.
	LeavingAtMost time.Duration
	// StaleAfter is how old the last sample may be for a reservation; 0: 30 s.
	StaleAfter time.Duration
}

// Phase is how far a worker has got with its memory.
type Phase string

// The phases. Of a starting worker the promise counts, less what the driver shows of its memory already. Of a running worker only what
// the driver shows counts. What a leaving worker held counts until the driver shows it gone.
const (
	Starting Phase = "starting"
	Running  Phase = "running"
	Leaving  Phase = "leaving"
)

// Ledger keeps account of who was promised how much memory of the cards (LO-501). The free memory of a card is what the driver says,
// less what was promised, or is being given back, and does not show there yet. The ledger does not call NVML: it knows the cards from
// the monitor's last sample.
type Ledger struct {
	o LedgerOptions

	mu      sync.Mutex
	seen    gpu.Inventory       // the last usable sample
	changed bool                // the processes of the sample have to be attributed again
	active  map[string]*holding // by owner
	leaving []*holding
	pids    map[int]*holding // by process: those of Spawned, and others found in their groups
	leaders map[int]*holding // by process: those of Spawned, which may lead a group
}

// holding is the memory of one worker. The ledger's mutex guards it.
type holding struct {
	owner  string
	phase  Phase
	since  time.Time     // when the phase began
	due    map[int]int64 // by card: what was promised to a starting worker, or what a leaving one held
	shown  map[int]int64 // by card, in the last sample
	told   bool          // Spawned was called
	listed bool          // the last sample has one of its processes
	proven bool          // a sample that was taken since it runs shows what it took
}

// kept is the part of a holding on a card that the driver does not show.
func (h *holding) kept(card int) int64 {
	if h.proven {
		return 0
	}
	return max(0, h.due[card]-h.shown[card])
}

// NewLedger makes an empty ledger.
func NewLedger(o LedgerOptions) *Ledger {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Group == nil {
		o.Group = processGroup
	}
	if o.LeavingAtMost <= 0 {
		o.LeavingAtMost = 30 * time.Second
	}
	if o.StaleAfter <= 0 {
		o.StaleAfter = 30 * time.Second
	}
	return &Ledger{o: o, active: map[string]*holding{}, pids: map[int]*holding{}, leaders: map[int]*holding{}}
}

// refreshWithin bounds the wait for a new sample. After it the last one has to do.
const refreshWithin = 2 * time.Second

func (l *Ledger) refresh() {
	if l.o.Refresh == nil {
		return
	}
	ctx, stop := context.WithTimeout(context.Background(), refreshWithin)
	defer stop()
	_ = l.o.Refresh(ctx)
}

// Reserve chooses cards for the owner's next worker and promises their memory, on every card that it needs or on none. What an earlier
// worker of the owner is giving back is counted beside it. A refusal is a *task.Error that says what to do, and retriable if waiting
// may help.
func (l *Ledger) Reserve(owner string, wish Wish) (Grant, error) {
	cards, err := Cards(wish.Device)
	if err != nil {
		return Grant{}, err
	}
	l.refresh()
	want := Deal(cards, wish.Split, wish.Bytes)
	if len(cards) == 0 {
		var card int
		card, err = l.reserveAuto(owner, wish.Bytes)
		want = []Share{{Card: card, Bytes: wish.Bytes}}
	} else {
		err = l.reserve(owner, want)
	}
	if err != nil { // waiting does not help without a driver, or if no card is large enough
		refusal := *task.AsError(err)
		refusal.Retriable = !NeverFits(err) && !errors.Is(err, ErrNoDriver)
		return Grant{}, &refusal
	}
	inventory, grant := l.o.Snapshot(), Grant{}
	for _, s := range want {
		c, _ := inventory.Card(s.Card)
		grant.Cards = append(grant.Cards, s.Card)
		grant.Names = append(grant.Names, className(c.Name, inventory.Driver))
	}
	return grant, nil
}

// className names what of a card and its driver can change bytes.
func className(name, driver string) string { return fmt.Sprintf("%s;driver %s", name, driver) }

// reserve promises memory on these cards.
func (l *Ledger) reserve(owner string, want []Share) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.admit(owner); err != nil {
		return err
	}
	due := map[int]int64{}
	for _, s := range want {
		if s.Bytes <= 0 || due[s.Card] != 0 {
			return task.Errorf(task.Internal, "a reservation of %d bytes on card %d, asked for once or more, makes no sense", s.Bytes, s.Card)
		}
		due[s.Card] = s.Bytes
	}
	if len(want) == 0 {
		return task.Errorf(task.Internal, "a reservation of no card makes no sense")
	}
	cards := make([]CardView, len(want))
	for i, s := range want { // first what never fits, then what does not fit now
		at := l.find(s.Card)
		if at < 0 {
			return missing(s.Card, len(l.seen.Cards))
		}
		if cards[i] = l.card(at); s.Bytes > cards[i].Total {
			return tooLarge(s.Bytes, cards[i])
		}
	}
	for i, s := range want {
		if !cards[i].Healthy {
			return sick(cards[i])
		}
		if s.Bytes > cards[i].Free {
			return noRoom(s.Bytes, cards[i])
		}
	}
	l.promise(owner, due)
	return nil
}

// reserveAuto promises memory on one card, the smallest that holds so many bytes, and returns that.
func (l *Ledger) reserveAuto(owner string, bytes int64) (card int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.admit(owner); err != nil {
		return -1, err
	}
	if card, err = l.choose(bytes); err != nil {
		return -1, err
	}
	l.promise(owner, map[int]int64{card: bytes})
	return card, nil
}

func (l *Ledger) choose(bytes int64) (int, error) {
	if bytes <= 0 {
		return -1, task.Errorf(task.Internal, "a reservation of %d bytes makes no sense", bytes)
	}
	var most, largest, sickly *CardView
	for i := range l.seen.Cards {
		c := l.card(i)
		if largest == nil || c.Total > largest.Total {
			largest = &c
		}
		switch {
		case c.Healthy:
			if most == nil || c.Free > most.Free {
				most = &c
			}
		case sickly == nil:
			sickly = &c
		}
	}
	rooms := l.rooms()
	best := Smallest(rooms, bytes)
	if best < 0 {
		return -1, noCard(bytes, most, largest, sickly)
	}
	return rooms[best].Card, nil
}

// rooms returns the room of each card that can be used. The caller holds the mutex and has found the sample usable.
func (l *Ledger) rooms() (rooms []Room) {
	for i := range l.seen.Cards {
		if c := l.card(i); c.Healthy {
			rooms = append(rooms, Room{Card: c.Index, Name: className(c.Name, l.seen.Driver), Free: c.Free, Total: c.Total})
		}
	}
	return rooms
}

// Room tells what the cards of a device can give. A mask stands for its cards, in its order; Auto for every card that can be used. It
// returns nothing if a card of the mask cannot be used.
func (l *Ledger) Room(device string) []Room {
	mask, err := Cards(device)
	if err != nil {
		return nil
	}
	l.refresh()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.usable() != nil {
		return nil
	}
	all := l.rooms()
	if len(mask) == 0 {
		return all
	}
	rooms := make([]Room, len(mask))
	for i, card := range mask {
		at := slices.IndexFunc(all, func(r Room) bool { return r.Card == card })
		if at < 0 {
			return nil
		}
		rooms[i] = all[at]
	}
	return rooms
}

// Check says why no worker could ever run on a device, whatever is free (ORCH-1102). An unhealthy card is no reason: it may recover.
func (l *Ledger) Check(device string) error {
	cards, err := Cards(device)
	if err != nil {
		return err
	}
	i := l.o.Snapshot()
	if i.Err != "" {
		return noDriver(i.Err)
	}
	for _, index := range cards {
		if _, ok := i.Card(index); !ok {
			return missing(index, len(i.Cards))
		}
	}
	return nil
}

// Spawned says that a process works for the owner. What the driver shows for the process, and for others in the group that it leads,
// then belongs to the owner. It may be called again for further processes.
func (l *Ledger) Spawned(owner string, pid int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if h := l.active[owner]; h != nil && pid > 0 {
		l.pids[pid], l.leaders[pid] = h, h
		h.told, l.changed = true, true
	}
}

// Settle says that the owner's worker has loaded, and will take no more memory. From the next sample on only the driver's figures count.
// Settle returns what the driver shows for the owner now, or nothing if it does not tell.
func (l *Ledger) Settle(owner string) (observed []Share) {
	l.refresh()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.look()
	h := l.active[owner]
	if h == nil {
		return nil
	}
	if h.phase == Starting {
		h.phase, h.since = Running, l.o.Now()
	}
	for card, bytes := range h.shown {
		observed = append(observed, Share{card, bytes})
	}
	slices.SortFunc(observed, func(a, b Share) int { return a.Card - b.Card })
	return observed
}

// Release says that the owner's worker has ended, or was never started. What it held counts as taken until a later sample shows none of
// its processes. Release does nothing if the owner holds nothing.
func (l *Ledger) Release(owner string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.look()
	h := l.active[owner]
	if h == nil {
		return
	}
	delete(l.active, owner)
	if !h.told { // no process was started for it
		return
	}
	held := map[int]int64{}
	if !h.proven {
		held = h.due
	}
	for card, bytes := range h.shown {
		held[card] = max(held[card], bytes)
	}
	h.phase, h.since, h.due, h.proven = Leaving, l.o.Now(), held, false
	l.leaving = append(l.leaving, h)
}

// Free is the least that can be promised on any of the cards. It is 0 if one is unhealthy or missing, and without a driver.
func (l *Ledger) Free(cards ...int) (least int64) {
	if len(cards) == 0 { // of a replica on the CPU, at each look at the replicas
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.usable() != nil {
		return 0
	}
	for i, card := range cards {
		at := l.find(card)
		if at < 0 {
			return 0
		}
		if free := l.card(at).Free; i == 0 || free < least {
			least = free
		}
	}
	return least
}

// Used is what the driver shows for an owner on a card.
func (l *Ledger) Used(owner string, card int) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.look()
	if h := l.active[owner]; h != nil {
		return h.shown[card]
	}
	return 0
}

// admit returns nil if the owner may ask for memory now.
func (l *Ledger) admit(owner string) error {
	if err := l.usable(); err != nil {
		return err
	}
	if l.active[owner] != nil {
		return task.Errorf(task.Conflict, "'%s' holds memory already: release it first, or reserve for its new worker under another name", owner)
	}
	return nil
}

func (l *Ledger) promise(owner string, due map[int]int64) {
	l.active[owner] = &holding{owner: owner, phase: Starting, since: l.o.Now(), due: due, shown: map[int]int64{}}
}

// usable looks at the last sample, and says why no reservation can rest on it.
func (l *Ledger) usable() error {
	now, i := l.look()
	if i.Err != "" {
		return noDriver(i.Err)
	}
	if len(i.Cards) == 0 {
		return noDriver("the NVIDIA driver has no card: look at `nvidia-smi` and `lspci`")
	}
	if age := now.Sub(i.At); age > l.o.StaleAfter {
		return stale(age)
	}
	return nil
}

// look takes over the last sample: whose memory it shows, and who has left.
func (l *Ledger) look() (now time.Time, i gpu.Inventory) {
	now, i = l.o.Now(), l.o.Snapshot()
	if i.Err == "" && i.Seq > 0 && (l.changed || i.Seq != l.seen.Seq) {
		l.seen, l.changed = i, false
		l.attribute()
	}
	l.leaving = slices.DeleteFunc(l.leaving, func(h *holding) bool {
		left := l.seen.At.After(h.since) && !h.listed || now.Sub(h.since) > l.o.LeavingAtMost
		if left {
			l.forget(h)
		}
		return left
	})
	return now, i
}

// attribute finds out to which holdings the processes of the last sample belong.
func (l *Ledger) attribute() {
	for _, h := range l.active {
		clear(h.shown)
		h.listed = false
		h.proven = h.proven || h.phase == Running && l.seen.At.After(h.since)
	}
	for _, h := range l.leaving {
		clear(h.shown)
		h.listed = false
	}
	listed := map[int]bool{} // those of ours
	for _, c := range l.seen.Cards {
		for _, p := range c.Processes {
			if h := l.whose(p.PID); h != nil {
				h.shown[c.Index] += p.Bytes
				h.listed, listed[p.PID] = true, true
			}
		}
	}
	for pid := range l.pids { // a pid that is not in use may be given to somebody else
		if !listed[pid] && l.leaders[pid] == nil {
			delete(l.pids, pid)
		}
	}
}

// whose finds the holding that a process works for. A process that was found by its group is remembered as long as it is listed,
// because a process that is ending has no group any more.
func (l *Ledger) whose(pid int) *holding {
	if h := l.pids[pid]; h != nil {
		return h
	}
	if len(l.leaders) == 0 {
		return nil
	}
	if group, ok := l.o.Group(pid); ok && l.leaders[group] != nil {
		l.pids[pid] = l.leaders[group]
		return l.pids[pid]
	}
	return nil
}

func (l *Ledger) forget(h *holding) {
	for _, m := range []map[int]*holding{l.pids, l.leaders} {
		for pid, other := range m {
			if other == h {
				delete(m, pid)
			}
		}
	}
}

// find returns the place of a card in the last sample, or -1.
func (l *Ledger) find(card int) int {
	return slices.IndexFunc(l.seen.Cards, func(c gpu.Card) bool { return c.Index == card })
}

// card is the account of the card at a place of the last sample, without its holders.
func (l *Ledger) card(at int) CardView {
	c := &l.seen.Cards[at]
	v := CardView{
		Index: c.Index, Name: c.Name, Total: c.Total, DriverFree: c.Free, Foreign: c.Used, Healthy: c.Healthy, Problem: c.Problem,
	}
	for _, h := range l.active {
		v.Promised += h.kept(c.Index)
		v.Foreign -= h.shown[c.Index]
	}
	for _, h := range l.leaving {
		v.Leaving += h.kept(c.Index)
		v.Foreign -= h.shown[c.Index]
	}
	v.Foreign = max(0, v.Foreign)
	if v.Healthy {
		v.Free = max(0, v.DriverFree-v.Promised-v.Leaving)
	}
	return v
}
