// SPDX-License-Identifier: GPL-3.0-or-later

package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/llama-orch/llama-orch/gen"
	"github.com/llama-orch/llama-orch/service/front/delivery"
	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/task"
)

const goodBody = `{"model_ref":"haiku","prompt":"hello"}`

// OC-CTRL-2030
func TestEveryCodeHasItsStatusAndTheEnvelope(t *testing.T) {
	statuses := map[int][]task.Code{
		400: {task.InvalidParams, task.DeadlineUnmet},
		401: {task.MissingToken, task.BadToken},
		403: {task.UntrustedArtifact, task.PolicyDenied},
		404: {task.NotFound, task.ModelNotFound},
		405: {task.MethodNotAllowed},
		409: {task.Conflict, task.Canceled},
		410: {task.ModelDeprecated, task.Deleted},
		413: {task.TooLarge},
		415: {task.UnsupportedMedia},
		429: {task.AdmissionReject, task.QueueFullDropLRU, task.RateLimited, task.BudgetExceeded},
		500: {task.Internal},
		501: {task.NotImplemented},
		503: {task.PoolUnready, task.PoolUnavailable, task.ReplicaExhausted, task.ShuttingDown, task.LedgerUnavailable, task.DecodeTimeout, task.WorkerReset},
	}
	var seen []task.Code
	for status, codes := range statuses {
		for _, code := range codes {
			seen = append(seen, code)
			f := setup(t)
			f.tasks.err = &task.Error{Code: code, Message: "what to do", Engine: "llamacpp", PoolID: "default", Hint: "hint"}
			res := f.do("POST", "/v1/tasks", goodBody)
			require.Equal(t, status, res.StatusCode, code)
			e := envelope(t, res)
			require.Equal(t, gen.ErrorCode(code), e.Code)
			require.Equal(t, "what to do", e.Message)
			require.Equal(t, "llamacpp", e.Engine.Value)
			require.Equal(t, "default", e.PoolID.Value)
			require.Equal(t, (&task.Error{Code: code}).Envelope().Retriable, e.Retriable)
		}
	}
	require.ElementsMatch(t, task.Codes(), seen)
}

// ORCH-2007
func TestBackpressureHeaders(t *testing.T) {
	for _, c := range []struct {
		err                    *task.Error
		retryAfter, backoff    string
		retryAfterMS           int64
		policy                 string
		retriable, hasNoFigure bool
	}{
		{err: task.Errorf(task.AdmissionReject, "full").Retry(1250 * time.Millisecond), retryAfter: "2", backoff: "1250", retryAfterMS: 1250, policy: "reject", retriable: true},
		{err: &task.Error{Code: task.AdmissionReject, Message: "full", PolicyLabel: "drop-lru", RetryAfter: 300 * time.Microsecond}, retryAfter: "1", backoff: "1", retryAfterMS: 1, policy: "drop-lru", retriable: true},
		{err: task.Errorf(task.AdmissionReject, "full"), retryAfter: "1", backoff: "1000", retryAfterMS: 1000, policy: "reject", retriable: true},
		{err: task.Errorf(task.RateLimited, "slow").Retry(1000 * time.Hour), retryAfter: "86400", backoff: "86400000", retryAfterMS: 86400000, policy: "rate-limit", retriable: true},
		{err: task.Errorf(task.BudgetExceeded, "spent"), retryAfter: "1", backoff: "1000", retryAfterMS: 1000, policy: "budget"},
		{err: task.Errorf(task.PoolUnready, "loading").Retry(2 * time.Second), retryAfter: "2", retryAfterMS: 2000, retriable: true},
		{err: task.Errorf(task.PoolUnready, "loading"), retriable: true, hasNoFigure: true},
	} {
		f := setup(t)
		f.tasks.err = c.err
		res := f.do("POST", "/v1/tasks", goodBody)
		require.Equal(t, c.retryAfter, res.Header.Get("Retry-After"))
		require.Equal(t, c.backoff, res.Header.Get("X-Backoff-Ms"))
		e := envelope(t, res)
		require.Equal(t, c.policy, e.PolicyLabel.Value)
		require.Equal(t, c.retriable, e.Retriable)
		require.Equal(t, c.retryAfterMS, e.RetryAfterMs.Value)
		require.Equal(t, !c.hasNoFigure, e.RetryAfterMs.Set)
	}
}

// OC-CTRL-2030
func TestAnUntypedErrorIsInternalAndItsCauseIsLoggedOnly(t *testing.T) {
	core, logs := observer.New(zap.ErrorLevel)
	f := setup(t, func(o *Options) { o.Log = zap.New(core) })
	f.tasks.err = errors.New("disk sector 7 is bad")
	e := envelope(t, f.do("POST", "/v1/tasks", goodBody))
	require.Equal(t, gen.ErrorCodeINTERNAL, e.Code)
	require.NotContains(t, e.Message, "sector")
	require.Equal(t, 1, logs.Len())
	require.Contains(t, fmt.Sprint(logs.All()[0].ContextMap()["error"]), "sector 7")
}

// OC-CTRL-2030
func TestAPanicIsInternalAndTheStackIsLoggedOnly(t *testing.T) {
	core, logs := observer.New(zap.ErrorLevel)
	f := setup(t, func(o *Options) { o.Log = zap.New(core) })
	f.tasks.submit = func(task.Request) (task.Admission, error) { panic("boom") }
	e := envelope(t, f.do("POST", "/v1/tasks", goodBody))
	require.Equal(t, gen.ErrorCodeINTERNAL, e.Code)
	require.NotContains(t, e.Message, "boom")
	require.Contains(t, logs.All()[0].ContextMap()["stack"].(string), "fake_test.go")

	f.tasks.submit = nil
	require.Equal(t, http.StatusAccepted, f.do("POST", "/v1/tasks", goodBody).StatusCode)
}

// ORCH-2001, LO-101, LO-102
func TestSubmitMapsEverything(t *testing.T) {
	f := setup(t)
	var got task.Request
	f.tasks.submit = func(r task.Request) (task.Admission, error) {
		got = r
		return task.Admission{
			TaskID: "a.b-1", PoolID: "default", QueuePosition: 3, PredictedStart: 1500 * time.Millisecond, Backoff: 20 * time.Millisecond,
			Seed: task.MaxSeed, Determinism: task.BestEffort,
		}, nil
	}
	res := f.do("POST", "/v1/tasks", goodBody)
	require.Equal(t, http.StatusAccepted, res.StatusCode)
	require.Equal(t, "/v1/tasks/a.b-1", res.Header.Get("Location"))
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.JSONEq(t, `{"task_id":"a.b-1","pool_id":"default","queue_position":3,"predicted_start_ms":1500,"backoff_ms":20,"seed":4294967294,"determinism":"best_effort"}`, string(body))
	least := got
	least.BodySHA256, least.CorrelationID = [32]byte{}, ""
	require.Equal(t, task.Request{
		ModelRef: "haiku", Prompt: "hello", Workload: task.Completion, Priority: task.Interactive, Placement: task.Placement{Mode: task.Auto},
		KVHint: "auto", OnDisconnect: task.Continue, OutputMode: "text", Actor: "localhost",
	}, least)

	spaced := got.BodySHA256
	f.do("POST", "/v1/tasks", " {\n\"model_ref\" : \"haiku\", \"prompt\":\"hello\" }\n")
	require.Equal(t, spaced, got.BodySHA256, "white space does not count")
	f.do("POST", "/v1/tasks", `{"model_ref":"haiku","prompt":"hello "}`)
	require.NotEqual(t, spaced, got.BodySHA256)

	res = f.do("POST", "/v1/tasks", `{"task_id":"x","session_id":"3f8a1c9e-54b7-4d5a-9d0b-7a2f6f1c2e10","workload":"rerank","model_ref":"haiku","engine":"llamacpp",
		"ctx":100,"priority":"batch","seed":0,"determinism":"strict","sampler_profile_version":"v1","prompt":"q","inputs":["a","b"],
		"messages":[{"role":"user","content":"hi"}],"max_tokens":5,"deadline_ms":2500,"expected_tokens":7,"kv_hint":"cold","on_disconnect":"cancel","output_mode":"text",
		"params":{"temperature":0,"top_p":0.5,"top_k":3,"min_p":0.1,"repeat_penalty":1.1,"stop":["x"]},
		"placement":{"mode":"pin","pool_id":"p","avoid":["q"]}}`, "Authorization", "Bearer "+testToken, gate.CorrelationHeader, "corr-1")
	require.Equal(t, http.StatusAccepted, res.StatusCode)
	got.BodySHA256 = [32]byte{}
	zero := uint32(0)
	temperature, topP, topK, minP, penalty := 0.0, 0.5, 3, 0.1, 1.1
	require.Equal(t, task.Request{
		ID: "x", SessionID: "3f8a1c9e-54b7-4d5a-9d0b-7a2f6f1c2e10", Workload: task.Rerank, ModelRef: "haiku", Engine: "llamacpp", Ctx: 100,
		Priority: task.Batch, Seed: &zero, Determinism: task.Strict, SamplerProfile: "v1", Prompt: "q", Inputs: []string{"a", "b"},
		Messages: []task.Message{{Role: "user", Content: "hi"}}, MaxTokens: 5, Deadline: 2500 * time.Millisecond, ExpectedTokens: 7,
		KVHint: "cold", OnDisconnect: task.CancelIt, OutputMode: "text", CorrelationID: "corr-1", Actor: got.Actor,
		Params:    task.Params{Temperature: &temperature, TopP: &topP, TopK: &topK, MinP: &minP, RepeatPenalty: &penalty, Stop: []string{"x"}},
		Placement: task.Placement{Mode: task.Pin, PoolID: "p", Avoid: []string{"q"}},
	}, got)
	require.Regexp(t, `^token:[0-9a-f]{6}$`, got.Actor)
}

// AUTH-1001, AUTH-1003, AUTH-1005, AUTH-1006, AUTH-1008
func TestAuthentication(t *testing.T) {
	f := setup(t)
	away := []string{"remote", "192.168.1.7:5000"}
	for _, c := range []struct {
		target string
		header []string
		code   gen.ErrorCode
	}{
		{target: "/v1/tasks"},
		{target: "/v1/tasks", header: away, code: gen.ErrorCodeMISSINGTOKEN},
		{target: "/nope", header: away, code: gen.ErrorCodeMISSINGTOKEN},
		{target: "/metrics", header: away, code: gen.ErrorCodeMISSINGTOKEN},
		{target: "/healthz", header: away},
		{target: "/readyz", header: away},
		{target: "/v1/tasks", header: append([]string{"Authorization", "Bearer " + testToken}, away...)},
		{target: "/v1/tasks", header: append([]string{"Authorization", "Bearer nope"}, away...), code: gen.ErrorCodeBADTOKEN},
		{target: "/v1/tasks", header: []string{"Authorization", "Bearer nope"}, code: gen.ErrorCodeBADTOKEN},
		{target: "/v1/tasks", header: []string{"Origin", "https://evil.example"}, code: gen.ErrorCodePOLICYDENIED},
	} {
		res := f.do("GET", c.target, "", c.header...)
		if c.code == "" {
			require.Equal(t, http.StatusOK, res.StatusCode, c.target)
			continue
		}
		e := envelope(t, res)
		require.Equal(t, c.code, e.Code, c.target)
		require.Equal(t, res.StatusCode == http.StatusUnauthorized, res.Header.Get("WWW-Authenticate") == "Bearer")
	}
	e := envelope(t, f.do("POST", "/v1/workers/register", "{}"))
	require.Equal(t, gen.ErrorCodeMISSINGTOKEN, e.Code, "registration needs the token on loopback too")
	require.True(t, strings.HasPrefix(e.Hint.Value, "40101"))
}

// OC-CTRL-2052
func TestCorrelationID(t *testing.T) {
	f := setup(t)
	f.tasks.subscribe = func(string, string) (delivery.Stream, error) { return &played{"event: x\n\n"}, nil }
	for _, target := range []string{"/healthz", "/readyz", "/metrics", "/v1/tasks", "/v1/tasks/t1/stream", "/nope", "/v1/tasks?x=1", "/v1/gpus", "/v1/catalog/engines", "/v1/tasks/a%20b"} {
		require.Equal(t, []string{"my-id:1"}, f.do("GET", target, "", gate.CorrelationHeader, "my-id:1").Header.Values(gate.CorrelationHeader), target)
		for _, offered := range []string{"", "with space", "new\tline", strings.Repeat("x", 129), "ü"} {
			made := f.do("GET", target, "", gate.CorrelationHeader, offered).Header.Get(gate.CorrelationHeader)
			id, err := uuid.Parse(made)
			require.NoError(t, err)
			require.Equal(t, uuid.Version(4), id.Version())
		}
	}
	require.Equal(t, "c", f.do("PUT", "/v1/tasks", "", gate.CorrelationHeader, "c").Header.Get(gate.CorrelationHeader))
	require.Equal(t, "c", f.do("POST", "/v1/tasks", goodBody, gate.CorrelationHeader, "c").Header.Get(gate.CorrelationHeader))
	require.Equal(t, "c", f.do("GET", "/v1/tasks", "", gate.CorrelationHeader, "c", "remote", "10.0.0.1:1").Header.Get(gate.CorrelationHeader))
}

// ORCH-3095, LO-848
func TestCapabilitiesAgreeWithWhatIsServed(t *testing.T) {
	f := setup(t)
	res := f.do("GET", "/v1/capabilities", "")
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	var c gen.Capabilities
	require.NoError(t, c.UnmarshalJSON(body))
	require.NoError(t, c.Validate())
	require.Equal(t, "1.0.0", c.APIVersion)
	require.Equal(t, "default", string(c.Pools[0].ID))
	require.True(t, slices.IsSorted(c.Features))
	require.Subset(t, c.Features, []string{"llamacpp_embedding", "llamacpp_rerank", "stream_resume"})
	require.Equal(t, gen.Limits{
		MaxBodyBytes: 4 << 20, MaxPromptBytes: 5000, MaxMessages: 7, MaxInputs: 7, MaxStop: 16, MaxSeed: task.MaxSeed, MaxDeadlineMs: 86400000,
	}, c.Limits)

	served := 0
	for _, o := range c.Operations {
		path := strings.ReplaceAll(o.Path, "{id}", "default")
		res := f.do(o.Method, path, "", "Authorization", "Bearer "+testToken)
		require.Equal(t, o.Status == gen.OperationStatusNotImplemented, res.StatusCode == http.StatusNotImplemented, "%s %s: %d", o.Method, o.Path, res.StatusCode)
		if res.StatusCode == http.StatusNotImplemented {
			e := envelope(t, res)
			require.Equal(t, gen.ErrorCodeNOTIMPLEMENTED, e.Code)
			require.Contains(t, e.Message, "; ", "it says what to use")
		} else {
			served++
		}
	}
	require.Len(t, live, served)
}

// ORCH-2101, ORCH-3095, LO-504
func TestWhatClientsReadFitsTheContract(t *testing.T) {
	f := setup(t)
	at := time.Date(2026, 11, 22, 20, 15, 0, 125e6, time.FixedZone("", 3600))
	f.tasks.status = task.Status{
		ID: "t1", State: task.Completed, PoolID: "default", Engine: "llamacpp", Workload: task.Embedding, Priority: task.Batch, ModelRef: "haiku",
		Actor: "self-test", ReplicaID: "default-0", PredictedStart: -time.Second, Seed: 7, Determinism: task.Strict, AcceptedAt: at, StartedAt: at, FinishedAt: at,
		TokensIn: 3, TokensOut: 4, LastEventID: "5-0a1b2c3d",
		End: &task.End{TokensIn: 3, TokensOut: 4, FinishReason: task.FinishResult, Result: json.RawMessage(`[[0.5]]`), Receipt: task.Receipt{Determinism: task.Strict}},
	}
	f.tasks.status.EnergyJ, f.tasks.status.EnergyCost = (&task.Energy{Joules: 12.5, Cost: 0.25, Priced: true}).Shown()
	f.tasks.status.End.EnergyJ = f.tasks.status.EnergyJ
	failed := f.tasks.status
	failed.EnergyCost = nil
	failed.State, failed.End, failed.StartedAt, failed.Err = task.Failed, nil, time.Time{}, task.Errorf(task.WorkerReset, "%s", strings.Repeat("é", 4000)).Retry(0)
	f.tasks.listed = []task.Status{f.tasks.status, failed}
	f.pools.unready = task.Errorf(task.PoolUnready, "pool default is loading")

	server := httptest.NewServer(f.handler)
	defer server.Close()
	client, err := gen.NewClient(server.URL, noToken{}, gen.WithClient(server.Client()))
	require.NoError(t, err)
	ctx := context.Background()

	one, err := client.GetTask(ctx, gen.GetTaskParams{ID: "t1"})
	require.NoError(t, err)
	require.NotEmpty(t, one.XCorrelationID.Value)
	require.Equal(t, "[[0.5]]", string(one.Response.End.Value.Result))
	require.True(t, at.Equal(one.Response.AcceptedAt))
	require.Equal(t, gen.NewOptFloat64(12.5), one.Response.EnergyJ, "LO-504")
	require.Equal(t, gen.NewOptFloat64(0.25), one.Response.EnergyCost)
	require.Equal(t, gen.NewOptFloat64(12.5), one.Response.End.Value.EnergyJ)
	require.False(t, one.Response.End.Value.EnergyCost.Set)
	require.Zero(t, one.Response.PredictedStartMs)
	require.Equal(t, "self-test", one.Response.Actor.Value)

	list, err := client.ListTasks(ctx, gen.ListTasksParams{})
	require.NoError(t, err)
	require.Len(t, list.Response.Tasks, 2)
	require.Equal(t, gen.ErrorCodeWORKERRESET, list.Response.Tasks[1].Error.Value.Code)
	require.False(t, list.Response.Tasks[1].StartedAt.Set)
	require.Equal(t, gen.NewOptFloat64(12.5), list.Response.Tasks[1].EnergyJ)
	require.False(t, list.Response.Tasks[1].EnergyCost.Set)

	canceled, err := client.CancelTask(ctx, gen.CancelTaskParams{ID: "t1"})
	require.NoError(t, err)
	require.Equal(t, gen.OutcomeCanceled, canceled.Response.Outcome)

	pools, err := client.ListPools(ctx)
	require.NoError(t, err)
	require.Equal(t, 3, pools.Response.Pools[0].Queue.Depth)
	health, err := client.GetPoolHealth(ctx, gen.GetPoolHealthParams{ID: "default"})
	require.NoError(t, err)
	require.Equal(t, "default-0", health.Response.Replicas[0].ID)
	fingerprint, err := client.GetFingerprint(ctx, gen.GetFingerprintParams{ID: "fp-1"})
	require.NoError(t, err)
	require.Equal(t, []string{"--jinja"}, fingerprint.Response.Facts.Flags)
	_, err = client.GetCapabilities(ctx)
	require.NoError(t, err)
	_, err = client.GetLiveness(ctx)
	require.NoError(t, err)

	_, err = client.GetReadiness(ctx)
	var typed *gen.ErrorStatusCodeWithHeaders
	require.ErrorAs(t, err, &typed)
	require.Equal(t, http.StatusServiceUnavailable, typed.StatusCode)
	require.Equal(t, gen.ErrorCodePOOLUNREADY, typed.Response.Code)
	require.NotEmpty(t, typed.XCorrelationID.Value)
}

// ORCH-3028
func TestMetricsAreServed(t *testing.T) {
	res := setup(t).do("GET", "/metrics", "")
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, res.StatusCode)
	require.Contains(t, string(body), "queue_depth 0")
}

type noToken struct{}

func (noToken) BearerAuth(context.Context, gen.OperationName) (gen.BearerAuth, error) {
	return gen.BearerAuth{Token: testToken}, nil
}

// ORCH-3095
func TestFeaturesAreSorted(t *testing.T) { require.True(t, slices.IsSorted(features)) }

// AUTH-1007
func TestLogLinesNameTheCallerAndNeverTheToken(t *testing.T) {
	core, logs := observer.New(zap.DebugLevel)
	f := setup(t, func(o *Options) { o.Log = zap.New(core) })
	f.do("GET", "/v1/tasks", "", "Authorization", "Bearer "+testToken)
	f.do("GET", "/v1/tasks", "", "Authorization", "Bearer wrong-"+testToken)
	f.do("GET", "/v1/tasks", "")
	var identities []string
	for _, line := range logs.All() {
		require.NotContains(t, fmt.Sprint(line.Message, line.ContextMap()), testToken)
		if line.Message == "served a request" {
			identities = append(identities, line.ContextMap()["identity"].(string))
		}
	}
	require.Len(t, identities, 3)
	require.Regexp(t, `^token:[0-9a-f]{6}$`, identities[0])
	require.Equal(t, []string{"", "localhost"}, identities[1:])
}
