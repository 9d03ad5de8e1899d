// SPDX-License-Identifier: GPL-3.0-or-later

package ollama

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/front/exchange"
	"github.com/llama-orch/llama-orch/service/front/exchange/exchangetest"
	"github.com/llama-orch/llama-orch/service/task"
)

const coderDetails = `"details":{"parent_model":"","format":"gguf","family":"llama","families":["llama"],"parameter_size":"8.0B","quantization_level":"Q4_K_M"}`

// LO-425: lists of models, of those in memory, and all that is known of one.
func TestModelsAreShown(t *testing.T) {
	lib := &library{}
	url := serve(t, exchangetest.New(), lib)
	get := func(path string) string {
		return exchangetest.Read(t, exchangetest.Do(t, http.MethodGet, url+path, "").Body)
	}
	const at, none = `"modified_at":"2023-11-14T22:13:20Z"`, `"details":{"parent_model":"","format":"","family":"","families":[],"parameter_size":"","quantization_level":""}`
	coder := func(name string) string {
		return `{"name":"` + name + `","model":"` + name + `",` + at + `,"size":1234,"digest":"` + digest + `",` + coderDetails + `}`
	}
	require.JSONEq(t, `{"models":[`+coder("coder")+`,`+coder("gpt-4o")+`,
		{"name":"org/haiku","model":"org/haiku","modified_at":"0001-01-01T00:00:00Z","size":0,"digest":"`+digest+`",`+none+`},
		{"name":"cold","model":"cold","modified_at":"0001-01-01T00:00:00Z","size":0,"digest":"",`+none+`}]}`, get("/api/tags"))
	require.JSONEq(t, `{"models":[
		{"name":"coder","model":"coder","size":99,"digest":"`+digest+`",`+coderDetails+`,"expires_at":"2023-11-14T23:13:20Z","size_vram":90,"context_length":4096},
		{"name":"org/haiku","model":"org/haiku","size":7,"digest":"`+digest+`",`+none+`,"expires_at":"2200-01-01T00:00:00Z","size_vram":0,"context_length":0}]}`, get("/api/ps"))
	require.JSONEq(t, `{"parameters":"num_ctx                        4096\ntemperature                    0.8\ntop_k                          40\ntop_p                          0.9\nmin_p                          0.05\nrepeat_penalty                 1",
		"template":"{{ m }}",`+coderDetails+`,`+at+`,"capabilities":["completion","tools","vision","thinking"],
		"model_info":{"general.architecture":"llama","general.basename":"Coder","general.parameter_count":8030261312,"llama.block_count":2,"llama.context_length":4096}}`,
		exchangetest.Read(t, exchangetest.Post(t, url+"/api/show", `{"name":"coder:latest","verbose":true}`).Body))
	require.Equal(t, []string{"show coder"}, lib.asked())
	require.Equal(t, map[string]any{"general.architecture": "unknown", "general.basename": "x", "unknown.context_length": 5}, (&Details{Model: Model{Name: "x", Ctx: 5}}).info())
	require.Equal(t, []string{"embedding"}, (&Details{Model: Model{Workload: task.Embedding}}).capabilities())
	for n, want := range map[int64]string{0: "", 999: "999", 1500: "2K", 1_100_000: "1.10M", 361_821_120: "361.82M", 7e9: "7B", 5e6: "5M"} {
		require.Equal(t, want, human(n))
	}
}

// LO-425: name:latest is name, but not where something has that name, or where the tag is a ref's own.
func TestTheTagOfAName(t *testing.T) {
	f := New(Options{Options: exchange.Options{Models: func() []exchange.Model { return []exchange.Model{{ID: "a"}, {ID: "b:latest"}} }}})
	for name, want := range map[string]string{"a": "a", "a:latest": "a", "b:latest": "b:latest", "oci:r/m:latest": "oci:r/m:latest", "a:8b": "a:8b", ":latest": ":latest"} {
		got, err := f.named(&common{Model: name})
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
}

// LO-425: a request that asks nothing loads the model, or unloads it.
func TestModelsAreLoadedAndUnloaded(t *testing.T) {
	lib := &library{}
	l := exchangetest.New()
	url := serve(t, l, lib)
	for _, c := range []struct{ path, body, calls, answer string }{
		{"/api/chat", `{"model":"m","messages":[]}`, "load m", `{"model":"m","created_at":"2023-11-14T22:13:20Z","message":{"role":"assistant","content":""},"done":true,"done_reason":"load"}`},
		{"/api/chat", `{"model":"m:latest","keep_alive":0}`, "unload m", `{"model":"m:latest","created_at":"2023-11-14T22:13:20Z","message":{"role":"assistant","content":""},"done":true,"done_reason":"unload"}`},
		{"/api/generate", `{"model":"m","keep_alive":"10m"}`, "load m", `{"model":"m","created_at":"2023-11-14T22:13:20Z","response":"","done":true,"done_reason":"load"}`},
		{"/api/generate", `{"model":"m","prompt":"","keep_alive":"0"}`, "unload m", `{"model":"m","created_at":"2023-11-14T22:13:20Z","response":"","done":true,"done_reason":"unload"}`},
		{"/api/embed", `{"model":"m","input":[]}`, "load m", `{"model":"m","embeddings":[],"total_duration":0,"load_duration":0,"prompt_eval_count":0}`},
		{"/api/embeddings", `{"model":"m"}`, "load m", `{"embedding":[]}`},
	} {
		require.Equal(t, c.answer+"\n", exchangetest.Read(t, exchangetest.Post(t, url+c.path, c.body).Body))
		calls := lib.asked()
		require.Equal(t, c.calls, calls[len(calls)-1])
	}
	require.Empty(t, l.Requests())
	lib.refusal = task.Errorf(task.ModelNotFound, "use coder")
	for path, body := range map[string]string{"/api/chat": `{"model":"m:latest"}`, "/api/generate": `{"model":"m:latest","keep_alive":0}`, "/api/show": `{"model":"m:latest"}`, "/api/pull": `{"model":"m:latest"}`} {
		res := exchangetest.Post(t, url+path, body)
		require.Equal(t, http.StatusNotFound, res.StatusCode)
		require.JSONEq(t, `{"error":"model 'm:latest' not found: use coder"}`, exchangetest.Read(t, res.Body))
	}
}

// LO-425: a pull, streamed and whole.
func TestAPull(t *testing.T) {
	lib := &library{fetches: make(chan Fetch, 16)}
	url := serve(t, exchangetest.New(), lib) + "/api/pull"
	fetch := func(done, total int64) {
		lib.fetches <- Fetch{ID: "m", Digest: "sha256:" + digest, Done: done, Total: total}
	}
	for range 2 {
		fetch(0, 0)
		fetch(10, 100)
		fetch(10, 100)
		fetch(100, 100)
		fetch(100, 100)
		lib.fetches <- Fetch{ID: "m", Over: true, Done: 100, Total: 100}
	}
	const pulling = `{"status":"pulling m","digest":"sha256:` + digest + `","total":100,"completed":`
	res := exchangetest.Post(t, url, `{"name":"hf.co/org/repo:latest"}`)
	require.Equal(t, "application/x-ndjson", res.Header.Get("Content-Type"))
	linesAre(t, `{"status":"pulling manifest"}`+"\n"+pulling+"10}\n"+pulling+"100}\n"+`{"status":"verifying sha256 digest"}`+"\n"+`{"status":"success"}`+"\n", exchangetest.Read(t, res.Body))
	res = exchangetest.Post(t, url, `{"model":"oci:r/m:latest","stream":false}`)
	require.Equal(t, "application/json", res.Header.Get("Content-Type"))
	require.JSONEq(t, `{"status":"success"}`, exchangetest.Read(t, res.Body))
	require.Equal(t, []string{"pull hf:org/repo", "pull oci:r/m:latest"}, lib.asked())
}

// LO-407, LO-425: a pull that fails later ends with an error, and breaks off.
func TestAPullThatFails(t *testing.T) {
	for _, more := range []string{``, `,"stream":false`} {
		lib := &library{fetches: make(chan Fetch), broken: task.Errorf(task.UntrustedArtifact, "other bytes")}
		close(lib.fetches)
		res := exchangetest.Post(t, serve(t, exchangetest.New(), lib)+"/api/pull", `{"model":"hf:a/b"`+more+`}`)
		got, err := io.ReadAll(res.Body)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		require.True(t, strings.HasSuffix(string(got), `{"error":"other bytes"}`+"\n"), "%s", got)
	}
	lib := &library{refusal: task.Errorf(task.PolicyDenied, "the policy denies it")}
	res := exchangetest.Post(t, serve(t, exchangetest.New(), lib)+"/api/pull", `{"model":"hf:a/b"}`)
	require.Equal(t, http.StatusForbidden, res.StatusCode)
	require.JSONEq(t, `{"error":"the policy denies it"}`, exchangetest.Read(t, res.Body))
}

// LO-425: while nothing is new, a pull gives delivery its turn; when that stops, the pull ends.
func TestAPullThatWaits(t *testing.T) {
	ticks := make(chan time.Time, 1)
	ticks <- time.Time{}
	p := pulling{library: &library{}, begun: true}
	lines, err := p.Next(t.Context(), ticks)
	require.NoError(t, err)
	require.Nil(t, lines)
	ctx, stop := context.WithCancel(t.Context())
	stop()
	_, err = p.Next(ctx, nil)
	require.ErrorIs(t, err, context.Canceled)
	require.False(t, p.Last())
	_, going := p.Metrics()
	require.False(t, going)
}

// LO-425: a model is deleted; what cannot be had says what to do instead.
func TestDeleteAndWhatCannotBeHad(t *testing.T) {
	lib := &library{}
	url := serve(t, exchangetest.New(), lib)
	res := exchangetest.Do(t, http.MethodDelete, url+"/api/delete", `{"name":"m:latest"}`)
	require.Equal(t, http.StatusOK, res.StatusCode)
	require.Empty(t, exchangetest.Read(t, res.Body))
	require.Equal(t, []string{"delete m"}, lib.asked())
	lib.refusal = task.Errorf(task.Conflict, "a pool uses it")
	require.Equal(t, http.StatusConflict, exchangetest.Do(t, http.MethodDelete, url+"/api/delete", `{"name":"m"}`).StatusCode)
	for request, says := range map[string]string{
		"POST /api/copy": "aliases", "POST /api/create": "pull", "POST /api/push": "stays", "POST /api/blobs/sha256:0": "not uploaded", "HEAD /api/blobs/sha256:0": "",
	} {
		method, path, _ := strings.Cut(request, " ")
		res := exchangetest.Do(t, method, url+path, `{}`)
		require.Equal(t, http.StatusNotImplemented, res.StatusCode, request)
		require.Contains(t, exchangetest.Read(t, res.Body), says)
	}
	for request, status := range map[string]int{"POST /api/tags": http.StatusMethodNotAllowed, "GET /api/me": http.StatusNotFound} {
		method, path, _ := strings.Cut(request, " ")
		res := exchangetest.Do(t, method, url+path, "")
		require.Equal(t, status, res.StatusCode)
		require.Contains(t, exchangetest.Read(t, res.Body), `{"error":"`)
	}
}
