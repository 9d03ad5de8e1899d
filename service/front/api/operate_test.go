// SPDX-License-Identifier: GPL-3.0-or-later

package api

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/gen"
	"github.com/llama-orch/llama-orch/service/task"
)

// client speaks to the fixture as the SDK does: what it does not refuse fits the contract.
func (f *fixture) client(t *testing.T) *gen.Client {
	t.Helper()
	server := httptest.NewServer(f.handler)
	t.Cleanup(server.Close)
	c, err := gen.NewClient(server.URL, noToken{}, gen.WithClient(server.Client()))
	require.NoError(t, err)
	t.Cleanup(server.Client().CloseIdleConnections)
	return c
}

// LO-842
func TestResumeLoadAndUnload(t *testing.T) {
	f := setup(t)
	for _, what := range []string{"resume", "load", "unload"} {
		f.control.err, f.control.stands = nil, StandingView{PoolID: "default", State: task.PoolLoading, Running: 1, Queued: 3}
		for _, body := range []string{"", "{}", "[1"} { // it takes none, so it reads none
			res := f.do("POST", "/v1/pools/default/"+what, body)
			require.Equal(t, http.StatusAccepted, res.StatusCode)
			var got gen.PoolStanding
			data, err := io.ReadAll(res.Body)
			require.NoError(t, err)
			require.NoError(t, got.UnmarshalJSON(data))
			require.Equal(t, gen.PoolStanding{PoolID: "default", State: gen.PoolStateLoading, Running: 1, Queued: 3}, got)
			require.Equal(t, []any{what, "default"}, f.control.asked)
		}
		for _, code := range []task.Code{task.NotFound, task.Conflict, task.ModelDeprecated} {
			f.control.err = task.Errorf(code, "what to do")
			require.Equal(t, gen.ErrorCode(code), envelope(t, f.do("POST", "/v1/pools/default/"+what, "")).Code)
		}
		require.Equal(t, gen.ErrorCodeINVALIDPARAMS, envelope(t, f.do("POST", "/v1/pools/a%20b/"+what, "")).Code)
		require.Equal(t, gen.ErrorCodeMETHODNOTALLOWED, envelope(t, f.do("GET", "/v1/pools/default/"+what, "")).Code)
		require.Equal(t, http.StatusUnauthorized, f.do("POST", "/v1/pools/default/"+what, "", "remote", "192.0.2.1:5000").StatusCode)
	}
}

// LO-841: why nothing can be served is for those who could call everything.
func TestWhoLearnsWhyNothingIsReady(t *testing.T) {
	f := setup(t)
	require.Equal(t, http.StatusOK, f.do("GET", "/readyz", "").StatusCode)
	unready := task.Errorf(task.PoolUnready, "no pool can run a task now").Retry(time.Second)
	unready.Reasons = []task.Reason{{PoolID: "default", Code: task.PoolUnavailable, Message: "put the file there"}}
	f.pools.unready = unready
	for name, c := range map[string]struct {
		header  []string
		reasons int
	}{
		"on loopback":                   {nil, 1},
		"with the token":                {[]string{"remote", "192.0.2.1:5000", "Authorization", "Bearer " + testToken}, 1},
		"from elsewhere":                {[]string{"remote", "192.0.2.1:5000"}, 0},
		"with another token":            {[]string{"Authorization", "Bearer nonsense"}, 0},
		"through a proxy on loopback":   {[]string{"X-Forwarded-For", "192.0.2.1"}, 0},
		"from a page of another origin": {[]string{"Origin", "http://elsewhere.example"}, 0},
	} {
		e := envelope(t, f.do("GET", "/readyz", "", c.header...))
		require.Equal(t, gen.ErrorCodePOOLUNREADY, e.Code, name)
		require.True(t, e.Retriable)
		require.Len(t, e.Reasons, c.reasons, name)
		if c.reasons > 0 {
			require.Equal(t, gen.Reason{PoolID: gen.NewOptString("default"), Code: gen.ErrorCodePOOLUNAVAILABLE, Message: "put the file there"}, e.Reasons[0])
		}
	}
}

// ORCH-2101
func TestDrainAndReload(t *testing.T) {
	f := setup(t)
	c, ctx := f.client(t), context.Background()
	f.control.drain = DrainView{PoolID: "default", Draining: true, Running: 1, Queued: 3, Deadline: 1500 * time.Millisecond}
	drained, err := c.DrainPool(ctx, &gen.DrainRequest{DeadlineMs: 1500}, gen.DrainPoolParams{ID: "default"})
	require.NoError(t, err)
	require.Equal(t, []any{"default", 1500 * time.Millisecond}, f.control.asked)
	require.Equal(t, gen.DrainStatus{PoolID: "default", Draining: true, Running: 1, Queued: 3, DeadlineMs: 1500}, drained.Response)
	require.Equal(t, http.StatusAccepted, f.do("POST", "/v1/pools/default/drain", `{"deadline_ms":0}`).StatusCode)

	f.control.reload = ReloadView{PoolID: "default", Model: ModelView{ID: "haiku", Ref: "file:b.gguf", Digest: "sha256:0"}, PreviousRef: "file:a.gguf", Took: 840 * time.Millisecond}
	reloaded, err := c.ReloadPool(ctx, &gen.ReloadRequest{NewModelRef: "file:b.gguf"}, gen.ReloadPoolParams{ID: "default"})
	require.NoError(t, err)
	require.Equal(t, []any{"default", "file:b.gguf"}, f.control.asked)
	require.Equal(t, gen.ReloadResult{
		PoolID: "default", Model: gen.PoolModel{ID: "haiku", Ref: "file:b.gguf", Digest: gen.NewOptString("sha256:0")}, PreviousModelRef: "file:a.gguf", TookMs: 840,
	}, reloaded.Response)

	for code, target := range map[task.Code]string{
		task.NotFound: "/v1/pools/other/drain", task.ModelNotFound: "/v1/pools/default/reload", task.Conflict: "/v1/pools/default/reload",
		task.PoolUnavailable: "/v1/pools/default/reload",
	} {
		f.control.err = task.Errorf(code, "what to do")
		body := `{"deadline_ms":1}`
		if strings.HasSuffix(target, "reload") {
			body = `{"new_model_ref":"file:c.gguf"}`
		}
		require.Equal(t, gen.ErrorCode(code), envelope(t, f.do("POST", target, body)).Code)
	}
}

// Loading a model takes longer than the time that the answer to a request has otherwise.
//
// ORCH-2101
func TestAReloadsAnswerHasTimeAfterTheReload(t *testing.T) {
	f := setup(t)
	w := &deadlines{ResponseRecorder: httptest.NewRecorder()}
	before := 0
	f.control.onReload = func() { before = len(w.set) }
	r := httptest.NewRequest(http.MethodPost, "/v1/pools/default/reload", strings.NewReader(`{"new_model_ref":"file:b.gguf"}`))
	r.RemoteAddr, r.Host = "127.0.0.1:5000", "127.0.0.1:8080"
	r.Header.Set("Content-Type", "application/json")
	f.handler.ServeHTTP(w, r)
	require.Equal(t, http.StatusOK, w.Code)
	require.Equal(t, 1, before)
	require.Len(t, w.set, 2)
}

// LO-712
func TestHosts(t *testing.T) {
	f := setup(t)
	c, ctx := f.client(t), context.Background()
	at := time.Date(2026, 12, 1, 8, 0, 0, 0, time.UTC)
	f.pools.sharers = []SharerView{
		{ID: "a", Name: "attic", Address: "https://attic:1", Version: "1", Here: true, Up: true, Since: at, Seen: at, Pools: []SharedPoolView{{ID: "p", Engine: "llamacpp", ModelID: "m", Digest: "sha256:1", Holds: true}}},
		{ID: "b", Name: "cellar", Since: at, Seen: at},
	}
	all, err := c.ListHosts(ctx)
	require.NoError(t, err)
	require.Len(t, all.Response.Hosts, 2)
	attic, cellar := all.Response.Hosts[0], all.Response.Hosts[1]
	require.Equal(t, gen.NewOptString("https://attic:1"), attic.Address)
	require.True(t, attic.Here && attic.Up)
	require.Equal(t, []gen.HostPool{{PoolID: "p", Engine: "llamacpp", ModelID: "m", ModelDigest: gen.NewOptString("sha256:1"), Holds: true}}, attic.Pools)
	require.False(t, cellar.Here || cellar.Up || cellar.Address.Set)
	f.pools.unready = task.Errorf(task.LedgerUnavailable, "the database is away")
	_, err = c.ListHosts(ctx)
	require.ErrorContains(t, err, "LEDGER_UNAVAILABLE")
}

// LO-501, ORCH-2101
func TestGPUs(t *testing.T) {
	f := setup(t)
	c, ctx := f.client(t), context.Background()
	f.pools.gpus = GPUsView{Problem: "there is no NVIDIA driver: install it, or set the pools' device to cpu"}
	none, err := c.ListGpus(ctx)
	require.NoError(t, err)
	require.Equal(t, gen.GPUList{Problem: gen.NewOptString(f.pools.gpus.Problem), Gpus: []gen.GPU{}}, none.Response)

	f.pools.gpus = GPUsView{Driver: "550.54", CUDA: "12.4", GPUs: []GPUView{
		{
			Index: 0, UUID: "GPU-a", Name: "NVIDIA GeForce RTX 3090", DriverVersion: "550.54", Healthy: true, VRAMTotal: 24 << 30, VRAMUsed: 8 << 30,
			VRAMOther: 1 << 30, VRAMPromised: 2 << 30, VRAMFree: 14 << 30, Utilization: 0.5, TemperatureC: 61, PowerW: 212.5, EnergyJ: 8123.5,
			Holders: []HolderView{{ReplicaID: "coder-0", PID: 4711, Used: 7 << 30}, {ReplicaID: "coder-1", Promised: 2 << 30}, {PID: 12, Used: 1 << 30}},
		},
		{Index: 1, UUID: "GPU-b", Name: "NVIDIA GeForce RTX 3060", LastError: "XID 79: it has fallen off the bus", VRAMTotal: 12 << 30, VRAMFree: -1},
	}}
	two, err := c.ListGpus(ctx)
	require.NoError(t, err)
	require.Equal(t, "12.4", two.Response.CudaVersion.Value)
	first, second := two.Response.Gpus[0], two.Response.Gpus[1]
	require.Equal(t, gen.NewOptInt(61), first.TemperatureC)
	require.Equal(t, gen.NewOptFloat64(212.5), first.PowerW)
	require.Equal(t, gen.NewOptFloat64(8123.5), first.EnergyJ)
	require.EqualValues(t, 14<<30, first.VramFreeBytes)
	require.Equal(t, []gen.VRAMHolder{
		{ReplicaID: gen.NewOptString("coder-0"), Pid: gen.NewOptInt(4711), UsedBytes: 7 << 30},
		{ReplicaID: gen.NewOptString("coder-1"), PromisedBytes: 2 << 30},
		{Pid: gen.NewOptInt(12), UsedBytes: 1 << 30},
	}, first.Holders)
	require.False(t, second.TemperatureC.Set || second.PowerW.Set || second.EnergyJ.Set)
	require.Zero(t, second.VramFreeBytes)
	require.Equal(t, "XID 79: it has fallen off the bus", second.LastError.Value)

	f.pools.replica = ReplicaView{
		ID: "coder-0", State: "loading", Cards: []int{0, 1}, EstimateBytes: 3 << 30, ObservedBytes: 2 << 30, LoadTime: 1500 * time.Millisecond,
	}
	health, err := c.GetPoolHealth(ctx, gen.GetPoolHealthParams{ID: "default"})
	require.NoError(t, err)
	r := health.Response.Replicas[0]
	require.Equal(t, []int{0, 1}, r.Cards)
	require.Equal(t, gen.NewOptInt64(3<<30), r.EstimateBytes)
	require.Equal(t, gen.NewOptInt64(2<<30), r.ObservedBytes)
	require.Equal(t, gen.NewOptInt64(1500), r.LoadMs)
	require.Len(t, health.Response.Gpus, 2)
	require.Equal(t, gen.LifecyclePinned, health.Response.Pool.Lifecycle)
	require.True(t, health.Response.Pool.Loaded)

	capabilities, err := c.GetCapabilities(ctx)
	require.NoError(t, err)
	require.Len(t, capabilities.Response.Gpus, 2)
}

// LO-502
func TestExplain(t *testing.T) {
	f := setup(t)
	c, ctx := f.client(t), context.Background()
	f.control.explain = Explanation{
		PoolID: "default", ReplicaID: "default-1",
		Candidates: []CandidateView{
			{PoolID: "default", ReplicaID: "default-1", Chosen: true, Reasons: []string{"most free VRAM"}, VRAMFree: 12 << 30},
			{PoolID: "other", Reasons: append([]string{strings.Repeat("é", 2000)}, make([]string, 100)...)},
		},
		Evictions: []EvictionView{{PoolID: "idle", ReplicaID: "idle-0", Frees: 4 << 30}},
	}
	session := uuid.MustParse("3f8a1c9e-54b7-4d5a-9d0b-7a2f6f1c2e10")
	answer, err := c.ExplainPlacement(ctx, &gen.ExplainRequest{
		ModelRef: "haiku", Workload: gen.NewOptExplainRequestWorkload("embedding"), Engine: gen.NewOptEngineName("llamacpp"), Ctx: gen.NewOptInt(99),
		SessionID: gen.NewOptSessionID(gen.SessionID(session)), Determinism: gen.NewOptDeterminism(gen.DeterminismStrict),
		Placement: gen.NewOptPlacementWish(gen.PlacementWish{Mode: gen.NewOptPlacementWishMode("prefer"), PoolID: gen.NewOptPoolID("default"), Avoid: []gen.PoolID{"other"}}),
	})
	require.NoError(t, err)
	asked := f.control.asked[0].(task.Request)
	require.NotEmpty(t, asked.CorrelationID)
	require.NotEmpty(t, asked.Actor)
	asked.CorrelationID, asked.Actor = "", ""
	require.Equal(t, task.Request{
		ModelRef: "haiku", Workload: task.Embedding, Engine: "llamacpp", Ctx: 99, SessionID: session.String(), Determinism: task.Strict, Priority: task.Interactive,
		Placement: task.Placement{Mode: task.Prefer, PoolID: "default", Avoid: []string{"other"}},
	}, asked)
	require.Equal(t, gen.NewOptPoolID("default"), answer.Response.PoolID)
	first, second := answer.Response.Candidates[0], answer.Response.Candidates[1]
	require.Equal(t, gen.Candidate{
		PoolID: "default", ReplicaID: gen.NewOptString("default-1"), Chosen: true, Reasons: []string{"most free VRAM"}, Active: gen.NewOptInt(0),
		VramFreeBytes: gen.NewOptInt64(12 << 30),
	}, first)
	require.Len(t, second.Reasons, 64)
	require.False(t, second.Active.Set || second.ReplicaID.Set || second.VramFreeBytes.Set)
	require.Equal(t, []gen.Eviction{{PoolID: "idle", ReplicaID: "idle-0", FreesBytes: 4 << 30}}, answer.Response.Evictions)

	f.control.explain = Explanation{}
	answer, err = c.ExplainPlacement(ctx, &gen.ExplainRequest{ModelRef: "haiku"})
	require.NoError(t, err)
	require.Equal(t, gen.Explanation{Candidates: []gen.Candidate{}, Evictions: []gen.Eviction{}}, answer.Response)
	require.Equal(t, task.Completion, f.control.asked[0].(task.Request).Workload)
	require.Equal(t, task.Auto, f.control.asked[0].(task.Request).Placement.Mode)
}

// ORCH-2101
func TestReloadConfig(t *testing.T) {
	f := setup(t)
	read := func() string {
		body, err := io.ReadAll(f.do("POST", "/v1/config/reload", "").Body)
		require.NoError(t, err)
		return string(body)
	}
	require.JSONEq(t, `{"changed":[],"restart_required":[]}`, read())
	f.control.change = ConfigChange{Changed: []string{"pools.default"}, RestartRequired: []string{"bind_addr"}}
	require.JSONEq(t, `{"changed":["pools.default"],"restart_required":["bind_addr"]}`, read())
	f.control.err = task.Errorf(task.InvalidParams, "config.yaml:3:5: unknown field")
	require.Equal(t, "config.yaml:3:5: unknown field", envelope(t, f.do("POST", "/v1/config/reload", "")).Message)
}

const goodWorker = `{"worker_id":"attic-0","pool_id":"default","url":"http://192.168.1.20:9700","engine":"llamacpp","engine_version":"v","model_digest":"sha256:0",
	"fingerprint":"fd61","device":"0","slots":1,"ctx":256}`

// AUTH-1001, ORCH-2101
func TestRegisterWorker(t *testing.T) {
	f := setup(t)
	withToken := []string{"Authorization", "Bearer " + testToken}
	require.Equal(t, gen.ErrorCodeMISSINGTOKEN, envelope(t, f.do("POST", "/v1/workers/register", goodWorker)).Code)
	require.Equal(t, gen.ErrorCodeBADTOKEN, envelope(t, f.do("POST", "/v1/workers/register", goodWorker, "Authorization", "Bearer x")).Code)
	require.Nil(t, f.control.asked)

	f.control.lease = WorkerLease{WorkerID: "attic-0", ReplicaID: "default-attic-0", Lease: 30 * time.Second}
	res := f.do("POST", "/v1/workers/register", goodWorker, withToken...)
	require.Equal(t, http.StatusCreated, res.StatusCode)
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.JSONEq(t, `{"worker_id":"attic-0","replica_id":"default-attic-0","lease_ms":30000}`, string(body))
	require.Equal(t, []any{WorkerRegistration{
		WorkerID: "attic-0", PoolID: "default", URL: "http://192.168.1.20:9700", Engine: "llamacpp", EngineVersion: "v", ModelDigest: "sha256:0",
		Fingerprint: "fd61", Device: "0", Slots: 1, Ctx: 256,
	}}, f.control.asked)

	f.control.err = task.Errorf(task.InvalidParams, "pool default needs a context of 256 tokens, and the worker has 128")
	require.Equal(t, gen.ErrorCodeINVALIDPARAMS, envelope(t, f.do("POST", "/v1/workers/register", goodWorker, withToken...)).Code)
}

// ORCH-2101
func TestAWorkersURL(t *testing.T) {
	f := setup(t)
	for url, message := range map[string]string{
		"http://host":                "",
		"https://host:1/engine/":     "",
		"http://[fd00::1]:9700":      "",
		"HTTP://host":                "",
		"ftp://host":                 "must begin with http:// or https://",
		"host:9700":                  "must begin with",
		"//host":                     "must begin with",
		"/run/engine.sock":           "must begin with",
		"file:///etc/passwd":         "must begin with",
		"http://":                    "names no host",
		"http://:9700":               "names no host",
		"http:host":                  "names no host",
		"http://user@host":           "must not hold a user or a password",
		"http://user:s3cret@host":    "must not hold a user or a password",
		"http://user:s3cret@host%zz": "is not a URL",
		"http://host?x=1":            "must not have a query",
		"http://host?":               "must not have a query",
		"http://host#x":              "must not have a fragment",
		"http://host#":               "must not have a fragment",
		"http://host:0":              "a port that is not from 1 to 65535",
		"http://host:65536":          "a port that is not from 1 to 65535",
		"http://host:http":           "is not a URL",
		"http://a b":                 "is not a URL",
		`http://host\u0000`:          "is not a URL",
		`http://host\r\nX: y`:        "is not a URL",
	} {
		t.Run(url, func(t *testing.T) {
			f.control.asked = nil
			res := f.do("POST", "/v1/workers/register", strings.Replace(goodWorker, "http://192.168.1.20:9700", url, 1), "Authorization", "Bearer "+testToken)
			if message == "" {
				require.Equal(t, http.StatusCreated, res.StatusCode)
				return
			}
			e := envelope(t, res)
			require.Equal(t, gen.ErrorCodeINVALIDPARAMS, e.Code)
			require.Contains(t, e.Message, message)
			require.NotContains(t, e.Message, "s3cret")
			require.Nil(t, f.control.asked)
		})
	}
}

// OC-CTRL-2030, ORCH-2101, LO-502
func TestBadBodiesOfControl(t *testing.T) {
	f := setup(t)
	change := func(from, to string) string { return strings.Replace(goodWorker, from, to, 1) }
	for _, c := range []struct{ target, body, message string }{
		{"/v1/pools/default/drain", `{}`, "`deadline_ms` is missing: give an integer from 0 to 86400000"},
		{"/v1/pools/default/drain", `{"deadline_ms":-1}`, "`deadline_ms` must be an integer from 0 to 86400000, not -1"},
		{"/v1/pools/default/drain", `{"deadline_ms":86400001}`, "not 86400001"},
		{"/v1/pools/default/drain", `{"deadline_ms":"1s"}`, "not a string"},
		{"/v1/pools/default/drain", `{"deadline":1}`, `unknown field "deadline"`},
		{"/v1/pools/a%20b/drain", `{"deadline_ms":1}`, "path parameter `id` must be a string that matches"},
		{"/v1/pools/default/reload", `{}`, "`new_model_ref` is missing"},
		{"/v1/pools/default/reload", `{"new_model_ref":""}`, "`new_model_ref` must be a string of 1 to 2048 characters"},
		{"/v1/pools/default/reload", `{"new_model_ref":null}`, "not null"},
		{"/v1/pools/default/reload", `{"model_ref":"x"}`, `unknown field "model_ref"`},
		{"/v1/placement/explain", `{}`, "`model_ref` is missing"},
		{"/v1/placement/explain", `{"model_ref":"haiku","prompt":"x"}`, `unknown field "prompt"`},
		{"/v1/placement/explain", `{"model_ref":"haiku","placement":{"mode":"random"}}`, "`placement.mode` must be one of"},
		{"/v1/placement/explain", `{"model_ref":"haiku","ctx":0}`, "`ctx` must be an integer from 1"},
		{"/v1/workers/register", `{}`, "`worker_id` is missing"},
		{"/v1/workers/register", change(`"slots":1`, `"slots":0`), "`slots` must be an integer from 1 to 1024, not 0"},
		{"/v1/workers/register", change(`"ctx":256`, `"ctx":100000001`), "`ctx` must be an integer from 1 to 100000000"},
		{"/v1/workers/register", change(`attic-0`, `../attic`), "`worker_id` must be a string that matches"},
		{"/v1/workers/register", change(`http://192.168.1.20:9700`, ``), "`url` must be a string of 1 to 2048 characters"},
		{"/v1/workers/register", change(`http://`, `http://`+strings.Repeat("x", 2048)), "`url` must be a string of 1 to 2048 characters"},
		{"/v1/workers/register", change(`"device":"0"`, `"devise":"0"`), `unknown field "devise": did you mean "device"?`},
		{"/v1/workers/register", `[]`, "the body must be an object"},
	} {
		t.Run(c.target+" "+task.Clip(c.body, 60), func(t *testing.T) {
			f.control.asked = nil
			e := envelope(t, f.do("POST", c.target, c.body, "Authorization", "Bearer "+testToken))
			require.Equal(t, gen.ErrorCodeINVALIDPARAMS, e.Code)
			require.Contains(t, e.Message, c.message)
			require.Nil(t, f.control.asked)
		})
	}
	for _, target := range []string{"/v1/pools/default/drain", "/v1/pools/default/reload", "/v1/placement/explain", "/v1/workers/register"} {
		require.Equal(t, gen.ErrorCodeINVALIDPARAMS, envelope(t, f.do("POST", target, "", "Authorization", "Bearer "+testToken)).Code, target)
		require.Equal(t, gen.ErrorCodeMETHODNOTALLOWED, envelope(t, f.do("GET", target, "")).Code, target)
	}
	require.Equal(t, gen.ErrorCodeMETHODNOTALLOWED, envelope(t, f.do("POST", "/v1/gpus", "{}")).Code)
}
