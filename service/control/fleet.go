// SPDX-License-Identifier: GPL-3.0-or-later

package control

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/llama-orch/llama-orch/service/config"
	"github.com/llama-orch/llama-orch/service/control/selftest"
	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/pool"
	"github.com/llama-orch/llama-orch/service/flow/admission"
	"github.com/llama-orch/llama-orch/service/flow/placement"
	"github.com/llama-orch/llama-orch/service/flow/scheduler"
	"github.com/llama-orch/llama-orch/service/front/api"
	"github.com/llama-orch/llama-orch/service/front/delivery"
	"github.com/llama-orch/llama-orch/service/supply/catalog"
	"github.com/llama-orch/llama-orch/service/task"
)

// Fleet is the pools as the other packages ask for them: each of the types below is one package's view.
type Fleet struct {
	*Setup
	manager *pool.Manager
	memory  *Memory
	shelf   *Shelf
}

// NewFleet is the pools of the configuration in force.
func NewFleet(s *Setup, manager *pool.Manager, memory *Memory, shelf *Shelf) Fleet {
	return Fleet{Setup: s, manager: manager, memory: memory, shelf: shelf}
}

// summary is what a pool's replicas say together. Ctx is the largest that a Ready replica has, Slots the most.
type summary struct {
	ready       int
	version     string
	digest      string
	ctx         int
	slots       int
	engineSlots int
	lastError   string
	draining    bool
	gaveUp      time.Duration // until a replica is tried again, where all were given up
}

func (f Fleet) summary(p config.Pool) summary {
	s := summary{ctx: p.Ctx, slots: p.Slots, engineSlots: p.Slots}
	failed := 0
	for _, r := range f.manager.Infos(p.ID) {
		if r.State == pool.Failed {
			failed++
			s.gaveUp = max(time.Until(r.NextTry), time.Second)
		}
		if r.EngineVersion != "" {
			s.version = r.EngineVersion
		}
		if r.ModelDigest != "" {
			s.digest = r.ModelDigest
		}
		if r.State == pool.Draining || !r.Wanted && !onDemand(p) {
			s.draining = true
		}
		if r.State != pool.Ready {
			if r.LastError != "" {
				s.lastError = r.LastError
			}
			continue
		}
		if s.ready == 0 {
			s.ctx, s.slots, s.engineSlots = r.Ctx, r.Slots, r.EngineSlots
		}
		s.ready++
		s.ctx, s.slots, s.engineSlots = max(s.ctx, r.Ctx), max(s.slots, r.Slots), max(s.engineSlots, r.EngineSlots)
	}
	if failed < len(f.manager.Infos(p.ID)) {
		s.gaveUp = 0
	}
	return s
}

// Configured are the pools of the configuration in force.
func (f Fleet) Configured() []config.Pool { return f.config().Pools }

// Standing says whether a pool has a Ready replica, and, where it has none, what went wrong last.
func (f Fleet) Standing(p config.Pool) (ready bool, problem string) {
	s := f.summary(p)
	return s.ready > 0, s.lastError
}

// Replicas is the scheduler's view.
func (f Fleet) Replicas() scheduler.Replicas { return replicas{f} }

// replicas is the scheduler's view.
type replicas struct{ Fleet }

func (f replicas) Snapshot(poolID string, into []placement.Replica) []placement.Replica {
	for _, r := range f.manager.Infos(poolID) {
		into = append(into, placement.Replica{
			ID: r.ID, State: string(r.State), Ready: r.State == pool.Ready, Parked: !r.Wanted, Slots: r.Slots, Active: r.Active,
			Strict: r.EngineSlots == 1, Ctx: r.Ctx, FreeVRAM: f.memory.free(r.Cards), Fingerprint: r.Fingerprint,
		})
	}
	return into
}

func (f replicas) Lease(replicaID string) (scheduler.Lease, error) {
	l, err := f.manager.Lease(replicaID)
	if err != nil {
		return nil, err
	}
	return lease{l}, nil
}

func (f replicas) EngineVersion(poolID string) string {
	for _, r := range f.manager.Infos(poolID) {
		if r.EngineVersion != "" {
			return r.EngineVersion
		}
	}
	return ""
}

type lease struct{ *pool.Lease }

func (l lease) Replica() scheduler.Replica {
	i := l.Info()
	return scheduler.Replica{ID: i.ID, EngineVersion: i.EngineVersion, ModelDigest: i.ModelDigest, Fingerprint: i.Fingerprint, Slots: i.EngineSlots}
}

// Candidates is admission's view.
func (f Fleet) Candidates(s *scheduler.Scheduler) admission.Pools { return candidates{f, s} }

// candidates is admission's view.
type candidates struct {
	Fleet
	schedule *scheduler.Scheduler
}

func (f candidates) Snapshot(p task.Priority) []admission.Pool {
	now := f.config()
	pools := make([]admission.Pool, len(now.Pools))
	for i, c := range now.Pools {
		s, profile := f.summary(c), now.Profile(c)
		facts, bits, retired := f.shelf.facts(c)
		if s.ctx == 0 {
			s.ctx = facts.CtxMax
		}
		pools[i] = admission.Pool{
			Pool: placement.Pool{
				ID: c.ID, Engine: c.Engine, ModelID: c.Model.ID, Ref: c.Model.Canonical, Workload: c.Workload, Ctx: s.ctx, Slots: s.engineSlots,
				Profile: c.SamplerProfile, Ready: s.ready > 0, Retired: retired, Quantisation: facts.Quantisation, Bits: bits,
				NoTemplate: facts.Format != "" && !slices.Contains(facts.Features, catalog.FeatureChatTemplate),
				OnDemand:   onDemand(c), GaveUp: s.gaveUp, Wait: f.schedule.Wait(c.ID, p), Backlog: f.schedule.Backlog(c.ID),
			},
			EngineVersion: s.version,
			Sampling: task.Sampling{
				Profile: c.SamplerProfile, Temperature: profile.Temperature, TopP: profile.TopP, TopK: profile.TopK,
				MinP: profile.MinP, RepeatPenalty: profile.RepeatPenalty,
			},
		}
	}
	return pools
}

// CanonicalRef is the form in which a request's model_ref is compared with the pools' refs.
func (f candidates) CanonicalRef(ref string) string { return f.config().CanonicalRef(ref) }

func (f candidates) Tokenizer(poolID string) (admission.Tokenizer, bool) {
	engines := f.manager.Engines(poolID)
	return tokenizer(engines), len(engines) > 0
}

// tokenizer asks one engine after the other: one that hangs must not keep a task from the others.
type tokenizer []engine.Engine

// tokenizeWithin bounds each try.
const tokenizeWithin = 2 * time.Second

func (t tokenizer) ApplyTemplate(ctx context.Context, messages []task.Message) (string, error) {
	return firstAnswer(ctx, t, func(ctx context.Context, e engine.Engine) (string, error) { return e.ApplyTemplate(ctx, messages) })
}

func (t tokenizer) CountTokens(ctx context.Context, prompt string) (int, error) {
	return firstAnswer(ctx, t, func(ctx context.Context, e engine.Engine) (int, error) { return e.CountTokens(ctx, prompt) })
}

func firstAnswer[T any](ctx context.Context, engines []engine.Engine, ask func(context.Context, engine.Engine) (T, error)) (answer T, err error) {
	for _, e := range engines {
		bounded, stop := context.WithTimeout(ctx, tokenizeWithin)
		answer, err = ask(bounded, e)
		stop()
		if err == nil || task.HasCode(err, task.InvalidParams) || ctx.Err() != nil {
			return answer, err
		}
	}
	return answer, task.Errorf(task.WorkerReset, "no engine of the pool answered").Retry(0).Because(err)
}

// Tasks is the API's view of the tasks.
type Tasks struct {
	*admission.Desk
	*scheduler.Scheduler
}

// Subscribe is api.Tasks's.
func (t Tasks) Subscribe(ctx context.Context, id, after string) (delivery.Stream, error) {
	s, err := t.Scheduler.Subscribe(ctx, id, after)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Submit is api.Tasks's.
func (t Tasks) Submit(ctx context.Context, r task.Request) (task.Admission, error) {
	return t.Desk.Submit(ctx, r)
}

// Views is the API's view of the pools. Tests may be nil.
func (f Fleet) Views(s *scheduler.Scheduler, tests *selftest.Tests) api.Pools {
	return views{f, s, tests}
}

// views is the API's view of the pools.
type views struct {
	Fleet
	schedule *scheduler.Scheduler
	tests    *selftest.Tests
}

func (f views) Pools() []api.PoolView {
	now := f.config().Pools
	all := make([]api.PoolView, len(now))
	for i, p := range now {
		all[i] = f.view(p)
	}
	return all
}

func (f views) view(p config.Pool) api.PoolView {
	s := f.summary(p)
	infos := f.manager.Infos(p.ID)
	interactive, batch := f.schedule.Depth(p.ID)
	if f.schedule.Stuck(p.ID) {
		s.lastError = "the queue stands still: tasks wait, and none was started or ended for minutes"
	}
	return api.PoolView{
		ID: p.ID, Engine: p.Engine, EngineVersion: s.version, Model: api.ModelView{ID: p.Model.ID, Ref: p.Model.Canonical, Digest: s.digest},
		Workload: p.Workload, Device: string(p.Device), Ctx: s.ctx, Slots: s.slots, SamplerProfile: p.SamplerProfile,
		Ready: s.ready > 0, Draining: s.draining, Lifecycle: p.Lifecycle, Loaded: s.ready > 0, LastError: s.lastError, SelfTest: f.tests.Result(p.ID),
		Replicas: len(infos), ReplicasReady: s.ready,
		Queue: api.QueueView{Interactive: interactive, Batch: batch, Capacity: p.Queue.Capacity, FullPolicy: p.Queue.FullPolicy},
	}
}

func (f views) Health(id string) (api.HealthView, error) {
	for _, p := range f.config().Pools {
		if p.ID != id {
			continue
		}
		h, gpus := api.HealthView{Pool: f.view(p)}, f.GPUs().GPUs
		for _, r := range f.manager.Infos(id) {
			h.Replicas = append(h.Replicas, api.ReplicaView{
				ID: r.ID, State: string(r.State), Restarts: r.Restarts, Fingerprint: r.Fingerprint, EngineVersion: r.EngineVersion,
				Device: r.Device, Slots: r.Slots, Active: r.Active, Ctx: r.Ctx, Cards: r.Cards, EstimateBytes: r.EstimateBytes, ObservedBytes: r.ObservedBytes,
				LoadTime: r.LoadTime, LastError: r.LastError, LogTail: r.LogTail,
			})
			for _, g := range gpus {
				if slices.Contains(r.Cards, g.Index) && !slices.ContainsFunc(h.GPUs, func(o api.GPUView) bool { return o.Index == g.Index }) {
					h.GPUs = append(h.GPUs, g)
				}
			}
		}
		return h, nil
	}
	return api.HealthView{}, task.Errorf(task.NotFound, "there is no pool %.80q: use one of %s", id, strings.Join(f.manager.Pools(), ", "))
}

// Ready reports whether a task could be served: by a Ready replica, or by a pool that it would load.
func (f views) Ready() error {
	if f.schedule.Stopping() {
		return task.Errorf(task.ShuttingDown, "the orchestrator is stopping").Retry(5 * time.Second)
	}
	var why []string
	for _, p := range f.config().Pools {
		s := f.summary(p)
		if (s.ready > 0 || onDemand(p) && s.lastError == "") && !f.schedule.Stuck(p.ID) {
			return nil
		}
		reason := "pool '" + p.ID + "' is starting"
		if s.ready > 0 {
			reason = "the queue of pool '" + p.ID + "' stands still"
		}
		if s.lastError != "" {
			reason = "pool '" + p.ID + "' has no Ready replica, and /v1/pools/" + p.ID + "/health says why" // the cause is not for everybody
		}
		why = append(why, reason)
	}
	return task.Errorf(task.PoolUnready, "no pool is Ready yet: %s", strings.Join(why, "; ")).Retry(time.Second)
}
