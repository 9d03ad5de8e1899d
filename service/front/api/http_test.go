// SPDX-License-Identifier: GPL-3.0-or-later

package api

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/gen"
	"github.com/llama-orch/llama-orch/service/front/delivery"
	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/task"
)

// concrete is a path of the contract with names in it.
func concrete(path, artifact string) string {
	switch {
	case strings.HasPrefix(path, "/v1/artifacts/{id}"):
		return strings.Replace(path, "{id}", artifact, 1)
	case strings.HasPrefix(path, "/v1/sessions/"):
		return strings.Replace(path, "{id}", "3f8a1c9e-54b7-4d5a-9d0b-7a2f6f1c2e10", 1)
	case strings.HasPrefix(path, "/v1/pools/"):
		return strings.Replace(path, "{id}", "default", 1)
	}
	return strings.Replace(path, "{id}", "t1", 1)
}

// Each path of a GET in the contract answers a HEAD, with and without a slash behind it, and OPTIONS.
//
// LO-828
func TestEveryPathSpeaksHTTP(t *testing.T) {
	f, kept := withArtifacts(t)
	a, err := kept.Put(t.Context(), ArtifactView{Kind: "plan", MediaType: "text/plain"}, strings.NewReader(strings.Repeat("0123456789", 1000)))
	require.NoError(t, err)
	f.sessions.session.ID = "3f8a1c9e-54b7-4d5a-9d0b-7a2f6f1c2e10"
	f.tasks.subscribe = func(string, string) (delivery.Stream, error) { return &played{startedFrame, endFrame}, nil }
	server := f.serve(t)
	ask := func(method, path string) *http.Response {
		req, err := http.NewRequestWithContext(t.Context(), method, server.URL+path, nil)
		require.NoError(t, err)
		res, err := server.Client().Do(req)
		require.NoError(t, err)
		if method == http.MethodHead {
			require.Empty(t, readAll(t, res.Body), path)
		}
		require.NoError(t, res.Body.Close())
		return res
	}
	methods := map[string][]string{}
	for _, o := range f.native.contract.operations {
		methods[o.path] = append(methods[o.path], o.method)
		if o.method != http.MethodGet {
			continue
		}
		path := concrete(o.path, a.ID)
		get := ask(http.MethodGet, path)
		for _, p := range []string{path, path + "/", path + "?unknown=1&unknown=2"} {
			head := ask(http.MethodHead, p)
			require.Equal(t, get.StatusCode, head.StatusCode, p)
			for _, h := range []http.Header{get.Header, head.Header} {
				for _, moves := range []string{"Date", "Content-Length", gate.CorrelationHeader} {
					h.Del(moves) // of a long answer net/http tells no length
				}
			}
			require.Equal(t, get.Header, head.Header, p)
		}
	}
	require.Greater(t, len(methods), 15)
	for path, list := range methods {
		res := ask(http.MethodOptions, concrete(path, a.ID))
		require.Equal(t, http.StatusNoContent, res.StatusCode, path)
		require.Equal(t, gate.Allow(list), res.Header.Get("Allow"), path)
		require.Empty(t, res.Header.Get("Access-Control-Allow-Methods"))
	}
	require.Equal(t, "GET, HEAD, OPTIONS, POST", ask(http.MethodOptions, "/v1/tasks").Header.Get("Allow"))
	require.Equal(t, http.StatusNotFound, ask(http.MethodHead, "/nope").StatusCode)
	require.Equal(t, http.StatusMethodNotAllowed, ask(http.MethodHead, "/v1/tasks/t1/cancel").StatusCode)
}

// Who subscribes and leaves may cancel a task, so a HEAD on a stream does not subscribe.
//
// LO-828
func TestAHeadOnAStreamReadsNothing(t *testing.T) {
	f := setup(t)
	f.tasks.subscribe = func(string, string) (delivery.Stream, error) { return nil, errors.New("somebody subscribed") }
	server := f.serve(t)
	for range 3 { // on one connection
		res, err := server.Client().Head(server.URL + "/v1/tasks/t1/stream")
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, http.StatusOK, res.StatusCode)
		require.Equal(t, "text/event-stream", res.Header.Get("Content-Type"))
		require.Equal(t, "no-store", res.Header.Get("Cache-Control"))
	}
	f.tasks.err = task.Errorf(task.NotFound, "there is no task")
	res, err := server.Client().Head(server.URL + "/v1/tasks/t1/stream")
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.Equal(t, http.StatusNotFound, res.StatusCode)
}

// LO-828
func TestJSONIsNamedInManyWays(t *testing.T) {
	f := setup(t)
	for _, kind := range []string{
		"application/json", "APPLICATION/JSON", "application/json; charset=utf-8", "application/json;charset=UTF-8", `application/json; charset="Utf-8"`,
		"application/json; charset=utf8", "application/json;",
	} {
		require.Equal(t, http.StatusAccepted, f.do("POST", "/v1/tasks/", goodBody, "Content-Type", kind).StatusCode, kind)
	}
	for _, kind := range []string{"", "text/json", "application/json; charset=utf-16", "application/json; charset=iso-8859-1", "application/x-www-form-urlencoded", "*/*"} {
		require.Equal(t, gen.ErrorCodeUNSUPPORTEDMEDIATYPE, envelope(t, f.do("POST", "/v1/tasks", goodBody, "Content-Type", kind)).Code, kind)
	}
}
