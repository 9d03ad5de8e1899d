// SPDX-License-Identifier: GPL-3.0-or-later

package api

import (
	"context"
	"net/url"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/llama-orch/llama-orch/gen"
	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/task"
)

// Control is what operators do with pools, placement, the configuration and workers. Errors are *task.Error.
type Control interface {
	// Drain returns at once. Tasks that still run at the deadline go back to the queue. NOT_FOUND.
	Drain(ctx context.Context, id string, deadline time.Duration) (DrainView, error)
	// Resume ends a drain, Load loads a pool or has it try again, and Unload lets go of an on-demand pool's workers once their tasks
	// have ended. They return at once. NOT_FOUND, CONFLICT, MODEL_DEPRECATED (LO-842).
	Resume(ctx context.Context, id string) (StandingView, error)
	Load(ctx context.Context, id string) (StandingView, error)
	Unload(ctx context.Context, id string) (StandingView, error)
	// Reload returns once the new model serves, or with an error once the old one serves again. It reads the model ref as the
	// configuration does. NOT_FOUND, MODEL_NOT_FOUND, CONFLICT while another reload of the pool goes on.
	Reload(ctx context.Context, id, ref string) (ReloadView, error)
	// Explain is a dry run of the placement of a task (LO-502). The request has the fields of the contract's
	// ExplainRequest and no others.
	Explain(ctx context.Context, r task.Request) (Explanation, error)
	// ReloadConfig reads the configuration again. INVALID_PARAMS for a file that is not valid, which changes nothing.
	ReloadConfig(ctx context.Context) (ConfigChange, error)
	// Register joins a worker to a pool, or renews its lease. NOT_FOUND, INVALID_PARAMS for one that does not fit the pool.
	Register(ctx context.Context, w WorkerRegistration) (WorkerLease, error)
}

// DrainView is a pool that drains.
type DrainView struct {
	PoolID          string
	Draining        bool
	Running, Queued int
	Deadline        time.Duration
}

// StandingView is how a pool stands after an operator has asked something of it.
type StandingView struct {
	PoolID          string
	State           task.PoolState
	Running, Queued int
}

// ReloadView is a pool with its new model.
type ReloadView struct {
	PoolID      string
	Model       ModelView
	PreviousRef string
	Took        time.Duration
}

// Explanation is a dry run's decision. PoolID and ReplicaID are empty where nothing fits.
type Explanation struct {
	PoolID, ReplicaID string
	Candidates        []CandidateView
	Evictions         []EvictionView
}

// CandidateView is a replica, or a pool without one where ReplicaID is empty, and why it was or was not chosen.
type CandidateView struct {
	PoolID, ReplicaID string
	Chosen            bool
	Reasons           []string
	Active            int
	VRAMFree          int64 // bytes; 0: it has none, or nobody knows
}

// EvictionView is a replica that would have to go, and the bytes of memory that this frees.
type EvictionView struct {
	PoolID, ReplicaID string
	Frees             int64
}

// ConfigChange is what a reload of the configuration has changed, and what of the file only a restart can change.
type ConfigChange struct{ Changed, RestartRequired []string }

// WorkerRegistration is a worker on another host that announces itself. URL is an absolute http or https URL.
type WorkerRegistration struct {
	WorkerID, PoolID, URL                           string
	Engine, EngineVersion, ModelDigest, Fingerprint string
	Device                                          string // empty: unknown
	Slots, Ctx                                      int
}

// WorkerLease is a worker's place in a pool, until Lease has passed.
type WorkerLease struct {
	WorkerID, ReplicaID string
	Lease               time.Duration
}

// What the contract allows of an explanation.
const (
	maxReason  = 1024
	maxReasons = 64
	maxSetting = 256
)

// DrainPool lets a pool finish what it runs, and no more (ORCH-2101).
func (h pools) DrainPool(ctx context.Context, r *gen.DrainRequest, p gen.DrainPoolParams) (*gen.DrainStatusHeaders, error) {
	v, err := h.Control.Drain(ctx, string(p.ID), time.Duration(r.DeadlineMs)*time.Millisecond)
	if err != nil {
		return nil, err
	}
	return &gen.DrainStatusHeaders{Response: gen.DrainStatus{
		PoolID: gen.PoolID(v.PoolID), Draining: v.Draining, Running: v.Running, Queued: v.Queued, DeadlineMs: millis(v.Deadline),
	}}, nil
}

// ResumePool ends a drain (LO-842).
func (h pools) ResumePool(ctx context.Context, p gen.ResumePoolParams) (*gen.PoolStandingHeaders, error) {
	return toStanding(h.Control.Resume(ctx, string(p.ID)))
}

// LoadPool loads a pool's model, or has a pool that failed try again (LO-842).
func (h pools) LoadPool(ctx context.Context, p gen.LoadPoolParams) (*gen.PoolStandingHeaders, error) {
	return toStanding(h.Control.Load(ctx, string(p.ID)))
}

// UnloadPool lets go of an on-demand pool's workers (LO-842).
func (h pools) UnloadPool(ctx context.Context, p gen.UnloadPoolParams) (*gen.PoolStandingHeaders, error) {
	return toStanding(h.Control.Unload(ctx, string(p.ID)))
}

func toStanding(v StandingView, err error) (*gen.PoolStandingHeaders, error) {
	if err != nil {
		return nil, err
	}
	return &gen.PoolStandingHeaders{Response: gen.PoolStanding{
		PoolID: gen.PoolID(v.PoolID), State: gen.PoolState(v.State), Running: v.Running, Queued: v.Queued,
	}}, nil
}

// ReloadPool swaps a pool's model (ORCH-2101).
func (h pools) ReloadPool(ctx context.Context, r *gen.ReloadRequest, p gen.ReloadPoolParams) (*gen.ReloadResultHeaders, error) {
	v, err := h.Control.Reload(ctx, string(p.ID), r.NewModelRef)
	if err != nil {
		return nil, err
	}
	return &gen.ReloadResultHeaders{Response: gen.ReloadResult{
		PoolID: gen.PoolID(v.PoolID), Model: toModel(v.Model), PreviousModelRef: v.PreviousRef, TookMs: millis(v.Took),
	}}, nil
}

// ListGpus shows the GPUs and who holds their memory (LO-501).
func (h control) ListGpus(context.Context) (*gen.GPUListHeaders, error) {
	v := h.Pools.GPUs()
	return &gen.GPUListHeaders{Response: gen.GPUList{
		DriverVersion: optString(task.Clip(v.Driver, maxShort)), CudaVersion: optString(task.Clip(v.CUDA, maxShort)),
		Problem: optString(task.Clip(v.Problem, maxMessage)), Gpus: toGPUs(v.GPUs),
	}}, nil
}

// ListHosts shows the servers that share the record of tasks (LO-712).
func (h control) ListHosts(ctx context.Context) (*gen.HostListHeaders, error) {
	all, err := h.Pools.Hosts(ctx)
	if err != nil {
		return nil, err
	}
	out := gen.HostList{Hosts: make([]gen.Host, len(all))}
	for i, v := range all {
		host := gen.Host{
			ID: v.ID, Name: task.Clip(v.Name, maxSetting), Address: optString(v.Address), Version: task.Clip(v.Version, maxShort), Here: v.Here, Up: v.Up, Since: v.Since, SeenAt: v.Seen,
			Pools: make([]gen.HostPool, len(v.Pools)),
		}
		for k, p := range v.Pools {
			host.Pools[k] = gen.HostPool{PoolID: gen.PoolID(p.ID), Engine: gen.EngineName(p.Engine), ModelID: p.ModelID, ModelDigest: optString(p.Digest), Holds: p.Holds}
		}
		out.Hosts[i] = host
	}
	return &gen.HostListHeaders{Response: out}, nil
}

// ExplainPlacement is a dry run (LO-502).
func (h control) ExplainPlacement(ctx context.Context, r *gen.ExplainRequest) (*gen.ExplanationHeaders, error) {
	in := task.Request{
		ModelRef: string(r.ModelRef), Workload: task.Workload(r.Workload.Or("")), Engine: string(r.Engine.Or("")),
		Determinism: task.Determinism(r.Determinism.Or("")), Ctx: r.Ctx.Or(0), Placement: toWish(r.Placement),
		Priority: task.Interactive, CorrelationID: gate.CallFrom(ctx).CorrelationID, Actor: gate.CallFrom(ctx).Identity,
	}
	if id, ok := r.SessionID.Get(); ok {
		in.SessionID = uuid.UUID(id).String()
	}
	v, err := h.Control.Explain(ctx, in)
	if err != nil {
		return nil, err
	}
	out := gen.Explanation{
		ReplicaID: optString(task.Clip(v.ReplicaID, maxName)), Candidates: make([]gen.Candidate, len(v.Candidates)),
		Evictions: make([]gen.Eviction, len(v.Evictions)),
	}
	if v.PoolID != "" {
		out.PoolID = gen.NewOptPoolID(gen.PoolID(v.PoolID))
	}
	for i, c := range v.Candidates {
		out.Candidates[i] = gen.Candidate{
			PoolID: gen.PoolID(c.PoolID), ReplicaID: optString(task.Clip(c.ReplicaID, maxName)), Chosen: c.Chosen,
			Reasons: clipAll(c.Reasons[:min(len(c.Reasons), maxReasons)], maxReason), VramFreeBytes: optBytes(c.VRAMFree),
		}
		if c.ReplicaID != "" {
			out.Candidates[i].Active = gen.NewOptInt(c.Active)
		}
	}
	for i, e := range v.Evictions {
		out.Evictions[i] = gen.Eviction{PoolID: gen.PoolID(e.PoolID), ReplicaID: task.Clip(e.ReplicaID, maxName), FreesBytes: max(e.Frees, 0)}
	}
	return &gen.ExplanationHeaders{Response: out}, nil
}

// ReloadConfig reads the configuration file again.
func (h control) ReloadConfig(ctx context.Context) (*gen.ConfigReloadResultHeaders, error) {
	v, err := h.Control.ReloadConfig(ctx)
	if err != nil {
		return nil, err
	}
	return &gen.ConfigReloadResultHeaders{Response: gen.ConfigReloadResult{
		Changed: clipAll(v.Changed, maxSetting), RestartRequired: clipAll(v.RestartRequired, maxSetting),
	}}, nil
}

// RegisterWorker joins a worker on another host to a pool.
func (h control) RegisterWorker(ctx context.Context, r *gen.WorkerRegistration) (*gen.WorkerLeaseHeaders, error) {
	if err := checkWorkerURL(r.URL); err != nil {
		return nil, err
	}
	v, err := h.Control.Register(ctx, WorkerRegistration{
		WorkerID: r.WorkerID, PoolID: string(r.PoolID), URL: r.URL, Engine: string(r.Engine), EngineVersion: r.EngineVersion,
		ModelDigest: r.ModelDigest, Fingerprint: r.Fingerprint, Device: r.Device.Or(""), Slots: r.Slots, Ctx: r.Ctx,
	})
	if err != nil {
		return nil, err
	}
	return &gen.WorkerLeaseHeaders{Response: gen.WorkerLease{
		WorkerID: v.WorkerID, ReplicaID: task.Clip(v.ReplicaID, maxName), LeaseMs: max(millis(v.Lease), 1),
	}}, nil
}

// checkWorkerURL refuses what could not be the base of an engine's addresses. No message repeats the URL: it may hold a
// password.
func checkWorkerURL(raw string) error {
	bad := func(why string) error {
		return task.Errorf(task.InvalidParams, "`url` %s: give the engine's base URL, such as http://192.168.1.20:9700", why)
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return bad("is not a URL")
	case u.Scheme != "http" && u.Scheme != "https":
		return bad("must begin with http:// or https://")
	case u.Hostname() == "":
		return bad("names no host")
	case u.User != nil:
		return bad("must not hold a user or a password")
	case u.RawQuery != "" || u.ForceQuery:
		return bad("must not have a query")
	case u.Fragment != "" || raw[len(raw)-1] == '#':
		return bad("must not have a fragment")
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
			return bad("has a port that is not from 1 to 65535")
		}
	}
	return nil
}

// clipAll is never nil: the contract has a list, which may be empty.
func clipAll(list []string, n int) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = task.Clip(s, n)
	}
	return out
}
