// SPDX-License-Identifier: GPL-3.0-or-later

package api

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"

	"github.com/llama-orch/llama-orch/gen"
	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/task"
)

// features are what clients may rely on beyond single operations.
var features = []string{
	"cancel_sealed", "config_reload", "deadline", "determinism_strict", "gpu_memory_ledger", "idempotent_submit", "placement_explain",
	"placement_pin", "pool_drain", "pool_load", "pool_reload", "pool_resume", "pool_unload", "pools_on_demand", "receipts", "stream_resume", "worker_register",
}

// GetCapabilities says what this server can do (ORCH-3095).
func (h control) GetCapabilities(context.Context) (*gen.CapabilitiesHeaders, error) {
	out := gen.Capabilities{
		APIVersion:    h.contract.version,
		ServerVersion: task.Clip(h.Version, maxShort),
		Limits:        h.contract.limits(h.Limits),
		Features:      slices.Sorted(slices.Values(slices.Concat(h.Engines, features))),
		Gpus:          toGPUs(h.Pools.GPUs().GPUs),
	}
	for _, p := range h.Pools.Pools() {
		out.Pools = append(out.Pools, gen.CapabilityPool{
			ID: gen.PoolID(p.ID), Engine: task.Clip(p.Engine, maxShort), EngineVersion: task.Clip(p.EngineVersion, maxName),
			Model: toModel(p.Model), Workload: gen.Workload(p.Workload), Ctx: p.Ctx, Slots: p.Slots,
			Features: toFeatures(p.Features), Replicas: p.Replicas, ReplicasReady: p.ReplicasReady,
			Routes: toRoutes(p.Routes), Span: gen.OptBool{Value: true, Set: p.Span},
			ReusePiece: gen.OptInt{Value: p.Piece, Set: p.Piece > 0},
		})
	}
	for _, o := range h.contract.operations {
		status := gen.OperationStatusNotImplemented
		if live[o.name] {
			status = gen.OperationStatusLive
		}
		out.Operations = append(out.Operations, gen.Operation{
			ID: o.id, Method: o.method, Path: o.path, Plane: gen.OperationPlane(o.plane), Status: status,
		})
	}
	return &gen.CapabilitiesHeaders{Response: out}, nil
}

// limits are the limits in force: those that others hold a request to, and beside them those of the contract, by which gen does.
func (c *contract) limits(l Limits) gen.Limits {
	request, _ := dig[schema](c.root, "components", "schemas", "TaskRequest", "properties")
	params, _ := dig[schema](c.root, "components", "schemas", "Params", "properties")
	figure := func(properties schema, name, bound string) int64 {
		field, _ := properties[name].(schema)
		f, _ := number(c.resolve(field)[bound])
		return int64(f)
	}
	return gen.Limits{
		MaxBodyBytes:   l.BodyBytes,
		MaxPromptBytes: l.PromptBytes,
		MaxMessages:    l.Inputs,
		MaxInputs:      l.Inputs,
		MaxStop:        int(figure(params, "stop", "maxItems")),
		MaxSeed:        figure(request, "seed", "maximum"),
		MaxDeadlineMs:  figure(request, "deadline_ms", "maximum"),
	}
}

// ListPools lists the pools.
func (h pools) ListPools(context.Context) (*gen.PoolListHeaders, error) {
	list := h.Pools.Pools()
	out := gen.PoolList{Pools: make([]gen.Pool, len(list))}
	for i, p := range list {
		out.Pools[i] = toPool(p)
	}
	return &gen.PoolListHeaders{Response: out}, nil
}

// GetPoolHealth shows a pool's readiness, replicas, queue and GPUs (ORCH-2101).
func (h pools) GetPoolHealth(_ context.Context, p gen.GetPoolHealthParams) (*gen.PoolHealthHeaders, error) {
	v, err := h.Pools.Health(string(p.ID))
	if err != nil {
		return nil, err
	}
	out := gen.PoolHealth{Pool: toPool(v.Pool), Replicas: make([]gen.Replica, len(v.Replicas)), Gpus: toGPUs(v.GPUs)}
	for i, r := range v.Replicas {
		ctx := gen.OptInt{Value: r.Ctx, Set: r.Ctx > 0}
		out.Replicas[i] = gen.Replica{
			ID: task.Clip(r.ID, maxName), State: gen.ReplicaState(r.State), Restarts: r.Restarts,
			Fingerprint: task.Clip(r.Fingerprint, maxName), EngineVersion: task.Clip(r.EngineVersion, maxName),
			Device: task.Clip(r.Device, maxID), Slots: r.Slots, Active: r.Active, Ctx: ctx, Cards: append([]int{}, r.Cards...),
			EstimateBytes: optBytes(r.EstimateBytes), ObservedBytes: optBytes(r.ObservedBytes), Hosts: toHosts(r.Hosts), LoadMs: optMillis(r.LoadTime),
			Progress: optString(task.Clip(r.Progress, maxProgress)), LastError: optString(task.Clip(r.LastError, maxMessage)), LogTail: logTail(r.LogTail),
		}
	}
	return &gen.PoolHealthHeaders{Response: out}, nil
}

// GetFingerprint says what a fingerprint stands for (LO-942).
func (h pools) GetFingerprint(_ context.Context, p gen.GetFingerprintParams) (*gen.FingerprintHeaders, error) {
	v, err := h.Pools.Fingerprint(string(p.ID))
	if err != nil {
		return nil, err
	}
	return &gen.FingerprintHeaders{Response: gen.Fingerprint{
		ID: p.ID, SeenAt: v.Seen, Replicas: clipAll(v.Replicas, maxName),
		Facts: gen.Facts{
			Engine: v.Engine, Build: task.Clip(v.Build, maxMessage), System: task.Clip(v.System, maxMessage), Device: task.Clip(v.Device, maxMessage),
			EngineDigest: task.Clip(v.EngineDigest, maxMessage), ModelDigest: task.Clip(v.ModelDigest, maxName),
			Threads: v.Threads, Ctx: v.Ctx, Slots: v.Slots, Batch: v.Batch,
			Flags: clipAll(v.Flags, maxArgument), Files: v.Files, BuildRef: optString(task.Clip(v.BuildRef, maxMessage)), BuildFlags: v.BuildFlags,
		},
	}}, nil
}

// maxArgument is what the contract allows of one of an engine's arguments.
const maxArgument = 65536

// maxLogLines is what the contract allows of a replica.
const maxLogLines = 256

func logTail(lines []string) []string {
	return clipAll(lines[max(len(lines)-maxLogLines, 0):], maxMessage)
}

func toPool(p PoolView) gen.Pool {
	out := gen.Pool{
		ID: gen.PoolID(p.ID), State: gen.PoolState(p.State), Progress: gen.OptFloat64{Value: min(p.Progress, 1), Set: p.Progress > 0}, Engine: task.Clip(p.Engine, maxShort), EngineVersion: task.Clip(p.EngineVersion, maxName),
		Model: toModel(p.Model), Workload: gen.Workload(p.Workload), Device: task.Clip(p.Device, maxID), Ctx: p.Ctx, Slots: p.Slots,
		Features: toFeatures(p.Features), Routes: toRoutes(p.Routes), SamplerProfile: task.Clip(p.SamplerProfile, maxShort), Ready: p.Ready, Draining: p.Draining,
		Lifecycle: gen.Lifecycle(p.Lifecycle), Loaded: p.Loaded,
		LastError: optString(task.Clip(p.LastError, maxMessage)), Replicas: p.Replicas, ReplicasReady: p.ReplicasReady,
		Queue: gen.Queue{
			Depth: p.Queue.Interactive + p.Queue.Batch, Interactive: p.Queue.Interactive, Batch: p.Queue.Batch,
			Capacity: p.Queue.Capacity, FullPolicy: gen.QueueFullPolicy(p.Queue.FullPolicy),
		},
	}
	if p.SelfTest.State != "" {
		test := gen.SelfTest{State: gen.SelfTestState(p.SelfTest.State), Detail: task.Clip(p.SelfTest.Detail, maxMessage), Steps: []gen.SelfTestStep{}}
		for _, s := range p.SelfTest.Steps {
			test.Steps = append(test.Steps, gen.SelfTestStep{Step: gen.SelfTestStepStep(s.Step), State: gen.SelfTestState(s.State)})
		}
		out.SelfTest = gen.NewOptSelfTest(test)
	}
	return out
}

// maxRoute is what the contract allows of a route.
const maxRoute = 256

func toRoutes(routes []string) []string {
	if len(routes) == 0 {
		return nil
	}
	return clipAll(routes, maxRoute)
}

func toHosts(hosts []HostView) []gen.RPCHost {
	var out []gen.RPCHost
	for _, h := range hosts {
		out = append(out, gen.RPCHost{Host: h.Host, FreeBytes: optBytes(h.FreeBytes), UsedBytes: optBytes(h.Used)})
	}
	return out
}

func toFeatures(features []task.Feature) gen.ChatFeatures {
	var out gen.ChatFeatures
	for _, f := range features {
		out = append(out, gen.ChatFeaturesItem(f))
	}
	slices.Sort(out)
	return out
}

func toModel(m ModelView) gen.PoolModel {
	return gen.PoolModel{ID: task.Clip(m.ID, maxID), Ref: m.Ref, Digest: optString(task.Clip(m.Digest, maxName))}
}

func toGPUs(list []GPUView) []gen.GPU {
	out := make([]gen.GPU, len(list))
	for i, g := range list {
		out[i] = gen.GPU{
			Index: g.Index, UUID: task.Clip(g.UUID, maxID), Name: task.Clip(g.Name, maxID), DriverVersion: task.Clip(g.DriverVersion, maxShort),
			Healthy: g.Healthy, LastError: optString(task.Clip(g.LastError, maxMessage)),
			VramTotalBytes: g.VRAMTotal, VramUsedBytes: g.VRAMUsed, VramOtherBytes: g.VRAMOther, VramPromisedBytes: g.VRAMPromised,
			VramFreeBytes: max(g.VRAMFree, 0), Utilization: g.Utilization, Holders: make([]gen.VRAMHolder, len(g.Holders)),
		}
		if g.TemperatureC != 0 {
			out[i].TemperatureC = gen.NewOptInt(g.TemperatureC)
		}
		if g.PowerW > 0 {
			out[i].PowerW = gen.NewOptFloat64(g.PowerW)
		}
		if g.EnergyJ > 0 {
			out[i].EnergyJ = gen.NewOptFloat64(g.EnergyJ)
		}
		for n, h := range g.Holders {
			out[i].Holders[n] = gen.VRAMHolder{ReplicaID: optString(task.Clip(h.ReplicaID, maxName)), UsedBytes: h.Used, PromisedBytes: h.Promised}
			if h.PID > 0 {
				out[i].Holders[n].Pid = gen.NewOptInt(h.PID)
			}
		}
	}
	return out
}

// optBytes leaves out what is not known.
func optBytes(n int64) gen.OptInt64 {
	if n <= 0 {
		return gen.OptInt64{}
	}
	return gen.NewOptInt64(n)
}

func optMillis(d time.Duration) gen.OptInt64 { return optBytes(d.Milliseconds()) }

// GetLiveness answers for as long as the process runs.
func (ops) GetLiveness(context.Context) (*gen.HealthHeaders, error) {
	return &gen.HealthHeaders{Response: gen.Health{Status: gen.HealthStatusOk}}, nil
}

// GetReadiness says whether a task could be served. Why not is only for those who may call everything (LO-841).
func (h ops) GetReadiness(ctx context.Context) (*gen.HealthHeaders, error) {
	if err := h.Pools.Ready(ctx); err != nil {
		why := *task.AsError(err)
		if gate.CallFrom(ctx).Identity == "" {
			why.Reasons = nil
		}
		return nil, &why
	}
	return &gen.HealthHeaders{Response: gen.Health{Status: gen.HealthStatusReady}}, nil
}

// GetMetrics serves the Prometheus exposition.
func (h ops) GetMetrics(ctx context.Context, w http.ResponseWriter) error {
	families, err := h.Gatherer.Gather()
	if err != nil {
		return task.AsError(err)
	}
	gathered := prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) { return families, nil })
	promhttp.HandlerFor(gathered, promhttp.HandlerOpts{EnableOpenMetrics: h.Exemplars}).ServeHTTP(w, callFrom(ctx).request)
	return nil
}
