// SPDX-License-Identifier: GPL-3.0-or-later

// Package lease keeps the queues of a daemon's pools, where several daemons share a ledger (LO-711). A Keeper announces the daemon, claims what pools nobody
// holds, and knows the other daemons and what they hold.
package lease

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/contain"
	"github.com/llama-orch/llama-orch/service/lifecycle"
	"github.com/llama-orch/llama-orch/service/record/ledger"
	"github.com/llama-orch/llama-orch/service/task"
)

// Ledger is what the daemons share.
type Ledger interface {
	ledger.Shared

	Claim(ctx context.Context, by task.Host) (ledger.Claim, error)
}

// Options are what a Keeper is made from.
type Options struct {
	Ledger Ledger
	// Self is this daemon as it is now.
	Self func() task.Host
	// Took is given what a claim has brought, before anybody hears that its pools are held. No two calls of it run at a time.
	Took func(ledger.Claim)
	// Lease is how long a daemon holds its pools after it was last heard of. The others are looked at eight times in that.
	Lease time.Duration
	// Alone says why this daemon must not share the ledger with others that are up; empty: it may.
	Alone   string
	Metrics *Metrics
	Log     *zap.Logger
}

// Keeper keeps them. Its methods may be called from several goroutines.
type Keeper struct {
	o    Options
	life lifecycle.Life

	claiming  sync.Mutex      // held by a claim, from what it asks for until what it brought is taken up
	announced task.Host       // what the last claim said; with claiming
	unlike    map[string]bool // pools of which the log has said that others have another model; with claiming

	mu    sync.Mutex
	held  map[string]bool // pools
	hosts []task.Host     // as last looked at
}

var _ lifecycle.Service = (*Keeper)(nil)

// New makes a keeper. Claim comes before Start.
func New(o Options) *Keeper {
	return &Keeper{o: o, held: map[string]bool{}, unlike: map[string]bool{}}
}

// looks is how often the other daemons are looked at in a lease.
const looks = 8

// Start looks after the pools until Stop. It implements lifecycle.Service.
func (k *Keeper) Start(context.Context) error {
	if k.life.Begin() {
		k.life.Go(func(ctx context.Context) { contain.Loop(ctx, k.o.Log, stumbled, k.look) })
	}
	return nil
}

const stumbled = "the look at the other daemons panicked, and goes on"

// Stop ends that. It implements lifecycle.Service.
func (k *Keeper) Stop(ctx context.Context) error { return k.life.End(ctx, context.Canceled) }

func (k *Keeper) look(ctx context.Context) {
	failing := false
	for lifecycle.Pause(ctx, k.o.Lease/looks) {
		err := k.Look(ctx)
		if err != nil && !failing && ctx.Err() == nil {
			k.o.Log.Warn("the other daemons cannot be looked at, and what they held cannot be taken", zap.Error(err))
		}
		failing = err != nil
	}
}

// Look looks at the other daemons once, and claims if there is something to claim or to say.
func (k *Keeper) Look(ctx context.Context) error {
	if err := k.see(ctx); err != nil {
		return err
	}
	self := k.o.Self()
	k.claiming.Lock()
	due := !reflect.DeepEqual(self, k.announced)
	for _, p := range self.Pools {
		due = due || k.free(p.ID) && k.fits(self.ID, p)
	}
	k.claiming.Unlock()
	if !due {
		return nil
	}
	return k.Claim(ctx)
}

// free reports whether the pool is nobody's.
func (k *Keeper) free(pool string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return !k.held[pool] && !slices.ContainsFunc(k.hosts, func(h task.Host) bool {
		p := h.Pool(pool)
		return p != nil && p.Holds && h.Up
	})
}

// see reads what the others have announced.
func (k *Keeper) see(ctx context.Context) error {
	hosts, err := k.o.Ledger.Hosts(ctx)
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.hosts = hosts
	k.o.Metrics.saw(hosts)
	return nil
}

// Claim announces this daemon as it is now, and takes what it can take.
func (k *Keeper) Claim(ctx context.Context) error {
	k.claiming.Lock()
	defer k.claiming.Unlock()
	if err := k.see(ctx); err != nil {
		return err
	}
	self := k.o.Self()
	if err := k.alone(self.ID); err != nil {
		return err
	}
	before := k.Hosts()
	by := self
	by.Pools = slices.Clone(self.Pools)
	for i := range by.Pools {
		by.Pools[i].Holds = k.fits(self.ID, by.Pools[i])
	}
	c, err := k.o.Ledger.Claim(ctx, by)
	if err != nil {
		return fmt.Errorf("claim the pools' queues: %w", err)
	}
	k.announced = self
	k.o.Took(c)
	k.mu.Lock()
	was := k.held
	k.held = map[string]bool{}
	for _, id := range c.Pools {
		k.held[id] = true
	}
	k.mu.Unlock()
	for _, id := range c.Pools {
		if !was[id] {
			from := ""
			for _, h := range before {
				if p := h.Pool(id); p != nil && p.Holds && h.ID != self.ID {
					from = h.Name
					k.o.Metrics.takeovers.Inc()
				}
			}
			k.o.Log.Info("took a pool's queue", zap.String("pool_id", id), zap.Uint64("fence", c.Fence), zap.String("from_host", from))
		}
	}
	return k.see(ctx)
}

// alone fails where this daemon has to be alone, and is not.
func (k *Keeper) alone(self string) error {
	if k.o.Alone == "" {
		return nil
	}
	for _, h := range k.Hosts() {
		if h.ID != self && h.Up {
			return fmt.Errorf("the host %s uses the same ledger, and this one cannot share it: %s", h.Name, k.o.Alone)
		}
	}
	return nil
}

// fits reports whether this daemon can hold a pool: it does, or no other one has the pool with another model. One that does not know yet which model it has waits, if others do.
// With claiming.
func (k *Keeper) fits(self string, p task.HostPool) bool {
	k.mu.Lock()
	held := k.held[p.ID]
	k.mu.Unlock()
	if held {
		return true
	}
	for _, h := range k.Hosts() {
		other := h.Pool(p.ID)
		if h.ID == self || other == nil || other.Digest == "" || other.Digest == p.Digest {
			continue
		}
		if p.Digest != "" && !k.unlike[p.ID] {
			k.unlike[p.ID] = true
			k.o.Log.Error("a pool of this id has another model on another host, so its queue is not taken over here: give one of them another id",
				zap.String("pool_id", p.ID), zap.String("host", h.Name), zap.String("model_digest", p.Digest), zap.String("other_digest", other.Digest))
		}
		return false
	}
	return true
}

// Hosts are all daemons, as last looked at.
func (k *Keeper) Hosts() []task.Host {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.hosts
}

// Now are all daemons, looked at now.
func (k *Keeper) Now(ctx context.Context) ([]task.Host, error) {
	if err := k.see(ctx); err != nil {
		return nil, err
	}
	return k.Hosts(), nil
}

// Holder is the daemon that holds a pool's queue now; false: none does whose lease runs.
func (k *Keeper) Holder(pool string) (task.Host, bool) {
	for _, h := range k.Hosts() {
		if p := h.Pool(pool); p != nil && p.Holds && h.Up {
			return h, true
		}
	}
	return task.Host{}, false
}

// MaySend reports whether clients may be told more of a pool's tasks. Where another daemon has the pool too, they may while this one's lease runs for sure: after that
// the other one may tell them. Where nobody has it, nobody can have taken it.
func (k *Keeper) MaySend(pool string) bool {
	if k.o.Ledger.Holds() {
		return true
	}
	self := k.o.Self().ID
	return !slices.ContainsFunc(k.Hosts(), func(h task.Host) bool { return h.ID != self && h.Pool(pool) != nil })
}

// TaskHolder is the id of the daemon that holds a live task; empty: none does.
func (k *Keeper) TaskHolder(ctx context.Context, id string) (string, error) {
	return k.o.Ledger.Holder(ctx, id)
}

// Refusal says why this daemon takes no task for a pool: nil where it holds the pool's queue.
func (k *Keeper) Refusal(pool string) error {
	k.mu.Lock()
	held := k.held[pool]
	k.mu.Unlock()
	if held {
		return nil
	}
	h, ok := k.Holder(pool)
	if !ok {
		return task.Errorf(task.PoolUnavailable, "the queue of pool '%s' is no host's at this moment: try again in a moment; `llama-orch hosts` shows who has the pool", pool).Retry(k.o.Lease)
	}
	return task.Errorf(task.PoolUnavailable, "pool '%s' is served by the host %s: send the task there%s", pool, h.Name, at(h)).Retry(k.o.Lease)
}

func at(h task.Host) string {
	if h.Address == "" {
		return ""
	}
	return ", to " + h.Address
}
