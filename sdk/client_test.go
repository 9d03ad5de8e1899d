// SPDX-License-Identifier: GPL-3.0-or-later

package sdk

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/gen"
)

// fake implements the operations of the contract that the client uses, and notes the requests.
type fake struct {
	gen.Handler
	token    string
	request  *gen.TaskRequest
	list     gen.ListTasksParams
	canceled gen.TaskID
	deleted  gen.TaskID
	explain  *gen.ExplainRequest
}

func (f *fake) HandleBearerAuth(ctx context.Context, _ gen.OperationName, auth gen.BearerAuth) (context.Context, error) {
	f.token = auth.Token
	return ctx, nil
}

func (f *fake) CreateTask(_ context.Context, r *gen.TaskRequest) (*gen.AdmissionHeaders, error) {
	f.request = r
	return &gen.AdmissionHeaders{Location: "/v1/tasks/t", Response: gen.Admission{
		TaskID: "t", PoolID: "default", QueuePosition: 3, PredictedStartMs: 1200, BackoffMs: 50, Seed: 42, Determinism: gen.DeterminismStrict,
	}}, nil
}

func (f *fake) GetTask(_ context.Context, p gen.GetTaskParams) (*gen.TaskStatusHeaders, error) {
	return &gen.TaskStatusHeaders{Response: status(p.ID)}, nil
}

func (f *fake) ListTasks(_ context.Context, p gen.ListTasksParams) (*gen.TaskListHeaders, error) {
	f.list = p
	return &gen.TaskListHeaders{Response: gen.TaskList{Tasks: []gen.TaskStatus{status("b"), status("a")}}}, nil
}

func (f *fake) CancelTask(_ context.Context, p gen.CancelTaskParams) (*gen.CancelResultHeaders, error) {
	f.canceled = p.ID
	return &gen.CancelResultHeaders{Response: gen.CancelResult{TaskID: p.ID, Outcome: gen.OutcomeCanceled, LastEventID: "7-9f86d081"}}, nil
}

func (f *fake) DeleteTask(_ context.Context, p gen.DeleteTaskParams) (*gen.Done, error) {
	f.deleted = p.ID
	return &gen.Done{}, nil
}

func (f *fake) ListPools(context.Context) (*gen.PoolListHeaders, error) {
	return &gen.PoolListHeaders{Response: gen.PoolList{Pools: []gen.Pool{pool("default")}}}, nil
}

func (f *fake) GetPoolHealth(_ context.Context, p gen.GetPoolHealthParams) (*gen.PoolHealthHeaders, error) {
	return &gen.PoolHealthHeaders{Response: gen.PoolHealth{Pool: pool(p.ID), Replicas: []gen.Replica{}, Gpus: []gen.GPU{}}}, nil
}

func (f *fake) GetCapabilities(context.Context) (*gen.CapabilitiesHeaders, error) {
	return &gen.CapabilitiesHeaders{Response: gen.Capabilities{
		APIVersion: "1.0.0", ServerVersion: "0.1.0", Pools: []gen.CapabilityPool{}, Features: []string{"stream_resume"}, Gpus: []gen.GPU{},
		Operations: []gen.Operation{},
		Limits:     gen.Limits{MaxBodyBytes: 1, MaxPromptBytes: 1, MaxMessages: 1, MaxInputs: 1, MaxStop: 1, MaxSeed: 1, MaxDeadlineMs: 1},
	}}, nil
}

func (f *fake) ResumePool(_ context.Context, p gen.ResumePoolParams) (*gen.PoolStandingHeaders, error) {
	return &gen.PoolStandingHeaders{Response: gen.PoolStanding{PoolID: p.ID, State: gen.PoolStateReady}}, nil
}

func (f *fake) LoadPool(_ context.Context, p gen.LoadPoolParams) (*gen.PoolStandingHeaders, error) {
	return &gen.PoolStandingHeaders{Response: gen.PoolStanding{PoolID: p.ID, State: gen.PoolStateLoading, Queued: 3}}, nil
}

func (f *fake) UnloadPool(_ context.Context, p gen.UnloadPoolParams) (*gen.PoolStandingHeaders, error) {
	return &gen.PoolStandingHeaders{Response: gen.PoolStanding{PoolID: p.ID, State: gen.PoolStateDraining, Running: 1}}, nil
}

func (f *fake) DrainPool(_ context.Context, r *gen.DrainRequest, p gen.DrainPoolParams) (*gen.DrainStatusHeaders, error) {
	return &gen.DrainStatusHeaders{Response: gen.DrainStatus{PoolID: p.ID, Draining: true, Running: 1, Queued: 3, DeadlineMs: r.DeadlineMs}}, nil
}

func (f *fake) ReloadPool(_ context.Context, r *gen.ReloadRequest, p gen.ReloadPoolParams) (*gen.ReloadResultHeaders, error) {
	return &gen.ReloadResultHeaders{Response: gen.ReloadResult{
		PoolID: p.ID, Model: gen.PoolModel{ID: "haiku", Ref: r.NewModelRef}, PreviousModelRef: "file:old.gguf", TookMs: 840,
	}}, nil
}

func (f *fake) ListGpus(context.Context) (*gen.GPUListHeaders, error) {
	return &gen.GPUListHeaders{Response: gen.GPUList{Problem: gen.NewOptString("no driver"), Gpus: []gen.GPU{}}}, nil
}

func (f *fake) ListHosts(context.Context) (*gen.HostListHeaders, error) {
	return &gen.HostListHeaders{Response: gen.HostList{Hosts: []gen.Host{{ID: "a", Name: "attic", Here: true, Up: true, Pools: []gen.HostPool{}}}}}, nil
}

func (f *fake) ExplainPlacement(_ context.Context, r *gen.ExplainRequest) (*gen.ExplanationHeaders, error) {
	f.explain = r
	return &gen.ExplanationHeaders{Response: gen.Explanation{
		PoolID: gen.NewOptPoolID("default"), Candidates: []gen.Candidate{{PoolID: "default", Chosen: true, Reasons: []string{"the only one"}}},
		Evictions: []gen.Eviction{},
	}}, nil
}

func (f *fake) ReloadConfig(context.Context) (*gen.ConfigReloadResultHeaders, error) {
	return &gen.ConfigReloadResultHeaders{Response: gen.ConfigReloadResult{Changed: []string{"pools.default"}, RestartRequired: []string{}}}, nil
}

func (f *fake) GetReadiness(context.Context) (*gen.HealthHeaders, error) {
	return &gen.HealthHeaders{Response: gen.Health{Status: gen.HealthStatusReady}}, nil
}

func status(id gen.TaskID) gen.TaskStatus {
	return gen.TaskStatus{
		TaskID: id, State: gen.TaskStateRunning, PoolID: "default", Engine: "llamacpp", Workload: gen.WorkloadCompletion,
		Priority: gen.PriorityBatch, ModelRef: "haiku", Determinism: gen.DeterminismStrict, AcceptedAt: time.Unix(1000, 0).UTC(),
	}
}

func pool(id gen.PoolID) gen.Pool {
	return gen.Pool{
		ID: id, State: gen.PoolStateReady, Engine: "llamacpp", Model: gen.PoolModel{ID: "haiku", Ref: "file:haiku.gguf"}, Workload: gen.WorkloadCompletion,
		Device: "cpu", SamplerProfile: "v1", Ready: true, Lifecycle: gen.LifecyclePinned, Loaded: true, Queue: gen.Queue{Capacity: 64, FullPolicy: gen.QueueFullPolicyReject},
	}
}

// ORCH-2001, ORCH-3026, ORCH-3095, AUTH-1001
func TestOperations(t *testing.T) {
	t.Parallel()
	f := &fake{}
	server, err := gen.NewServer(f, f)
	require.NoError(t, err)
	c, _ := setup(t, server, func(o *Options) { o.Token = "s3cret" })
	ctx := t.Context()

	admission, err := c.Submit(ctx, &TaskRequest{ModelRef: "haiku", Prompt: "hi", Seed: new(int64(42))})
	require.NoError(t, err)
	require.Equal(t, 3, admission.QueuePosition)
	require.EqualValues(t, 1200, admission.PredictedStartMS)
	require.Equal(t, gen.NewOptString("hi"), f.request.Prompt)
	require.Equal(t, gen.NewOptSeed(42), f.request.Seed)
	require.Equal(t, "s3cret", f.token)

	task, err := c.Get(ctx, "report-17")
	require.NoError(t, err)
	require.Equal(t, "report-17", task.TaskID)

	tasks, err := c.List(ctx, TaskStateRunning, 2)
	require.NoError(t, err)
	require.Len(t, tasks, 2)
	require.Equal(t, gen.ListTasksParams{State: gen.NewOptTaskState(gen.TaskStateRunning), Limit: gen.NewOptInt(2)}, f.list)
	_, err = c.List(ctx, "", 0)
	require.NoError(t, err)
	require.Equal(t, gen.ListTasksParams{Limit: gen.NewOptInt(50)}, f.list, "the server's default")

	result, err := c.Cancel(ctx, "t")
	require.NoError(t, err)
	require.Equal(t, "7-9f86d081", result.LastEventID)
	require.Equal(t, gen.TaskID("t"), f.canceled)

	require.NoError(t, c.Delete(ctx, "ended"))
	require.Equal(t, gen.TaskID("ended"), f.deleted)

	pools, err := c.Pools(ctx)
	require.NoError(t, err)
	require.Equal(t, "haiku", pools[0].Model.ID)
	health, err := c.PoolHealth(ctx, "default")
	require.NoError(t, err)
	require.True(t, health.Pool.Ready)
	capabilities, err := c.Capabilities(ctx)
	require.NoError(t, err)
	require.Equal(t, []string{"stream_resume"}, capabilities.Features)
}

// ORCH-2101, LO-501, LO-502, LO-842
func TestOperationsOfControl(t *testing.T) {
	t.Parallel()
	f := &fake{}
	server, err := gen.NewServer(f, f)
	require.NoError(t, err)
	for name, change := range map[string]func(*Options){
		"over its own HTTP client": func(*Options) {},
		"over another": func(o *Options) {
			o.HTTPClient = &http.Client{Transport: http.DefaultTransport.(*http.Transport).Clone()}
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := setup(t, server, change)
			ctx := t.Context()
			drain, err := c.Drain(ctx, "default", 1500*time.Millisecond)
			require.NoError(t, err)
			require.Equal(t, &DrainStatus{PoolID: "default", Draining: true, Running: 1, Queued: 3, DeadlineMS: 1500}, drain)
			for call, want := range map[string]PoolStanding{
				"resume": {PoolID: "default", State: PoolStateReady},
				"load":   {PoolID: "default", State: PoolStateLoading, Queued: 3},
				"unload": {PoolID: "default", State: PoolStateDraining, Running: 1},
			} {
				stands, err := map[string]func(context.Context, string) (*PoolStanding, error){
					"resume": c.Resume, "load": c.Load, "unload": c.Unload,
				}[call](ctx, "default")
				require.NoError(t, err)
				require.Equal(t, want, *stands, call)
			}
			reload, err := c.Reload(ctx, "default", "file:new.gguf")
			require.NoError(t, err)
			require.Equal(t, "file:new.gguf", reload.Model.Ref)
			require.Equal(t, "file:old.gguf", reload.PreviousModelRef)
			gpus, err := c.GPUs(ctx)
			require.NoError(t, err)
			require.Equal(t, "no driver", gpus.Problem)
			explanation, err := c.Explain(ctx, &ExplainRequest{ModelRef: "haiku", Ctx: 9})
			require.NoError(t, err)
			require.Equal(t, []string{"the only one"}, explanation.Candidates[0].Reasons)
			require.Equal(t, gen.NewOptInt(9), f.explain.Ctx)
			change, err := c.ReloadConfig(ctx)
			require.NoError(t, err)
			require.Equal(t, []string{"pools.default"}, change.Changed)
			health, err := c.Health(ctx)
			require.NoError(t, err)
			require.Equal(t, HealthStatusReady, health.Status)
		})
	}
}

// Operations that load models may take longer than any other.
//
// ORCH-2101
func TestOnlyLoadingWaitsWithoutABound(t *testing.T) {
	t.Parallel()
	c, err := New(Options{Addr: "http://127.0.0.1:1"})
	require.NoError(t, err)
	require.Equal(t, headerTimeout, c.opts.HTTPClient.Transport.(*http.Transport).ResponseHeaderTimeout)
	require.Zero(t, c.patient.Transport.(*http.Transport).ResponseHeaderTimeout)
	own := &http.Client{}
	c, err = New(Options{Addr: "http://127.0.0.1:1", HTTPClient: own})
	require.NoError(t, err)
	require.Same(t, own, c.patient)
}

// ORCH-2101
func TestErrorsOfControl(t *testing.T) {
	t.Parallel()
	c, _ := setup(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		envelopeAnswer(w, 409, `{"code":"CONFLICT","message":"m","retriable":false}`)
	}))
	for name, call := range map[string]func() error{
		"drain":  func() error { _, err := c.Drain(t.Context(), "p", 0); return err },
		"reload": func() error { _, err := c.Reload(t.Context(), "p", "r"); return err },
		"resume": func() error { _, err := c.Resume(t.Context(), "p"); return err },
		"load":   func() error { _, err := c.Load(t.Context(), "p"); return err },
		"unload": func() error { _, err := c.Unload(t.Context(), "p"); return err },
		"gpus":   func() error { _, err := c.GPUs(t.Context()); return err },
		"hosts":  func() error { _, err := c.Hosts(t.Context()); return err },
		"explain": func() error {
			_, err := c.Explain(t.Context(), &ExplainRequest{ModelRef: "m"})
			return err
		},
		"config": func() error { _, err := c.ReloadConfig(t.Context()); return err },
		"health": func() error { _, err := c.Health(t.Context()); return err },
	} {
		var e *Error
		require.ErrorAs(t, call(), &e, name)
		require.Equal(t, ErrorCodeConflict, e.Code, name)
	}
}

// AUTH-1001
func TestNoTokenSendsNone(t *testing.T) {
	t.Parallel()
	var sent http.Header
	c, _ := setup(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent = r.Header
		envelopeAnswer(w, 404, `{"code":"NOT_FOUND","message":"m","retriable":false}`)
	}))
	_, err := c.Get(t.Context(), "t")
	require.Error(t, err)
	require.NotContains(t, sent, "Authorization")
}

func envelopeAnswer(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(body))
}

// OC-CTRL-2030, ORCH-2007, OC-CTRL-2052
func TestErrorEnvelope(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		status int
		header string
		body   string
		want   Error
	}{
		"queue full": {
			429, "2", `{"code":"ADMISSION_REJECT","message":"full","retriable":true,"retry_after_ms":1250,"policy_label":"reject","engine":"llamacpp","pool_id":"default"}`,
			Error{Status: 429, Code: "ADMISSION_REJECT", Message: "full", Retriable: true, RetryAfter: 1250 * time.Millisecond, PolicyLabel: "reject", Engine: "llamacpp", PoolID: "default"},
		},
		"unready, only the header has a figure": {
			503, "3", `{"code":"POOL_UNREADY","message":"wait","retriable":true}`,
			Error{Status: 503, Code: "POOL_UNREADY", Message: "wait", Retriable: true, RetryAfter: 3 * time.Second},
		},
		"wrong token": {
			401, "", `{"code":"BAD_TOKEN","message":"check it","retriable":false,"hint":"40102"}`,
			Error{Status: 401, Code: "BAD_TOKEN", Message: "check it", Hint: "40102"},
		},
		"a code of a newer server": {
			418, "soon", `{"code":"TEAPOT","message":"short and stout","retriable":false,"spout":1}`,
			Error{Status: 418, Code: "TEAPOT", Message: "short and stout"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, _ := setup(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("X-Correlation-Id", "c-1")
				if test.header != "" {
					w.Header().Set("Retry-After", test.header)
				}
				envelopeAnswer(w, test.status, test.body)
			}))
			test.want.CorrelationID = "c-1"
			var got *Error
			_, err := c.Submit(t.Context(), &TaskRequest{ModelRef: "m"})
			require.ErrorAs(t, err, &got)
			require.Equal(t, &test.want, got)
			_, _, err = read(t.Context(), c, "")
			require.ErrorAs(t, err, &got, "a stream's first answer is not retried")
			require.Equal(t, &test.want, got)
		})
	}
}

// OC-CTRL-2030
func TestAnswersOfSomethingElse(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		status int
		answer http.HandlerFunc
	}{
		"a proxy's page": {502, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			w.WriteHeader(http.StatusBadGateway)
		}},
		"an error without a code":   {500, func(w http.ResponseWriter, _ *http.Request) { envelopeAnswer(w, 500, `{"error":"x"}`) }},
		"an error of broken JSON":   {500, func(w http.ResponseWriter, _ *http.Request) { envelopeAnswer(w, 500, `{"code":`) }},
		"a success of broken JSON":  {0, func(w http.ResponseWriter, _ *http.Request) { envelopeAnswer(w, 200, `{"task_id":`) }},
		"a success of another kind": {0, func(w http.ResponseWriter, _ *http.Request) { sendStream(w, "hello") }},
		"a success without an end": {0, func(w http.ResponseWriter, _ *http.Request) {
			envelopeAnswer(w, 200, strings.Repeat(" ", 5000))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, _ := setup(t, test.answer, func(o *Options) { o.MaxEventBytes = 4096 })
			_, err := c.Get(t.Context(), "t")
			var got *ProtocolError
			require.ErrorAs(t, err, &got)
			require.Equal(t, test.status, got.Status)
		})
	}
}

// OC-CTRL-2030
func TestNoAnswer(t *testing.T) {
	t.Parallel()
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	c, _ := setup(t, http.NotFoundHandler(), func(o *Options) { o.Addr = gone.URL })
	var unreachable *UnreachableError
	_, err := c.Pools(t.Context())
	require.ErrorAs(t, err, &unreachable)
	require.Equal(t, gone.URL, unreachable.Addr)

	c, _ = setup(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		envelopeAnswer(w, 200, `{"pools":`)
		panic(http.ErrAbortHandler)
	}))
	_, err = c.Pools(t.Context())
	require.ErrorAs(t, err, &unreachable, "cut in the middle of an answer")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = c.Pools(ctx)
	require.ErrorIs(t, err, context.Canceled)
	require.NotErrorAs(t, err, &unreachable)
}

// A server behind a proxy may have a path before the API's.
//
// LO-902
func TestTheAddressMayHaveAPath(t *testing.T) {
	t.Parallel()
	var asked string
	c, _ := setup(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL.Path
		envelopeAnswer(w, 404, `{"code":"NOT_FOUND","message":"m","retriable":false}`)
	}), func(o *Options) { o.Addr += "/box/" })
	_, err := c.Get(t.Context(), "t")
	require.Error(t, err)
	require.Equal(t, "/box/v1/tasks/t", asked)
}

// AUTH-1001
func TestNewRefuses(t *testing.T) {
	t.Parallel()
	for _, opts := range []Options{
		{},
		{Addr: "127.0.0.1:8080"},
		{Addr: "ftp://host"},
		{Addr: "http://"},
		{Addr: "http://user:s3cret@host"},
		{Addr: "http://h%zz"},
		{Addr: "http://host/?a=1"},
		{Addr: "http://host/#a"},
		{Addr: "http://host", Token: "s3cret\n"},
		{Addr: "http://host", Token: "s3cret two"},
	} {
		_, err := New(opts)
		require.Error(t, err, opts.Addr)
		require.NotContains(t, err.Error(), "s3cret")
	}
}
