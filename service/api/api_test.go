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
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/llama-orch/llama-orch/gen"
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
		410: {task.ModelDeprecated},
		413: {task.TooLarge},
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
			require.Equal(t, rules[code].retriable, e.Retriable)
		}
	}
	require.ElementsMatch(t, task.Codes(), seen)
	require.Len(t, rules, len(task.Codes()))
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
	require.Contains(t, string(logs.All()[0].ContextMap()["stack"].(string)), "fake_test.go")

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
		KVHint: "auto", OutputMode: "text", Actor: "localhost",
	}, least)

	spaced := got.BodySHA256
	f.do("POST", "/v1/tasks", " {\n\"model_ref\" : \"haiku\", \"prompt\":\"hello\" }\n")
	require.Equal(t, spaced, got.BodySHA256, "white space does not count")
	f.do("POST", "/v1/tasks", `{"model_ref":"haiku","prompt":"hello "}`)
	require.NotEqual(t, spaced, got.BodySHA256)

	res = f.do("POST", "/v1/tasks", `{"task_id":"x","session_id":"3f8a1c9e-54b7-4d5a-9d0b-7a2f6f1c2e10","workload":"rerank","model_ref":"haiku","engine":"llamacpp",
		"ctx":100,"priority":"batch","seed":0,"determinism":"strict","sampler_profile_version":"v1","prompt":"q","inputs":["a","b"],
		"messages":[{"role":"user","content":"hi"}],"max_tokens":5,"deadline_ms":2500,"expected_tokens":7,"kv_hint":"cold","output_mode":"text",
		"params":{"temperature":0,"top_p":0.5,"top_k":3,"min_p":0.1,"repeat_penalty":1.1,"stop":["x"]},
		"placement":{"mode":"pin","pool_id":"p","avoid":["q"]}}`, "Authorization", "Bearer "+testToken, correlationHeader, "corr-1")
	require.Equal(t, http.StatusAccepted, res.StatusCode)
	got.BodySHA256 = [32]byte{}
	zero := uint32(0)
	temperature, topP, topK, minP, penalty := 0.0, 0.5, 3, 0.1, 1.1
	require.Equal(t, task.Request{
		ID: "x", SessionID: "3f8a1c9e-54b7-4d5a-9d0b-7a2f6f1c2e10", Workload: task.Rerank, ModelRef: "haiku", Engine: "llamacpp", Ctx: 100,
		Priority: task.Batch, Seed: &zero, Determinism: task.Strict, SamplerProfile: "v1", Prompt: "q", Inputs: []string{"a", "b"},
		Messages: []task.Message{{Role: "user", Content: "hi"}}, MaxTokens: 5, Deadline: 2500 * time.Millisecond, ExpectedTokens: 7,
		KVHint: "cold", OutputMode: "text", CorrelationID: "corr-1", Actor: got.Actor,
		Params:    task.Params{Temperature: &temperature, TopP: &topP, TopK: &topK, MinP: &minP, RepeatPenalty: &penalty, Stop: []string{"x"}},
		Placement: task.Placement{Mode: task.Pin, PoolID: "p", Avoid: []string{"q"}},
	}, got)
	require.Regexp(t, `^token:[0-9a-f]{6}$`, got.Actor)
}

// OC-CTRL-2030, LO-102
func TestBadBodies(t *testing.T) {
	f := setup(t, func(o *Options) { o.MaxBody = 2 << 20 })
	for body, message := range map[string]string{
		`{"model_ref":"haiku","promt":"x"}`:                            `unknown field "promt": did you mean "prompt"?`,
		`{"model_ref":"haiku","prompt":"x","params":{"temprature":1}}`: `unknown field "params.temprature": did you mean "temperature"?`,
		`{"model_ref":"haiku","prompt":"x","zzz":1}`:                   `unknown field "zzz": known are ctx, deadline_ms`,
		`{"prompt":"x"}`:                                                        "`model_ref` is missing: give a string of 1 to 512 characters",
		`{"model_ref":7,"prompt":"x"}`:                                          "`model_ref` must be a string of 1 to 512 characters, not 7",
		`{"model_ref":"haiku","prompt":null}`:                                   "`prompt` must be a string of 1 to 1048576 characters, not null",
		`{"model_ref":"","prompt":"x"}`:                                         "`model_ref` must be a string of 1 to 512 characters, not 0 characters",
		`{"model_ref":"haiku","prompt":"x","seed":-1}`:                          "`seed` must be an integer from 0 to 4294967294, not -1",
		`{"model_ref":"haiku","prompt":"x","seed":4294967295}`:                  "`seed` must be an integer from 0 to 4294967294, not 4294967295",
		`{"model_ref":"haiku","prompt":"x","seed":1e400}`:                       "`seed` must be an integer from 0 to 4294967294, not 1e400",
		`{"model_ref":"haiku","prompt":"x","seed":1.5}`:                         "`seed` must be an integer from 0 to 4294967294, not 1.5",
		`{"model_ref":"haiku","prompt":"x","seed":99999999999999999999}`:        "`seed` must be an integer from 0 to 4294967294, not 99999999999999999999",
		`{"model_ref":"haiku","prompt":"x","seed":"1"}`:                         "`seed` must be an integer from 0 to 4294967294, not a string",
		`{"model_ref":"haiku","prompt":"x","max_tokens":0}`:                     "`max_tokens` must be an integer from 1 to 10000000, not 0",
		`{"model_ref":"haiku","prompt":"x","params":{"top_p":1.1}}`:             "`params.top_p` must be a number from 0 to 1, not 1.1",
		`{"model_ref":"haiku","prompt":"x","params":{"top_p":1e999}}`:           "`params.top_p` must be a number from 0 to 1, not 1e999",
		`{"model_ref":"haiku","prompt":"x","params":[]}`:                        "`params` must be an object, not a list",
		`{"model_ref":"haiku","prompt":"x","priority":"urgent"}`:                "`priority` must be one of interactive, batch, not \"urgent\"",
		`{"model_ref":"haiku","prompt":"x","task_id":"a b"}`:                    "`task_id` must be a string that matches ^[A-Za-z0-9]",
		`{"model_ref":"haiku","prompt":"x","session_id":"7"}`:                   "`session_id` must be a UUID, not \"7\"",
		`{"model_ref":"haiku","messages":[{"role":"wizard","content":"x"}]}`:    "`messages[0].role` must be one of system, user, assistant",
		`{"model_ref":"haiku","messages":[]}`:                                   "`messages` must be a list of 1 to 1024 items, not 0 items",
		`{"model_ref":"haiku","inputs":["a",7]}`:                                "`inputs[1]` must be a string of 1 to 1048576 characters, not 7",
		`[]`:                                                                    "the body must be an object, not a list",
		`"x"`:                                                                   "the body must be an object, not a string",
		`{"model_ref":"haiku","prompt"`:                                         "the body is not valid JSON at byte 30",
		`{"model_ref":"haiku",}`:                                                "the body is not valid JSON at byte 22",
		goodBody + `{}`:                                                         "the body is not valid JSON at byte 39",
		`nonsense`:                                                              "the body is not valid JSON at byte 2",
		" \n":                                                                   "this call needs a JSON body and has none",
		"{\"model_ref\":\"haiku\",\"prompt\":\"\xff\"}":                         "the body is not UTF-8",
		`{"model_ref":"haiku","prompt":"` + strings.Repeat("x", 1048577) + `"}`: "`prompt` must be a string of 1 to 1048576 characters, not 1048577 characters",
		strings.Repeat("[", 20000):                                              "the body is not valid JSON",
	} {
		name := clip(body, 80)
		t.Run(name, func(t *testing.T) {
			e := envelope(t, f.do("POST", "/v1/tasks", body))
			require.Equal(t, gen.ErrorCodeINVALIDPARAMS, e.Code)
			require.Contains(t, e.Message, message)
			require.False(t, e.Retriable)
		})
	}
	res := f.do("POST", "/v1/tasks", `{"model_ref":"haiku","prompt":"`+strings.Repeat("x", 2<<20)+`"}`)
	require.Equal(t, http.StatusRequestEntityTooLarge, res.StatusCode)
	require.Equal(t, gen.ErrorCodeTOOLARGE, envelope(t, res).Code)
}

// OC-CTRL-2030
func TestAnOversizedBodyOfUnknownLength(t *testing.T) {
	f := setup(t, func(o *Options) { o.MaxBody = 1000 })
	server := httptest.NewServer(f.handler)
	defer server.Close()
	body := io.MultiReader(strings.NewReader(`{"prompt":"`), strings.NewReader(strings.Repeat("x", 5000)))
	req, err := http.NewRequest("POST", server.URL+"/v1/tasks", body)
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	res, err := server.Client().Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	require.Equal(t, gen.ErrorCodeTOOLARGE, envelope(t, res).Code)
}

// OC-CTRL-2030
func TestBadRequests(t *testing.T) {
	f := setup(t)
	for _, c := range []struct {
		method, target, body string
		header               []string
		status               int
		message              string
	}{
		{method: "GET", target: "/nope", status: 404, message: `there is no path "/nope"`},
		{method: "GET", target: "/v1/tasks/", status: 400, message: "path parameter `id`"},
		{method: "GET", target: "/", status: 404, message: "there is no path"},
		{method: "PUT", target: "/v1/tasks", status: 405, message: "/v1/tasks takes GET, POST, not PUT"},
		{method: "OPTIONS", target: "/v1/tasks", status: 405, message: "not OPTIONS"},
		{method: "HEAD", target: "/v1/tasks", status: 405, message: "not HEAD"},
		{method: "DELETE", target: "/v1/tasks/t1", status: 405, message: "takes GET"},
		{method: "GET", target: "/v1/tasks?limit=0", status: 400, message: "query parameter `limit` must be an integer from 1 to 500, not \"0\""},
		{method: "GET", target: "/v1/tasks?limit=many", status: 400, message: "query parameter `limit` must be an integer from 1 to 500, not \"many\""},
		{method: "GET", target: "/v1/tasks?limt=1", status: 400, message: "unknown query parameter \"limt\": did you mean \"limit\"?"},
		{method: "GET", target: "/v1/tasks?limit=1&limit=2", status: 400, message: "is given 2 times"},
		{method: "GET", target: "/v1/tasks?state=gone", status: 400, message: "must be one of queued, running, completed, failed, canceled, not \"gone\""},
		{method: "GET", target: "/v1/tasks?limit=%zz", status: 400, message: "query string is malformed"},
		{method: "GET", target: "/v1/tasks/t1?x=1", status: 400, message: "unknown query parameter \"x\": there are none here"},
		{method: "GET", target: "/v1/tasks/a%20b", status: 400, message: "path parameter `id` must be a string that matches"},
		{method: "GET", target: "/v1/tasks/t1/stream?after=7", status: 400, message: "query parameter `after` must be a string that matches"},
		{method: "GET", target: "/v1/tasks/t1/stream", header: []string{"Last-Event-ID", "x"}, status: 400, message: "must be a string that matches ^(0|"},
		{method: "GET", target: "/v1/tasks/t1/stream?after=1-00000000", header: []string{"Last-Event-ID", "2-00000000"}, status: 400, message: "differ: send one of them"},
		{method: "POST", target: "/v1/tasks", body: goodBody, header: []string{"Content-Type", "text/plain"}, status: 400, message: "Content-Type: application/json"},
		{method: "POST", target: "/v1/tasks", body: goodBody, header: []string{"Content-Type", ""}, status: 400, message: "Content-Type: application/json"},
		{method: "POST", target: "/v1/tasks", body: goodBody, header: []string{"Content-Type", "application/json; charset=latin1"}, status: 400, message: "Content-Type: application/json"},
		{method: "POST", target: "/v1/tasks", header: []string{"Content-Type", "application/json"}, status: 400, message: "needs a JSON body"},
		{method: "GET", target: "/v1/pools/other/health", status: 404, message: "known: default"},
	} {
		t.Run(c.method+" "+c.target, func(t *testing.T) {
			res := f.do(c.method, c.target, c.body, c.header...)
			require.Equal(t, c.status, res.StatusCode)
			require.Equal(t, c.status == 405, res.Header.Get("Allow") != "")
			require.Empty(t, res.Header.Get("Access-Control-Allow-Methods"))
			require.Contains(t, envelope(t, res).Message, c.message)
		})
	}
}

// AUTH-1001
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
		require.Equal(t, res.StatusCode == 401, res.Header.Get("WWW-Authenticate") == "Bearer")
	}
	e := envelope(t, f.do("POST", "/v1/workers/register", "{}"))
	require.Equal(t, gen.ErrorCodeMISSINGTOKEN, e.Code, "registration needs the token on loopback too")
	require.True(t, strings.HasPrefix(e.Hint.Value, "40101"))
}

// OC-CTRL-2052
func TestCorrelationID(t *testing.T) {
	f := setup(t)
	f.tasks.subscribe = func(string, string) (Stream, error) { return newFakeStream(io.EOF, "event: x\n\n"), nil }
	for _, target := range []string{"/healthz", "/readyz", "/metrics", "/v1/tasks", "/v1/tasks/t1/stream", "/nope", "/v1/tasks?x=1", "/v1/gpus", "/v1/tasks/a%20b"} {
		require.Equal(t, []string{"my-id:1"}, f.do("GET", target, "", correlationHeader, "my-id:1").Header.Values(correlationHeader), target)
		for _, offered := range []string{"", "with space", "new\tline", strings.Repeat("x", 129), "ü"} {
			made := f.do("GET", target, "", correlationHeader, offered).Header.Get(correlationHeader)
			id, err := uuid.Parse(made)
			require.NoError(t, err)
			require.Equal(t, uuid.Version(4), id.Version())
		}
	}
	require.Equal(t, "c", f.do("PUT", "/v1/tasks", "", correlationHeader, "c").Header.Get(correlationHeader))
	require.Equal(t, "c", f.do("POST", "/v1/tasks", goodBody, correlationHeader, "c").Header.Get(correlationHeader))
	require.Equal(t, "c", f.do("GET", "/v1/tasks", "", correlationHeader, "c", "remote", "10.0.0.1:1").Header.Get(correlationHeader))
}

// ORCH-3095
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
	require.Equal(t, gen.Limits{
		MaxBodyBytes: 4 << 20, MaxPromptChars: 1 << 20, MaxMessages: 1024, MaxInputs: 1024, MaxStop: 16, MaxSeed: task.MaxSeed, MaxDeadlineMs: 86400000,
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
	require.Equal(t, len(live), served)
}

// ORCH-3095
func TestEveryOperationOfTheContractIsRouted(t *testing.T) {
	f := setup(t)
	c := f.handler.(*server).contract
	require.Len(t, c.operations, 30)
	planes := map[string]int{}
	for _, o := range c.operations {
		route, ok := f.handler.(*server).routes.FindRoute(o.method, strings.ReplaceAll(o.path, "{id}", "x"))
		require.True(t, ok, o.id)
		require.Equal(t, o.name, route.Name())
		require.Equal(t, o.id, route.OperationID())
		planes[o.plane]++
	}
	require.Equal(t, map[string]int{"data": 7, "control": 9, "catalog": 7, "artifacts": 4, "ops": 3}, planes)
	for name := range live {
		require.NotNil(t, c.byName[name], name)
	}
	for name := range instead {
		require.NotNil(t, c.byName[name], name)
		require.False(t, live[name], name)
	}
}

// The examples are what people copy: each must be what the server takes.
//
// LO-102
func TestTheContractsRequestExamplesAreAccepted(t *testing.T) {
	f := setup(t)
	c := f.handler.(*server).contract
	seen := 0
	for path := range c.root["paths"].(map[string]any) {
		post, ok := dig[map[string]any](c.root, "paths", path, "post", "requestBody", "content", "application/json")
		if !ok {
			continue
		}
		var values []any
		if v, ok := post["example"]; ok {
			values = append(values, v)
		}
		for _, e := range mapOf(post["examples"]) {
			values = append(values, mapOf(e)["value"])
		}
		require.NotEmpty(t, values, path)
		for _, v := range values {
			body, err := json.Marshal(v)
			require.NoError(t, err)
			require.Empty(t, c.explainBody(mapOf(post["schema"]), body), path)
			if path == "/v1/tasks" {
				require.Equal(t, http.StatusAccepted, f.do("POST", path, string(body)).StatusCode, "%s", body)
			}
			seen++
		}
	}
	require.Positive(t, seen)
}

func mapOf(v any) map[string]any {
	m, _ := v.(map[string]any)
	return m
}

// ORCH-2101, ORCH-3095
func TestWhatClientsReadFitsTheContract(t *testing.T) {
	f := setup(t)
	at := time.Date(2026, 11, 22, 20, 15, 0, 125e6, time.FixedZone("", 3600))
	f.tasks.status = task.Status{
		ID: "t1", State: task.Completed, PoolID: "default", Engine: "llamacpp", Workload: task.Embedding, Priority: task.Batch, ModelRef: "haiku",
		ReplicaID: "default-0", PredictedStart: -time.Second, Seed: 7, Determinism: task.Strict, AcceptedAt: at, StartedAt: at, FinishedAt: at,
		TokensIn: 3, TokensOut: 4, LastEventID: "5-0a1b2c3d",
		End: &task.End{TokensIn: 3, TokensOut: 4, FinishReason: task.FinishResult, Result: json.RawMessage(`[[0.5]]`), Receipt: task.Receipt{Determinism: task.Strict}},
	}
	failed := f.tasks.status
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
	require.Zero(t, one.Response.PredictedStartMs)

	list, err := client.ListTasks(ctx, gen.ListTasksParams{})
	require.NoError(t, err)
	require.Len(t, list.Response.Tasks, 2)
	require.Equal(t, gen.ErrorCodeWORKERRESET, list.Response.Tasks[1].Error.Value.Code)
	require.False(t, list.Response.Tasks[1].StartedAt.Set)

	canceled, err := client.CancelTask(ctx, gen.CancelTaskParams{ID: "t1"})
	require.NoError(t, err)
	require.Equal(t, gen.OutcomeCanceled, canceled.Response.Outcome)

	pools, err := client.ListPools(ctx)
	require.NoError(t, err)
	require.Equal(t, 3, pools.Response.Pools[0].Queue.Depth)
	health, err := client.GetPoolHealth(ctx, gen.GetPoolHealthParams{ID: "default"})
	require.NoError(t, err)
	require.Equal(t, "default-0", health.Response.Replicas[0].ID)
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

func TestNearest(t *testing.T) {
	known := []string{"max_tokens", "messages", "model_ref", "prompt"}
	for name, want := range map[string]string{
		"max_token": "max_tokens", "maxtokens": "max_tokens", "model": "", "modelref": "model_ref", "Prompt": "prompt", "x": "", "": "",
		strings.Repeat("p", 1000): "",
	} {
		require.Equal(t, want, nearest(name, known), name)
	}
}

// FuzzBody: whatever is posted, the server answers with the contract's status and envelope, never with a 5xx.
//
// OC-CTRL-2030
func FuzzBody(f *testing.F) {
	for _, seed := range []string{
		goodBody, `{}`, `[]`, `null`, `{"model_ref":"a","prompt":"b","seed":1e9999}`, `{"model_ref":"a","inputs":[{}]}`, "\xff", `{"model_ref":"\ud800"}`,
		`{"params":{"stop":[1]}}`, `{"placement":{"mode":1}}`, `{"a":{"b":{"c":[[[[]]]]}}}`, `{"seed":-0}`, `{"seed":1}`,
	} {
		f.Add([]byte(seed))
	}
	fix := setup(f)
	var submitted bool
	fix.tasks.submit = func(r task.Request) (task.Admission, error) {
		submitted = true
		return task.Admission{TaskID: "t1", PoolID: "p", Determinism: task.Strict}, nil
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		submitted = false
		res := fix.do("POST", "/v1/tasks", string(body), "Content-Type", "application/json")
		if submitted {
			require.Equal(t, http.StatusAccepted, res.StatusCode)
			return
		}
		require.Equal(t, gen.ErrorCodeINVALIDPARAMS, envelope(t, res).Code)
		require.Less(t, res.StatusCode, 500)
	})
}

type noToken struct{}

func (noToken) BearerAuth(context.Context, gen.OperationName) (gen.BearerAuth, error) {
	return gen.BearerAuth{Token: testToken}, nil
}

// TestRetryAfterIsWholeSeconds guards the rounding on its own.
//
// ORCH-2007
func TestRetryAfterIsWholeSeconds(t *testing.T) {
	for d, want := range map[time.Duration]int64{1: 1, time.Second: 1, time.Second + 1: 2, 1999 * time.Millisecond: 2} {
		require.Equal(t, want, ceil(d, time.Second), strconv.FormatInt(int64(d), 10))
	}
	require.True(t, slices.IsSorted(features))
}
