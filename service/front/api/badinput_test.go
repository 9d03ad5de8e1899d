// SPDX-License-Identifier: GPL-3.0-or-later

package api

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/gen"
	"github.com/llama-orch/llama-orch/service/task"
)

// OC-CTRL-2030, LO-102, LO-844
func TestBadBodies(t *testing.T) {
	f := setup(t, func(o *Options) { o.Limits.BodyBytes = 2 << 20 })
	for body, message := range map[string]string{
		`{"model_ref":"haiku","promt":"x"}`:                            `unknown field "promt": did you mean "prompt"?`,
		`{"model_ref":"haiku","prompt":"x","params":{"temprature":1}}`: `unknown field "params.temprature": did you mean "temperature"?`,
		`{"model_ref":"haiku","prompt":"x","zzz":1}`:                   `unknown field "zzz": known are ctx, deadline_ms`,
		`{"prompt":"x"}`:                                                     "`model_ref` is missing: give a string of 1 to 512 characters",
		`{"model_ref":7,"prompt":"x"}`:                                       "`model_ref` must be a string of 1 to 512 characters, not 7",
		`{"model_ref":null,"prompt":"x"}`:                                    "`model_ref` must be a string of 1 to 512 characters, not null",
		`{"model_ref":"haiku","inputs":["a",null]}`:                          "`inputs[1]` must be a string of 1 to 1073741824 characters, not null",
		`{"model_ref":"haiku","prompt":"x","promt":null}`:                    `unknown field "promt"`,
		`{"model_ref":"","prompt":"x"}`:                                      "`model_ref` must be a string of 1 to 512 characters, not 0 characters",
		`{"model_ref":"haiku","prompt":"x","seed":-1}`:                       "`seed` must be an integer from 0 to 4294967294, not -1",
		`{"model_ref":"haiku","prompt":"x","seed":4294967295}`:               "`seed` must be an integer from 0 to 4294967294, not 4294967295",
		`{"model_ref":"haiku","prompt":"x","seed":1e400}`:                    "`seed` must be an integer from 0 to 4294967294, not 1e400",
		`{"model_ref":"haiku","prompt":"x","seed":1.5}`:                      "`seed` must be an integer from 0 to 4294967294, not 1.5",
		`{"model_ref":"haiku","prompt":"x","seed":425e-1}`:                   "`seed` must be an integer from 0 to 4294967294, not 425e-1",
		`{"model_ref":"haiku","prompt":"x","seed":4294967295.0}`:             "`seed` must be an integer from 0 to 4294967294, not 4294967295",
		`{"model_ref":"haiku","prompt":"x","seed":99999999999999999999}`:     "`seed` must be an integer from 0 to 4294967294, not 99999999999999999999",
		`{"model_ref":"haiku","prompt":"x","seed":"1"}`:                      "`seed` must be an integer from 0 to 4294967294, not a string",
		`{"model_ref":"haiku","prompt":"x","max_tokens":0}`:                  "`max_tokens` must be an integer from 1 to 10000000, not 0",
		`{"model_ref":"haiku","prompt":"x","params":{"top_p":1.1}}`:          "`params.top_p` must be a number from 0 to 1, not 1.1",
		`{"model_ref":"haiku","prompt":"x","params":{"top_p":1e999}}`:        "`params.top_p` must be a number from 0 to 1, not 1e999",
		`{"model_ref":"haiku","prompt":"x","params":[]}`:                     "`params` must be an object, not a list",
		`{"model_ref":"haiku","prompt":"x","priority":"urgent"}`:             "`priority` must be one of interactive, batch, not \"urgent\"",
		`{"model_ref":"haiku","prompt":"x","task_id":"a b"}`:                 "`task_id` must be a string that matches ^[A-Za-z0-9]",
		`{"model_ref":"haiku","prompt":"x","session_id":"7"}`:                "`session_id` must be a UUID, not \"7\"",
		`{"model_ref":"haiku","messages":[{"role":"wizard","content":"x"}]}`: "`messages[0].role` must be one of system, user, assistant",
		`{"model_ref":"haiku","messages":[]}`:                                "`messages` must be a list of 1 to 65536 items, not 0 items",
		`{"model_ref":"haiku","inputs":["a",7]}`:                             "`inputs[1]` must be a string of 1 to 1073741824 characters, not 7",
		`[]`:                                                                 "the body must be an object, not a list",
		`"x"`:                                                                "the body must be an object, not a string",
		`{"model_ref":"haiku","prompt"`:                                      "the body is not valid JSON at byte 29",
		`{"model_ref":"haiku",}`:                                             "the body is not valid JSON at byte 22",
		goodBody + `{}`:                                                      "the body is not valid JSON at byte 39",
		`nonsense`:                                                           "the body is not valid JSON at byte 2",
		" \n":                                                                "this call needs a JSON body and has none",
		"{\"model_ref\":\"haiku\",\"prompt\":\"\xff\"}":                      "the body is not UTF-8",
		strings.Repeat("[", 20000):                                           "the body is not valid JSON",
	} {
		name := task.Clip(body, 80)
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
	f := setup(t, func(o *Options) { o.Limits.BodyBytes = 1000 })
	server := httptest.NewServer(f.handler)
	defer server.Close()
	body := io.MultiReader(strings.NewReader(`{"prompt":"`), strings.NewReader(strings.Repeat("x", 5000)))
	req, err := http.NewRequest(http.MethodPost, server.URL+"/v1/tasks", body)
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	res, err := server.Client().Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	require.Equal(t, gen.ErrorCodeTOOLARGE, envelope(t, res).Code)
}

// OC-CTRL-2030, LO-828
func TestBadRequests(t *testing.T) {
	f := setup(t)
	for _, c := range []struct {
		method, target, body string
		header               []string
		status               int
		message              string
	}{
		{method: "GET", target: "/nope", status: 404, message: `there is no path "/nope"`},
		{method: "GET", target: "/", status: 404, message: "there is no path"},
		{method: "PUT", target: "/v1/tasks", status: 405, message: "/v1/tasks takes GET, POST, not PUT"},
		{method: "DELETE", target: "/v1/tasks/t1/stream", status: 405, message: "takes GET"},
		{method: "GET", target: "/v1/tasks?limit=0", status: 400, message: "query parameter `limit` must be an integer from 1 to 500, not \"0\""},
		{method: "GET", target: "/v1/tasks?limit=many", status: 400, message: "query parameter `limit` must be an integer from 1 to 500, not \"many\""},
		{method: "GET", target: "/v1/tasks?limit=1&limit=2", status: 400, message: "is given 2 times"},
		{method: "GET", target: "/v1/tasks?state=gone", status: 400, message: "must be one of queued, running, completed, failed, canceled, not \"gone\""},
		{method: "GET", target: "/v1/tasks?limit=%zz", status: 400, message: "query string is malformed"},
		{method: "GET", target: "/v1/tasks/a%20b", status: 400, message: "path parameter `id` must be a string that matches"},
		{method: "GET", target: "/v1/tasks/t1/stream?after=7", status: 400, message: "query parameter `after` must be a string that matches"},
		{method: "GET", target: "/v1/tasks/t1/stream", header: []string{"Last-Event-ID", "x"}, status: 400, message: "must be a string that matches ^(0|"},
		{method: "POST", target: "/v1/tasks", body: goodBody, header: []string{"Content-Type", "text/plain"}, status: 415, message: "Content-Type: application/json"},
		{method: "POST", target: "/v1/tasks", body: goodBody, header: []string{"Content-Type", ""}, status: 415, message: "Content-Type: application/json"},
		{method: "POST", target: "/v1/tasks", body: goodBody, header: []string{"Content-Type", "application/json; charset=latin1"}, status: 415, message: "Content-Type: application/json"},
		{method: "GET", target: "/v1/tasks//", status: 400, message: "path parameter `id`"},
		{method: "OPTIONS", target: "/nope", status: 404, message: "there is no path"},
		{method: "POST", target: "/v1/tasks", body: goodBody, header: []string{"Content-Encoding", "br"}, status: 415, message: "gzip, zstd"},
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

// A submit that comes to no task counts, whatever was wrong with it; nothing else does.
//
// ORCH-3028
func TestRefusedSubmitsCount(t *testing.T) {
	f := setup(t, func(o *Options) { o.Limits.BodyBytes = 100 })
	for _, body := range []string{`{}`, `nonsense`, `{"model_ref":"m","prompt":"x","seed":1.5}`, strings.Repeat("x", 200)} {
		f.do("POST", "/v1/tasks", body)
	}
	f.do("POST", "/v1/tasks", goodBody, "Content-Type", "text/plain")
	require.Equal(t, []task.Code{task.InvalidParams, task.InvalidParams, task.InvalidParams, task.TooLarge, task.UnsupportedMedia}, f.tasks.rejected)
	f.tasks.rejected = nil
	f.do("POST", "/v1/tasks", `{}`, "Authorization", "Bearer x")
	f.do("POST", "/v1/tasks", `{}`, "Origin", "http://evil.example")
	f.do("POST", "/v1/placement/explain", `{}`)
	f.do("GET", "/v1/tasks?limit=0", "")
	f.tasks.err = task.Errorf(task.AdmissionReject, "full").Retry(1)
	f.do("POST", "/v1/tasks", goodBody)
	require.Empty(t, f.tasks.rejected, "admission counts what it refuses itself")
}
