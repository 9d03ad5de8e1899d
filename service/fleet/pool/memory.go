// SPDX-License-Identifier: GPL-3.0-or-later

package pool

import (
	"cmp"
	"math"
	"os"
	"slices"
	"strings"
	"sync"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/process"
	"github.com/llama-orch/llama-orch/service/fleet/vram"
	"github.com/llama-orch/llama-orch/service/task"
)

// VRAM is the account of the cards' memory (LO-501). Its methods may be called from several goroutines.
type VRAM interface {
	// Room tells what the cards of a device can give. A mask stands for its cards, in its order; "auto" for every card that can be
	// used. It returns nothing if a card of the mask cannot be used.
	Room(device string) []vram.Room
	// Reserve chooses cards for the owner's next worker and promises their memory, before anything is started. A refusal is
	// a *task.Error, and retriable if waiting may help. What an earlier worker of the owner still holds is counted beside it.
	Reserve(owner string, wish vram.Wish) (vram.Grant, error)
	// Spawned says that the owner's worker leads this process group.
	Spawned(owner string, pid int)
	// Settle says that the owner's worker has loaded, and will take no more memory. It returns what the driver shows for it on each
	// card, or nothing if the driver does not tell.
	Settle(owner string) []vram.Share
	// Release says that the owner's worker and its group are gone.
	Release(owner string)
}

// claim is the memory of a worker, from before its process starts until that is gone.
type claim struct {
	load     vram.Load
	class    string // device class
	cards    []int
	reserved bool  // in Options.VRAM
	bytes    int64 // what was reserved
	host     int64 // promised to it of the host's memory, until it is ready
}

// reserve claims the memory of the worker that is about to be started, or says what there is too little of (ORCH-3003).
func (r *replica) reserve(w *worker, spec Spec, facts *Facts, fileSize int64, log *zap.Logger) error {
	sizer, err := r.kind.Start.Size(spec.worker(), fileSize)
	if err != nil {
		log.Warn("the model's memory is guessed from the size of its file", zap.Error(err))
	}
	if spec.cards() > 0 { // one at a time: nobody may take what was found to fit before it is reserved
		r.m.placing.Lock()
		defer r.m.placing.Unlock()
	}
	f := fitting{r: r, sizer: sizer, model: cmp.Or(facts.ModelDigest, "pool:"+spec.ID), now: r.m.now()}
	ctx, device := f.choose()
	estimate, err := sizer.At(ctx)
	if err != nil {
		log.Warn("the model's memory is guessed from the size of its file", zap.Error(err))
	}
	c := &w.claim
	c.load = f.load(ctx)
	expected := spec.expected(estimate)
	host := estimate.Host
	if c.load.Cards == 0 {
		c.class = facts.Device
	}
	need := f.need(c.class, ctx, expected)
	if c.load.Cards == 0 {
		host = need
	}
	r.change(func(i *Info) { i.EstimateBytes, i.NeedBytes, i.ObservedBytes, i.Ctx = expected, need, 0, ctx })
	if err := r.m.promiseHost(host); err != nil {
		return &loss{reason: refused, err: r.typed(err), short: true}
	}
	c.host = host
	if c.load.Cards == 0 || r.m.opts.VRAM == nil {
		return nil
	}

	grant, err := r.m.opts.VRAM.Reserve(r.owner, vram.Wish{Device: device, Split: spec.TensorSplit, Bytes: need})
	if err != nil {
		refusal := *task.AsError(err)
		f.refused(&refusal, ctx)
		r.inVain++
		return &loss{reason: refused, err: r.typed(&refusal), short: refusal.Retriable, fixed: !refusal.Retriable}
	}
	r.inVain, r.kept = 0, ctx
	c.reserved, c.bytes, c.cards = true, need, grant.Cards
	c.class = vram.Class(grant.Names)
	facts.Device = c.class
	r.change(func(i *Info) { i.Cards = grant.Cards })
	return nil
}

// expected is all that a worker should take: of its cards, or of the host's memory if it gets no card.
func (s *Spec) expected(e engine.Estimate) int64 {
	if len(e.Cards) == 0 {
		return e.Host
	}
	return vram.Sum(e.Cards, s.parts())
}

// expect is what a worker of an on-demand pool should take, by the file of its model; 0 if there is no file, and for other pools. It
// reads the file, which may be on slow storage, so the caller must not hold m.mu.
func (m *Manager) expect(spec Spec) int64 {
	if !spec.OnDemand {
		return 0
	}
	if path := m.opts.Models.Path(spec.ModelRef); path != "" {
		spec.ModelPath = path
	}
	kind, err := m.opts.kind(spec.Engine)
	if err != nil || kind.Start == nil {
		return 0
	}
	parts, err := files(kind, spec.ModelPath)
	if err != nil {
		return 0
	}
	size := int64(0)
	for _, part := range parts {
		if at, err := os.Stat(part); err == nil {
			size += at.Size()
		}
	}
	if kind.Start.Files == nil {
		spec.ModelPath = parts[0]
	}
	s, _ := kind.Start.Size(spec.worker(), size) // a guess is good enough here, and the load logs that it is one
	ctx := spec.Ctx
	if spec.fitsCtx(kind) { // swaps are planned for the smallest context; the load takes more if there is more
		ctx = least(s)
	}
	e, _ := s.At(ctx)
	return spec.expected(e)
}

// share is the part of the whole memory of each of its cards that a worker has reserved; 0: nobody counts it.
func (r *replica) share(c *claim) (share float64) {
	if !c.reserved {
		return 0
	}
	for _, room := range r.m.opts.VRAM.Room(strings.Join(cardNames(r.spec, c.cards), ",")) {
		for _, s := range vram.Deal(c.cards, r.spec.TensorSplit, c.bytes) {
			if s.Card == room.Card && room.Total > 0 {
				share = max(share, float64(s.Bytes)/float64(room.Total))
			}
		}
	}
	return min(share, 1)
}

// typed names the pool in a typed error.
func (r *replica) typed(err error) error {
	typed := *task.AsError(err)
	typed.Engine, typed.PoolID = r.spec.Engine, r.spec.ID
	return &typed
}

// settleClaim asks what the ready worker really takes, and remembers it for the next one.
func (r *replica) settleClaim(w *worker) (observed int64) {
	c := &w.claim
	r.m.keepHost(c)
	var err error
	switch {
	case c.reserved:
		shares, parts := r.m.opts.VRAM.Settle(r.owner), r.spec.parts()
		cards := make([]int64, len(c.cards))
		for _, s := range shares {
			for i, card := range c.cards {
				if card == s.Card && i < len(parts) {
					cards[i] = s.Bytes
				}
			}
			observed += s.Bytes
		}
		if !slices.Contains(cards, 0) { // else the driver does not tell of every card
			err = r.m.learned.Observe(c.load, c.class, vram.Sum(cards, parts), r.m.now())
		}
	case w.proc != nil && c.load.Cards == 0:
		observed = process.ResidentBytes(w.proc.PID)
		err = r.m.learned.Observe(c.load, c.class, observed, r.m.now())
	}
	if err != nil {
		r.m.log.Warn("what was learned of a model's memory is not kept over a restart", zap.String("pool_id", r.spec.ID), zap.Error(err))
	}
	return observed
}

// release gives the claim back. The worker's process is gone, or there was none.
func (r *replica) release(w *worker) {
	r.m.keepHost(&w.claim)
	if w.claim.reserved {
		w.claim.reserved = false
		r.m.opts.VRAM.Release(r.owner)
	}
}

// host counts the host's memory that was promised to workers that are starting and have not taken it yet.
type host struct {
	mu       sync.Mutex
	promised int64
}

func (m *Manager) promiseHost(need int64) error {
	m.host.mu.Lock()
	defer m.host.mu.Unlock()
	free, err := m.opts.HostMemory()
	if err != nil {
		m.log.Warn("the host's free memory is unknown, so nothing is checked against it", zap.Error(err))
		free = math.MaxInt64
	}
	if free -= m.host.promised; need > free {
		return unavailable("a worker needs %s of the host's memory, and %s are free: end what holds it, or use a smaller model, `ctx` or `slots`",
			vram.Size(need), vram.Size(max(free, 0))).Retry(m.opts.BackoffMax)
	}
	m.host.promised += need
	return nil
}

// HostMemory is the host's memory that workers can still be promised, in bytes.
func (m *Manager) HostMemory() (int64, error) {
	m.host.mu.Lock()
	defer m.host.mu.Unlock()
	free, err := m.opts.HostMemory()
	return max(free-m.host.promised, 0), err
}

// keepHost ends a promise, because the worker has taken its memory or is gone.
func (m *Manager) keepHost(c *claim) {
	m.host.mu.Lock()
	defer m.host.mu.Unlock()
	m.host.promised -= c.host
	c.host = 0
}
