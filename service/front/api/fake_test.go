// SPDX-License-Identifier: GPL-3.0-or-later

package api

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/llama-orch/llama-orch/gen"
	"github.com/llama-orch/llama-orch/service/front/delivery"
	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/task"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testToken = "test-token"

// fakeTasks answers what a test tells it to.
type fakeTasks struct {
	submit    func(task.Request) (task.Admission, error)
	status    task.Status
	err       error
	listed    []task.Status
	subscribe func(id, after string) (delivery.Stream, error)
	rejected  []task.Code
	deleted   []any // what the last Delete was asked
}

func (f *fakeTasks) Rejected(err error) { f.rejected = append(f.rejected, task.AsError(err).Code) }

func (f *fakeTasks) Submit(_ context.Context, r task.Request) (task.Admission, error) {
	if f.submit != nil {
		return f.submit(r)
	}
	return task.Admission{TaskID: "t1", PoolID: "default", Determinism: task.Strict}, f.err
}
func (f *fakeTasks) Get(context.Context, string) (task.Status, error) { return f.status, f.err }
func (f *fakeTasks) List(context.Context, task.State, int) ([]task.Status, error) {
	return f.listed, f.err
}

func (f *fakeTasks) Subscribe(_ context.Context, id, after string) (delivery.Stream, error) {
	if f.subscribe != nil {
		return f.subscribe(id, after)
	}
	return &played{}, f.err
}

func (f *fakeTasks) Cancel(_ context.Context, id string) (task.CancelResult, error) {
	return task.CancelResult{TaskID: id, Outcome: task.StateCanceled, LastEventID: "0-00000000"}, f.err
}

func (f *fakeTasks) Delete(_ context.Context, id, actor string) error {
	f.deleted = []any{id, actor}
	return f.err
}

type fakePools struct {
	sharers  []SharerView
	unready  error
	gpus     GPUsView
	replica  ReplicaView
	features []task.Feature
}

func (f *fakePools) Pools() []PoolView {
	return []PoolView{{
		ID: "default", State: task.PoolReady, Engine: "llamacpp", EngineVersion: "v1", Model: ModelView{ID: "haiku", Ref: "file:haiku.gguf"}, Workload: task.Completion,
		Device: "cpu", Ctx: 256, Slots: 1, Ready: true, Lifecycle: "pinned", Loaded: true, Features: f.features, Replicas: 1, ReplicasReady: 1,
		Queue: QueueView{Interactive: 1, Batch: 2, Capacity: 64, FullPolicy: "reject"},
	}}
}

func (f *fakePools) Fingerprint(id string) (FingerprintView, error) {
	if id != "fp-1" {
		return FingerprintView{}, task.Errorf(task.NotFound, "no replica had it")
	}
	return FingerprintView{ID: id, Seen: time.Unix(0, 0), Replicas: []string{"default-0"}, Engine: "llamacpp", Build: "b1", Ctx: 256, Slots: 1, Flags: []string{"--jinja"}}, nil
}

func (f *fakePools) Health(id string) (HealthView, error) {
	if id != "default" {
		return HealthView{}, task.Errorf(task.NotFound, "there is no pool %q; known: default", id)
	}
	return HealthView{Pool: f.Pools()[0], Replicas: []ReplicaView{f.replica}, GPUs: f.gpus.GPUs}, nil
}
func (f *fakePools) Hosts(context.Context) ([]SharerView, error) { return f.sharers, f.unready }
func (f *fakePools) GPUs() GPUsView                              { return f.gpus }
func (f *fakePools) Ready(context.Context) error                 { return f.unready }

// fakeControl answers what a test tells it to, and notes what it was asked.
type fakeControl struct {
	err      error
	asked    []any
	drain    DrainView
	stands   StandingView
	reload   ReloadView
	explain  Explanation
	change   ConfigChange
	lease    WorkerLease
	onReload func()
}

func (f *fakeControl) Drain(_ context.Context, id string, deadline time.Duration) (DrainView, error) {
	f.asked = []any{id, deadline}
	return f.drain, f.err
}

func (f *fakeControl) Resume(_ context.Context, id string) (StandingView, error) {
	f.asked = []any{"resume", id}
	return f.stands, f.err
}

func (f *fakeControl) Load(_ context.Context, id string) (StandingView, error) {
	f.asked = []any{"load", id}
	return f.stands, f.err
}

func (f *fakeControl) Unload(_ context.Context, id string) (StandingView, error) {
	f.asked = []any{"unload", id}
	return f.stands, f.err
}

func (f *fakeControl) Reload(_ context.Context, id, ref string) (ReloadView, error) {
	f.asked = []any{id, ref}
	if f.onReload != nil {
		f.onReload()
	}
	return f.reload, f.err
}

func (f *fakeControl) Explain(_ context.Context, r task.Request) (Explanation, error) {
	f.asked = []any{r}
	return f.explain, f.err
}

func (f *fakeControl) ReloadConfig(context.Context) (ConfigChange, error) {
	f.asked = []any{}
	return f.change, f.err
}

func (f *fakeControl) Register(_ context.Context, w WorkerRegistration) (WorkerLease, error) {
	f.asked = []any{w}
	return f.lease, f.err
}

type fakeSessions struct {
	asked   []any
	session task.SessionStatus
	rests   task.Budgets
	err     error
}

func (f *fakeSessions) Create(_ context.Context, r task.SessionRequest) (task.SessionStatus, error) {
	f.asked = []any{r}
	return f.session, f.err
}

func (f *fakeSessions) Get(_ context.Context, id, actor string) (task.SessionStatus, error) {
	f.asked = []any{id, actor}
	return f.session, f.err
}

func (f *fakeSessions) Delete(_ context.Context, id string) error {
	f.asked = []any{id}
	return f.err
}

func (f *fakeSessions) Rests(sessionID, actor string) task.Budgets {
	f.asked = []any{sessionID, actor}
	return f.rests
}

// fixture is a handler over fakes, called in memory as from loopback.
type fixture struct {
	tasks    *fakeTasks
	pools    *fakePools
	control  *fakeControl
	sessions *fakeSessions
	streams  *delivery.Streams
	native   *Handler
	handler  http.Handler // native, behind the gate
	options  Options
	auth     *gate.Auth
}

func setup(t testing.TB, change ...func(*Options)) *fixture {
	a, err := gate.NewAuth(gate.AuthOptions{Token: testToken, OptionalOnLoopback: true})
	require.NoError(t, err)
	f := &fixture{
		auth: a, tasks: &fakeTasks{}, control: &fakeControl{}, sessions: &fakeSessions{},
		pools:   &fakePools{replica: ReplicaView{ID: "default-0", State: "ready", LogTail: []string{"loaded"}}},
		streams: delivery.New(delivery.Options{}),
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "queue_depth"}))
	f.options = Options{
		Engines: []string{"llamacpp_rerank", "llamacpp_embedding"},
		Tasks:   f.tasks, Sessions: f.sessions, Pools: f.pools, Control: f.control, Catalog: &fakeCatalog{}, Artifacts: &fakeArtifacts{},
		Streams: f.streams, Gatherer: registry, Version: "0.0.1",
		Limits: Limits{BodyBytes: gate.DefaultMaxBody, PromptBytes: 5000, Inputs: 7},
	}
	for _, c := range change {
		c(&f.options)
	}
	f.native, err = NewHandler(f.options)
	require.NoError(t, err)
	f.handler, err = gate.New(gate.Options{
		Auth: a, Fronts: map[string]gate.Front{"/": f.native}, Log: f.options.Log, MaxBody: f.options.Limits.BodyBytes,
	})
	require.NoError(t, err)
	require.NoError(t, f.streams.Start(t.Context()))
	t.Cleanup(func() { require.NoError(t, f.streams.Stop(context.Background())) })
	return f
}

func (f *fixture) do(method, target, body string, header ...string) *http.Response {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.RemoteAddr, r.Host = "127.0.0.1:5000", "127.0.0.1:8080"
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		if header[i] == "remote" {
			r.RemoteAddr = header[i+1]
			continue
		}
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	f.handler.ServeHTTP(w, r)
	return w.Result()
}

// envelope decodes an error response, strictly: no field beyond the contract's, and gen's own limits hold.
func envelope(t testing.TB, res *http.Response) gen.Error {
	t.Helper()
	require.Equal(t, "application/json; charset=utf-8", res.Header.Get("Content-Type"))
	require.NotEmpty(t, res.Header.Get(gate.CorrelationHeader))
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	var e gen.Error
	require.NoError(t, e.UnmarshalJSON(body), "%s", body)
	require.NoError(t, e.Validate())
	var fields struct {
		Code, Message, Hint, Engine string
		Retriable                   bool
		RetryAfterMS                int64  `json:"retry_after_ms"`
		PolicyLabel                 string `json:"policy_label"`
		PoolID                      string `json:"pool_id"`
		Reasons                     []task.Reason
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	require.NoError(t, d.Decode(&fields))
	require.NotEmpty(t, e.Message)
	require.NotContains(t, string(body), "goroutine")
	require.Equal(t, gate.Refuse(&task.Error{Code: task.Code(e.Code)}).Status, res.StatusCode)
	return e
}

// played is a stream of these frames.
type played []string

func (p *played) Next(context.Context, <-chan time.Time) ([]byte, error) {
	if len(*p) == 0 {
		return nil, io.EOF
	}
	frames := []byte((*p)[0])
	*p = (*p)[1:]
	return frames, nil
}
func (*played) Direct(func([]byte) bool) {}
func (*played) Written()                 {}
func (*played) Last() bool               { return false }
func (*played) Metrics() (task.Metrics, bool) {
	return task.Metrics{Phase: task.PhaseDecode, OnTimeProbability: 1}, true
}
func (*played) Close() {}

type deadlines struct {
	*httptest.ResponseRecorder
	set []time.Time
}

func (d *deadlines) SetWriteDeadline(t time.Time) error {
	d.set = append(d.set, t)
	return nil
}
