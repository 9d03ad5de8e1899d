// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"bytes"
	"cmp"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/llama-orch/llama-orch/gen"
	"github.com/llama-orch/llama-orch/service/flow/stream"
	"github.com/llama-orch/llama-orch/service/task"
)

// asMain makes the test binary the program itself, for the test that needs a process.
const asMain = "LLAMA_ORCH_TEST_AS_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asMain) != "" {
		main()
	}
	goleak.VerifyTestMain(m)
}

// daemon speaks the contract: one task, whose log the test writes.
type daemon struct {
	gen.Handler
	pools  []gen.Pool
	refuse *gen.ErrorStatusCodeWithHeaders // the answer to everything, if set
	log    *stream.Log
	writer *stream.Attempt
	before func() // runs within a submit

	took      *float64 // joules, for the task
	unready   error    // the answer of /readyz, if set
	gpus      gen.GPUList
	hosts     []gen.Host
	selfTests int // tasks that the server has sent itself
	health    func(gen.PoolID) gen.PoolHealth

	mu       sync.Mutex
	at       gen.TaskState // of the one task; empty: it waits
	token    string
	request  *gen.TaskRequest
	explain  *gen.ExplainRequest
	drained  *gen.DrainRequest
	session  *gen.SessionRequest
	canceled []gen.TaskID
	deleted  []gen.TaskID
}

func newDaemon() *daemon {
	log := stream.New(task.Started{TaskID: "t", Seed: 7, Determinism: task.Strict}, time.Now)
	return &daemon{
		pools: []gen.Pool{pool("default", "haiku", gen.WorkloadCompletion), pool("vectors", "embedder", gen.WorkloadEmbedding)},
		log:   log, writer: log.Begin(), health: healthy, gpus: twoCards(),
	}
}

func pool(id gen.PoolID, model string, workload gen.Workload) gen.Pool {
	return gen.Pool{
		ID: id, State: gen.PoolStateReady, Engine: "llamacpp", EngineVersion: "v", Model: gen.PoolModel{ID: model, Ref: "file:" + model}, Workload: workload,
		Device: "cpu", Ctx: 256, Slots: 1, SamplerProfile: "v1", Ready: true, Lifecycle: gen.LifecyclePinned, Loaded: true, Replicas: 2, ReplicasReady: 1,
		Queue: gen.Queue{Depth: 3, Interactive: 2, Batch: 1, Capacity: 64, FullPolicy: gen.QueueFullPolicyReject},
	}
}

// complete writes the tokens and a correct receipt.
func (d *daemon) complete(t *testing.T, texts ...string) *daemon {
	t.Helper()
	for _, text := range texts {
		require.NoError(t, d.writer.Append(task.Piece{Kind: task.EventText, Text: text}))
	}
	_, digest := d.log.Transcript()
	return d.end(digest)
}

// chat writes the pieces of an answer and a correct receipt.
func (d *daemon) chat(t *testing.T, pieces ...task.Piece) *daemon {
	t.Helper()
	for _, p := range pieces {
		require.NoError(t, d.writer.Append(p))
	}
	_, digest := d.log.Transcript()
	return d.end(digest)
}

func (d *daemon) end(transcript string) *daemon {
	said, _ := d.log.Transcript()
	d.log.End(task.End{
		TokensIn: 4, TokensOut: d.log.Tokens(), DecodeTimeMS: 1500, FinishReason: task.FinishStop, ToolCalls: said.Parts().Calls, EnergyJ: d.took,
		Receipt: task.Receipt{Seed: 7, Determinism: task.Strict, TranscriptSHA256: transcript, TranscriptForm: said.Form(), ReplicaID: "default-0"},
	})
	d.log.Publish()
	return d
}

func (d *daemon) fail(code task.Code) *daemon {
	d.log.Fail(task.Errorf(code, "it ended so"))
	d.log.Publish()
	return d
}

func refusal(status int, code gen.ErrorCode) *gen.ErrorStatusCodeWithHeaders {
	return &gen.ErrorStatusCodeWithHeaders{StatusCode: status, Response: gen.Error{
		Code: code, Message: "not so", RetryAfterMs: gen.NewOptInt64(1250), Hint: gen.NewOptString("look there"),
	}}
}

func (d *daemon) NewError(_ context.Context, err error) *gen.ErrorStatusCodeWithHeaders {
	if d.refuse != nil {
		return d.refuse
	}
	return &gen.ErrorStatusCodeWithHeaders{StatusCode: 500, Response: gen.Error{Code: gen.ErrorCodeINTERNAL, Message: err.Error()}}
}

func (d *daemon) HandleBearerAuth(ctx context.Context, _ gen.OperationName, auth gen.BearerAuth) (context.Context, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.token = auth.Token
	return ctx, nil
}

func (d *daemon) CreateTask(_ context.Context, r *gen.TaskRequest) (*gen.AdmissionHeaders, error) {
	if d.before != nil {
		d.before()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.request = r
	if d.refuse != nil {
		return nil, d.refuse
	}
	return &gen.AdmissionHeaders{Location: "/v1/tasks/t", Response: gen.Admission{
		TaskID: r.TaskID.Value, PoolID: "default", Seed: 7, Determinism: gen.DeterminismStrict,
	}}, nil
}

const waiting = "event: metrics\n" +
	`data: {"phase":"queued","queue_depth":2,"queue_position":1,"predicted_start_ms":86400000,"on_time_probability":1,"kv_warmth":false}` + "\n\n"

func (d *daemon) StreamTask(ctx context.Context, p gen.StreamTaskParams, w http.ResponseWriter) error {
	s, err := d.log.Subscribe(string(p.LastEventID.Value), 0)
	if err != nil {
		return err
	}
	defer s.Close()
	w.Header().Set("Content-Type", "text/event-stream")
	if _, err := io.WriteString(w, waiting); err != nil {
		return nil
	}
	for {
		frames, err := s.Next(ctx, nil)
		if err != nil {
			return nil
		}
		_, err = w.Write(frames)
		s.Written()
		if err != nil || http.NewResponseController(w).Flush() != nil {
			return nil
		}
	}
}

func (d *daemon) CancelTask(_ context.Context, p gen.CancelTaskParams) (*gen.CancelResultHeaders, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.canceled = append(d.canceled, p.ID)
	last, _ := d.log.Seal()
	return &gen.CancelResultHeaders{Response: gen.CancelResult{TaskID: p.ID, Outcome: gen.OutcomeCanceled, LastEventID: gen.EventID(last)}}, nil
}

func (d *daemon) DeleteTask(_ context.Context, p gen.DeleteTaskParams) (*gen.Done, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if p.ID == "runs" {
		return nil, refusal(409, gen.ErrorCodeCONFLICT)
	}
	d.deleted = append(d.deleted, p.ID)
	return &gen.Done{}, nil
}

// stands sets the task's state.
func (d *daemon) stands(at gen.TaskState) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.at = at
}

// canceledTasks are the tasks that were canceled, in order.
func (d *daemon) canceledTasks() []gen.TaskID {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.canceled)
}

func (d *daemon) status(id gen.TaskID, state gen.TaskState) gen.TaskStatus {
	return gen.TaskStatus{
		TaskID: id, State: state, PoolID: "default", Engine: "llamacpp", Workload: gen.WorkloadCompletion, Priority: gen.PriorityBatch,
		ModelRef: "haiku\x1b[31m", QueuePosition: 2, PredictedStartMs: 61000, Seed: 7, Determinism: gen.DeterminismStrict,
		AcceptedAt: time.Unix(1000, 0), TokensOut: 12,
		Error: gen.NewOptError(gen.Error{Code: gen.ErrorCodeWORKERRESET, Message: "the worker died"}), Actor: gen.NewOptString("localhost"),
		EnergyJ: gen.NewOptFloat64(12_345), EnergyCost: gen.NewOptFloat64(0.001),
	}
}

func (d *daemon) GetTask(_ context.Context, p gen.GetTaskParams) (*gen.TaskStatusHeaders, error) {
	if d.refuse != nil {
		return nil, d.refuse
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return &gen.TaskStatusHeaders{Response: d.status(p.ID, cmp.Or(d.at, gen.TaskStateQueued))}, nil
}

func (d *daemon) ListTasks(_ context.Context, p gen.ListTasksParams) (*gen.TaskListHeaders, error) {
	list := gen.TaskList{Tasks: []gen.TaskStatus{d.status("b", p.State.Or(gen.TaskStateQueued)), d.status("a", gen.TaskStateFailed)}}
	for range d.selfTests {
		own := d.status("self-1", gen.TaskStateCompleted)
		own.Actor.SetTo(selfTestActor)
		list.Tasks = append([]gen.TaskStatus{own}, list.Tasks...)
	}
	list.Tasks = list.Tasks[:min(len(list.Tasks), p.Limit.Or(50))]
	return &gen.TaskListHeaders{Response: list}, nil
}

func (d *daemon) ListPools(context.Context) (*gen.PoolListHeaders, error) {
	return &gen.PoolListHeaders{Response: gen.PoolList{Pools: d.pools}}, nil
}

func (d *daemon) GetPoolHealth(_ context.Context, p gen.GetPoolHealthParams) (*gen.PoolHealthHeaders, error) {
	return &gen.PoolHealthHeaders{Response: d.health(p.ID)}, nil
}

func healthy(id gen.PoolID) gen.PoolHealth {
	return gen.PoolHealth{
		Pool: pool(id, "haiku", gen.WorkloadCompletion),
		Replicas: []gen.Replica{
			{
				ID: "default-0", State: gen.ReplicaStateReady, Device: "auto", Slots: 1, Active: 1, Ctx: gen.NewOptInt(4096), Cards: []int{0}, LogTail: []string{"model loaded"},
				EstimateBytes: gen.NewOptInt64(3 << 30), ObservedBytes: gen.NewOptInt64(2 << 30), LoadMs: gen.NewOptInt64(700),
			},
			{
				ID: "default-1", State: gen.ReplicaStateBackoff, Device: "auto", Slots: 1, Cards: []int{}, Restarts: 3,
				LastError: gen.NewOptString("it needs 9 GiB"), LogTail: []string{"out of \x1b[31mmemory"},
			},
		},
		Gpus: twoCards().Gpus[:1],
	}
}

func twoCards() gen.GPUList {
	return gen.GPUList{DriverVersion: gen.NewOptString("550.54"), CudaVersion: gen.NewOptString("12.4"), Gpus: []gen.GPU{
		{
			Index: 0, Name: "NVIDIA RTX 3090", Healthy: true, VramTotalBytes: 24 << 30, VramUsedBytes: 1 << 30, VramFreeBytes: 21 << 30, VramOtherBytes: 512 << 20,
			VramPromisedBytes: 2 << 30, Utilization: 0.42, TemperatureC: gen.NewOptInt(61), PowerW: gen.NewOptFloat64(212.4), EnergyJ: gen.NewOptFloat64(9_000_000),
			Holders: []gen.VRAMHolder{
				{ReplicaID: gen.NewOptString("default-0"), Pid: gen.NewOptInt(4711), UsedBytes: 512 << 20},
				{Pid: gen.NewOptInt(12), UsedBytes: 512 << 20},
				{ReplicaID: gen.NewOptString("default-1"), PromisedBytes: 2 << 30},
			},
		},
		{Index: 1, Name: "NVIDIA RTX 3060", LastError: gen.NewOptString("XID 79: it has fallen off the bus"), VramTotalBytes: 12 << 30, Holders: []gen.VRAMHolder{}},
	}}
}

func (d *daemon) ListGpus(context.Context) (*gen.GPUListHeaders, error) {
	return &gen.GPUListHeaders{Response: d.gpus}, nil
}

func (d *daemon) ListHosts(context.Context) (*gen.HostListHeaders, error) {
	return &gen.HostListHeaders{Response: gen.HostList{Hosts: d.hosts}}, nil
}

func (d *daemon) GetReadiness(context.Context) (*gen.HealthHeaders, error) {
	if d.unready != nil {
		return nil, d.unready
	}
	return &gen.HealthHeaders{Response: gen.Health{Status: gen.HealthStatusReady}}, nil
}

func (d *daemon) ResumePool(_ context.Context, p gen.ResumePoolParams) (*gen.PoolStandingHeaders, error) {
	if d.refuse != nil {
		return nil, d.refuse
	}
	return &gen.PoolStandingHeaders{Response: gen.PoolStanding{PoolID: p.ID, State: gen.PoolStateReady}}, nil
}

func (d *daemon) LoadPool(_ context.Context, p gen.LoadPoolParams) (*gen.PoolStandingHeaders, error) {
	if d.refuse != nil {
		return nil, d.refuse
	}
	return &gen.PoolStandingHeaders{Response: gen.PoolStanding{PoolID: p.ID, State: gen.PoolStateLoading, Queued: 3}}, nil
}

func (d *daemon) UnloadPool(_ context.Context, p gen.UnloadPoolParams) (*gen.PoolStandingHeaders, error) {
	if d.refuse != nil {
		return nil, d.refuse
	}
	return &gen.PoolStandingHeaders{Response: gen.PoolStanding{PoolID: p.ID, State: gen.PoolStateDraining, Running: 1}}, nil
}

func (d *daemon) DrainPool(_ context.Context, r *gen.DrainRequest, p gen.DrainPoolParams) (*gen.DrainStatusHeaders, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.drained = r
	return &gen.DrainStatusHeaders{Response: gen.DrainStatus{PoolID: p.ID, Draining: true, Running: 1, Queued: 3, DeadlineMs: r.DeadlineMs}}, nil
}

func (d *daemon) ReloadPool(_ context.Context, r *gen.ReloadRequest, p gen.ReloadPoolParams) (*gen.ReloadResultHeaders, error) {
	if d.refuse != nil {
		return nil, d.refuse
	}
	return &gen.ReloadResultHeaders{Response: gen.ReloadResult{
		PoolID: p.ID, Model: gen.PoolModel{ID: "haiku", Ref: r.NewModelRef}, PreviousModelRef: "file:old.gguf", TookMs: 840,
	}}, nil
}

func (d *daemon) ExplainPlacement(_ context.Context, r *gen.ExplainRequest) (*gen.ExplanationHeaders, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.explain = r
	e := gen.Explanation{Candidates: []gen.Candidate{}, Evictions: []gen.Eviction{}}
	if r.ModelRef != "nothing" {
		e.PoolID.SetTo("default")
		e.Candidates = []gen.Candidate{
			{PoolID: "default", Chosen: true, Reasons: []string{"it can be loaded"}},
			{PoolID: "other", ReplicaID: gen.NewOptString("other-0"), Active: gen.NewOptInt(1), VramFreeBytes: gen.NewOptInt64(8 << 30), Reasons: []string{"another model", "it drains"}},
		}
		e.Evictions = []gen.Eviction{{PoolID: "idle", ReplicaID: "idle-0", FreesBytes: 4 << 30}}
	}
	if r.ModelRef == "placed" {
		e.ReplicaID.SetTo("default-0")
	}
	return &gen.ExplanationHeaders{Response: e}, nil
}

func (d *daemon) ReloadConfig(context.Context) (*gen.ConfigReloadResultHeaders, error) {
	if d.refuse != nil {
		return nil, d.refuse
	}
	return &gen.ConfigReloadResultHeaders{Response: gen.ConfigReloadResult{Changed: []string{"pools.default"}, RestartRequired: []string{"bind_addr"}}}, nil
}

func (d *daemon) GetCapabilities(context.Context) (*gen.CapabilitiesHeaders, error) {
	return &gen.CapabilitiesHeaders{Response: gen.Capabilities{
		APIVersion: "1.0.0", ServerVersion: "0.1.0", Features: []string{"stream_resume", "receipts"}, Gpus: []gen.GPU{},
		Limits:     gen.Limits{MaxBodyBytes: 4096, MaxPromptBytes: 1, MaxMessages: 1, MaxInputs: 1, MaxStop: 1, MaxSeed: 1, MaxDeadlineMs: 86400000},
		Operations: []gen.Operation{{ID: "createTask", Method: "POST", Path: "/v1/tasks", Plane: "data", Status: "live"}},
		Pools: []gen.CapabilityPool{{
			ID: "default", Engine: "llamacpp", Model: gen.PoolModel{ID: "haiku", Ref: "file:haiku"},
			Workload: gen.WorkloadCompletion, Ctx: 256, Slots: 1, Replicas: 2, ReplicasReady: 1,
		}},
	}}, nil
}

func (d *daemon) serve(t *testing.T) string { return serve(t, d) }

// serve starts a daemon that ends with the test, and returns its address.
func serve(t testing.TB, daemon interface {
	gen.Handler
	gen.SecurityHandler
},
) string {
	t.Helper()
	handler, err := gen.NewServer(daemon, daemon)
	require.NoError(t, err)
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.URL
}

// output is what a run of the program left behind.
type output struct {
	code     int
	out, err string
}

// call runs the program against the address.
func call(ctx context.Context, addr, stdin string, args ...string) output {
	return callWith(ctx, map[string]string{addrEnv: addr, tokenEnv: "s3cret"}, stdin, args...)
}

// callWith runs the program in an environment.
func callWith(ctx context.Context, env map[string]string, stdin string, args ...string) output {
	var out, err bytes.Buffer
	code := run(ctx, args, func(key string) string { return env[key] }, strings.NewReader(stdin), &out, &err)
	return output{code, out.String(), err.String()}
}
