// SPDX-License-Identifier: GPL-3.0-or-later

// Package vram keeps account of the cards' memory: who was promised how much of it, so that none of it is promised twice (LO-501), which
// card a worker gets, and what workers were seen to take.
package vram

import (
	"cmp"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/llama-orch/llama-orch/service/fleet/gpu"
	"github.com/llama-orch/llama-orch/service/task"
)

// Share is memory on one card, in bytes.
type Share struct {
	Card  int
	Bytes int64
}

// LedgerOptions of a ledger. Snapshot is needed, the rest has defaults.
type LedgerOptions struct {
	Snapshot func() gpu.Inventory               // the monitor's
	Now      func() time.Time                   // the monitor's clock
	Group    func(pid int) (group int, ok bool) // a process's group; nil: from /proc
	// LeavingAtMost bounds how long memory of an ended worker counts as taken where the driver never shows it gone; 0: 30 s.
	LeavingAtMost time.Duration
	// StaleAfter is how old the last sample may be for a reservation; 0: 30 s.
	StaleAfter time.Duration
}

// Phase is where a holding is on its way.
type Phase string

// The phases. While starting, a worker's promise counts as far as the driver does not show its memory yet; running, what the
// driver shows counts alone; leaving, what it held counts until the driver shows it gone.
const (
	Starting Phase = "starting"
	Running  Phase = "running"
	Leaving  Phase = "leaving"
)

// Ledger keeps account of who was promised how much memory of the cards (LO-501). The free memory of a card is what the driver
// says, less what was promised or is being given back and does not show there. It is bookkeeping alone: it asks nothing of
// NVML, and refuses on the last sample, so refresh the monitor before a reservation that matters.
type Ledger struct {
	o LedgerOptions

	mu      sync.Mutex
	seen    gpu.Inventory       // the last usable sample
	changed bool                // what the sample shows has to be told apart anew
	active  map[string]*holding // by owner
	leaving []*holding
	pids    map[int]*holding // processes told, or found in the group of one
	leaders map[int]*holding // processes told, which may lead a group
}

// holding is one worker's memory. Guarded by the ledger's mutex.
type holding struct {
	owner  string
	phase  Phase
	since  time.Time     // when the phase began
	due    map[int]int64 // starting: promised; leaving: held; by card
	shown  map[int]int64 // by card, in the last sample
	told   bool          // of a process
	listed bool          // the last sample has one of its processes
	proven bool          // running: a sample taken since shows what it took
}

// kept is what the driver does not show of a holding on a card.
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

// Reserve promises memory to an owner, on every card asked for or on none. The owner is one worker: what an earlier worker
// of the same owner is giving back counts beside it. A refusal is a *task.Error that says what to do; see NeverFits.
func (l *Ledger) Reserve(owner string, want []Share) error {
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
	for i, s := range want { // what never fits is told before what does not fit now
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

// ReserveAuto promises memory to an owner on one card, and returns that: of the healthy cards that hold so many bytes, the
// one with the least free memory, then the lowest index. Small models so fill small cards, and large cards stay free for large
// models.
func (l *Ledger) ReserveAuto(owner string, bytes int64) (card int, err error) {
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
	var best, most, largest, sickly *CardView
	for i := range l.seen.Cards {
		c := l.card(i)
		if largest == nil || c.Total > largest.Total {
			largest = &c
		}
		if !c.Healthy {
			if sickly == nil {
				sickly = &c
			}
			continue
		}
		if most == nil || c.Free > most.Free {
			most = &c
		}
		if c.Free >= bytes && (best == nil || c.Free < best.Free) {
			best = &c
		}
	}
	if best == nil {
		return -1, noCard(bytes, most, largest, sickly)
	}
	return best.Index, nil
}

// Spawned says that a process works for the owner. What the driver shows for it, or for another of the process group it
// leads, is the owner's. It may be called again for further processes.
func (l *Ledger) Spawned(owner string, pid int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if h := l.active[owner]; h != nil && pid > 0 {
		l.pids[pid], l.leaders[pid] = h, h
		h.told, l.changed = true, true
	}
}

// Settle says that the owner's worker has loaded: it takes no more than it has. From the first sample taken after this call the
// driver's figures alone count. It returns what the last sample shows for the owner; refresh the monitor before to learn
// what the worker really took.
func (l *Ledger) Settle(owner string) (observed []Share) {
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

// Release says that the owner's worker ended, or was never started. What it held counts as taken until a sample taken after
// this call shows none of its processes. It does nothing for an owner that holds nothing.
func (l *Ledger) Release(owner string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.look()
	h := l.active[owner]
	if h == nil {
		return
	}
	delete(l.active, owner)
	if !h.told { // nobody was ever started for it
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

// Free is what can be promised on a card: 0 on one that is unhealthy or not there, or while there is no driver.
func (l *Ledger) Free(card int) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.usable() != nil {
		return 0
	}
	at := l.find(card)
	if at < 0 {
		return 0
	}
	return l.card(at).Free
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

// admit returns nil where the owner may ask for memory now.
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

// usable takes notice of the last sample, and says why it cannot be reserved upon.
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

// look takes notice of the last sample: whose memory it shows, and what has left.
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

// attribute tells whose the processes of the last sample are.
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
	for pid := range l.pids { // a number that is not in use may become somebody else's
		if !listed[pid] && l.leaders[pid] == nil {
			delete(l.pids, pid)
		}
	}
}

// whose finds the holding that a process works for. One found by its group is remembered while it is listed: as it ends, it
// tells its group no more.
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

// find returns where a card stands in the last sample, or -1.
func (l *Ledger) find(card int) int {
	return slices.IndexFunc(l.seen.Cards, func(c gpu.Card) bool { return c.Index == card })
}

// card is the account of one card, by where it stands in the last sample, without its holders.
func (l *Ledger) card(at int) CardView {
	c := &l.seen.Cards[at]
	v := CardView{
		Index: c.Index, UUID: c.UUID, Name: c.Name, Total: c.Total, DriverFree: c.Free, Foreign: c.Used, Healthy: c.Healthy, Problem: c.Problem,
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

// View is the ledger as it stands.
type View struct {
	At    time.Time // of the sample it rests on
	Err   string    // why nothing can be reserved now; empty: it can
	Cards []CardView
}

// CardView is the account of one card, in bytes. Free is what can be promised: DriverFree less Promised and Leaving, never below
// 0, and 0 while the card is unhealthy or nothing can be reserved.
type CardView struct {
	Index      int
	UUID       string
	Name       string
	Total      int64
	DriverFree int64
	Promised   int64 // to workers that start, as far as the driver does not show it
	Leaving    int64 // held by workers that ended, as far as the driver does not show it
	Free       int64
	Foreign    int64 // what others use, with what the driver keeps for itself
	Healthy    bool
	Problem    string
	Holders    []Holder // by owner; the one that runs before the ones that leave
}

// Holder is one worker's part of a card, in bytes.
type Holder struct {
	Owner string
	Phase Phase
	Due   int64 // promised, or held when it ended
	Shown int64 // by the driver
	Kept  int64 // counted beside what the driver shows
}

func (c CardView) name() string {
	index := "card " + strconv.Itoa(c.Index)
	if c.Name == "" {
		return index
	}
	return index + " (" + gpu.Card{Name: c.Name}.Short() + ")"
}

// View shows who holds what.
func (l *Ledger) View() View {
	l.mu.Lock()
	defer l.mu.Unlock()
	v := View{}
	if err := l.usable(); err != nil {
		v.Err = task.AsError(err).Message
	}
	v.At = l.seen.At
	for i := range l.seen.Cards {
		c := l.card(i)
		if v.Err != "" {
			c.Free = 0
		}
		for _, h := range l.active {
			c.hold(h)
		}
		for _, h := range l.leaving {
			c.hold(h)
		}
		slices.SortStableFunc(c.Holders, func(a, b Holder) int {
			return cmp.Or(cmp.Compare(a.Owner, b.Owner), cmp.Compare(rank(a.Phase), rank(b.Phase)))
		})
		v.Cards = append(v.Cards, c)
	}
	return v
}

func rank(p Phase) int {
	if p == Leaving {
		return 1
	}
	return 0
}

func (c *CardView) hold(h *holding) {
	held := Holder{Owner: h.owner, Phase: h.phase, Due: h.due[c.Index], Shown: h.shown[c.Index], Kept: h.kept(c.Index)}
	if held.Due > 0 || held.Shown > 0 {
		c.Holders = append(c.Holders, held)
	}
}
