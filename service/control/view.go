// SPDX-License-Identifier: GPL-3.0-or-later

package control

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/llama-orch/llama-orch/service/config"
	"github.com/llama-orch/llama-orch/service/control/selftest"
	"github.com/llama-orch/llama-orch/service/flow/admission"
	"github.com/llama-orch/llama-orch/service/flow/scheduler"
	"github.com/llama-orch/llama-orch/service/front/api"
	"github.com/llama-orch/llama-orch/service/front/delivery"
	"github.com/llama-orch/llama-orch/service/front/exchange"
	"github.com/llama-orch/llama-orch/service/task"
)

// Tasks implements api.Tasks.
type Tasks struct {
	*admission.Desk
	*scheduler.Scheduler
	Bundles   Bundles
	Deletions Deletions
}

// Bundles are the proof bundles that were stored beside the ledger.
type Bundles interface {
	// ForgetBundles removes those of a task, and reports whether there were any.
	ForgetBundles(ctx context.Context, taskID string) (found bool, err error)
}

// Deletions are what the ledger knows of deleted tasks.
type Deletions interface {
	// Deleted returns those of the ids whose tasks were deleted.
	Deleted(ctx context.Context, ids []string) ([]string, error)
}

// Deleted implements exchange.Tasks.
func (t Tasks) Deleted(ctx context.Context, ids []string) ([]string, error) {
	deleted, err := t.Deletions.Deleted(ctx, ids)
	if err != nil {
		return nil, task.Errorf(task.LedgerUnavailable, "the record of tasks cannot be read: try again in a moment; the orchestrator's log has the cause").
			Retry(time.Second).Because(err)
	}
	return deleted, nil
}

// Delete implements api.Tasks and exchange.Tasks. It also removes the proof bundle of a task that the ledger has forgotten already.
func (t Tasks) Delete(ctx context.Context, id, actor string) error {
	err := t.Scheduler.Delete(ctx, id, actor)
	if err != nil && !task.HasCode(err, task.NotFound) {
		return err
	}
	found, failed := t.Bundles.ForgetBundles(ctx, id)
	switch {
	case failed != nil:
		return task.Errorf(task.LedgerUnavailable, "the proof bundle of task %.128q could not be removed: delete the task again; the orchestrator's log has the cause", id).
			Retry(time.Second).Because(failed)
	case found:
		return nil
	}
	return err
}

// Subscribe implements api.Tasks.
func (t Tasks) Subscribe(ctx context.Context, id, after string) (delivery.Stream, error) {
	s, err := t.Scheduler.Subscribe(ctx, id, after)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Events implements exchange.Tasks.
func (t Tasks) Events(ctx context.Context, id string) (delivery.Events, error) {
	s, err := t.Scheduler.Subscribe(ctx, id, "")
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Follow implements selftest.Tasks.
func (t Tasks) Follow(ctx context.Context, id string) (selftest.Events, error) {
	s, err := t.Scheduler.Subscribe(ctx, id, "")
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Submit implements api.Tasks and selftest.Tasks.
func (t Tasks) Submit(ctx context.Context, r task.Request) (task.Admission, error) {
	return t.Desk.Submit(ctx, r)
}

// Served lists the models that tasks can name, each once, and then their aliases, as the fronts show them. Since is when they came.
func (f Fleet) Served(since time.Time) func() []exchange.Model {
	return func() (list []exchange.Model) {
		now := f.config()
		context := map[string]int{} // the largest, by canonical ref
		for _, p := range now.Pools {
			ctx := f.summary(p).ctx
			context[p.Model.Canonical] = max(context[p.Model.Canonical], ctx)
			if at := slices.IndexFunc(list, func(m exchange.Model) bool { return m.ID == p.Model.ID }); at >= 0 {
				list[at].Ctx = max(list[at].Ctx, ctx)
				continue
			}
			list = append(list, exchange.Model{ID: p.Model.ID, Ctx: ctx, Created: since})
		}
		for _, name := range slices.Sorted(maps.Keys(now.Aliases)) {
			if name == config.AnyName {
				continue
			}
			model, _, _ := now.Named(now.Aliases[name].Model)
			ctx := context[now.CanonicalRef(model)]
			if at := slices.IndexFunc(list, func(m exchange.Model) bool { return m.ID == model }); at >= 0 {
				ctx = list[at].Ctx
			}
			list = append(list, exchange.Model{ID: name, Ctx: ctx, Created: since})
		}
		return list
	}
}

// Views returns the pools as the API shows them. Tests may be nil.
func (f Fleet) Views(s *scheduler.Scheduler, ledger Writer, tests *selftest.Tests, hosts Hosts) api.Pools {
	return views{f, s, ledger, tests, hosts}
}

// views implements api.Pools.
type views struct {
	Fleet
	schedule *scheduler.Scheduler
	ledger   Writer
	tests    *selftest.Tests
	hosts    Hosts
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
	s, stands := f.summary(p), f.standing(p)
	if stands.State == task.PoolFailed && stands.Reason != "" {
		s.lastError = stands.Reason
	}
	infos := f.manager.Infos(p.ID)
	interactive, batch := f.schedule.Depth(p.ID)
	if f.schedule.Stuck(p.ID) {
		s.lastError = "the queue stands still: tasks wait, and none was started or ended for minutes"
	}
	return api.PoolView{
		ID: p.ID, State: stands.State, Progress: stands.Progress, Engine: p.Engine, EngineVersion: s.version, Model: api.ModelView{ID: p.Model.ID, Ref: p.Model.Canonical, Digest: s.digest},
		Workload: p.Workload, Routes: p.Routes, Span: p.Span, Device: string(p.Device), Ctx: s.ctx, Slots: s.slots, Features: s.features, Piece: s.piece, SamplerProfile: p.SamplerProfile,
		Ready: s.ready > 0, Draining: stands.State == task.PoolDraining || stands.State == task.PoolDrained, Lifecycle: p.Lifecycle, Loaded: s.ready > 0, LastError: s.lastError, SelfTest: f.tests.Result(p.ID),
		Replicas: len(infos), ReplicasReady: s.ready,
		Queue: api.QueueView{Interactive: interactive, Batch: batch, Capacity: p.Queue.Capacity, FullPolicy: p.Queue.FullPolicy},
	}
}

// Fingerprint says what a fingerprint stands for (LO-942).
func (f views) Fingerprint(id string) (api.FingerprintView, error) {
	known, ok := f.manager.Fingerprint(id)
	if !ok {
		return api.FingerprintView{}, task.Errorf(task.NotFound, "no replica of this server had the fingerprint %.80q, or so long ago that it is forgotten: "+
			"the replicas' own are in the health of their pools", id)
	}
	facts := known.Facts
	v := api.FingerprintView{
		ID: id, Seen: known.Seen, Engine: facts.Engine, Build: facts.Build, System: facts.System, Device: facts.Device, EngineDigest: facts.EngineDigest,
		ModelDigest: facts.ModelDigest, Threads: facts.Threads, Ctx: facts.Ctx, Slots: facts.Slots, Batch: facts.Batch, Flags: redacted(facts.Flags),
		Files: facts.Files, BuildRef: facts.BuildRef, BuildFlags: facts.BuildFlags,
	}
	for _, pool := range f.manager.Pools() {
		for _, r := range f.manager.Infos(pool) {
			if r.Fingerprint == id {
				v.Replicas = append(v.Replicas, r.ID)
			}
		}
	}
	return v, nil
}

// redacted are an engine's arguments without the keys that an operator may have written there.
func redacted(flags []string) []string {
	secret := func(name string) bool {
		return strings.HasPrefix(name, "-") && slices.ContainsFunc([]string{"key", "token", "secret", "password"}, func(word string) bool { return strings.Contains(name, word) })
	}
	out := slices.Clone(flags)
	for i, flag := range flags {
		if name, _, joined := strings.Cut(flag, "="); joined && secret(name) {
			out[i] = name + "=" + hidden
		} else if i > 0 && secret(flags[i-1]) && !strings.Contains(flags[i-1], "=") {
			out[i] = hidden
		}
	}
	return out
}

// hidden stands for a key.
const hidden = "(not shown)"

func (f views) Health(id string) (api.HealthView, error) {
	for _, p := range f.config().Pools {
		if p.ID != id {
			continue
		}
		h, gpus := api.HealthView{Pool: f.view(p)}, f.GPUs().GPUs
		for _, r := range f.manager.Infos(id) {
			hosts := make([]api.HostView, len(r.Shares))
			for i, s := range r.Shares {
				hosts[i] = api.HostView{Host: s.Host, FreeBytes: s.FreeBytes, Used: s.Bytes}
			}
			h.Replicas = append(h.Replicas, api.ReplicaView{
				ID: r.ID, State: string(r.State), Restarts: r.Restarts, Fingerprint: r.Fingerprint, EngineVersion: r.EngineVersion,
				Device: r.Device, Slots: r.Slots, Active: r.Active, Ctx: r.Ctx, Cards: r.Cards, Hosts: hosts, EstimateBytes: r.EstimateBytes, ObservedBytes: r.ObservedBytes,
				LoadTime: r.LoadTime, Progress: r.Progress, LastError: r.LastError, LogTail: r.LogTail,
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
