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
	"github.com/llama-orch/llama-orch/service/front/delivery"
	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/task"
)

const (
	startedFrame = "id: 0-aaaaaaaa\nevent: started\ndata: {}\n\n"
	tokenFrame   = "id: 1-bbbbbbbb\nevent: token\ndata: {\"t\":\"x\",\"i\":0}\n\n"
	endFrame     = "id: 2-cccccccc\nevent: end\ndata: {}\n\n"
)

// serve serves on a real socket, as a stream needs it.
func (f *fixture) serve(t *testing.T) *httptest.Server {
	server := httptest.NewServer(f.handler)
	t.Cleanup(server.Close)
	return server
}

// get asks for a path with headers, and returns the answer's body, too.
func get(t *testing.T, server *httptest.Server, path string, header ...string) (*http.Response, string) {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+path, nil)
	require.NoError(t, err)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := server.Client().Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res, string(body)
}

// ORCH-2002, OC-CTRL-2023
func TestStreamOrderAndHeaders(t *testing.T) {
	f := setup(t)
	f.tasks.subscribe = func(string, string) (delivery.Stream, error) { return &played{startedFrame, tokenFrame, endFrame}, nil }
	res, body := get(t, f.serve(t), "/v1/tasks/t1/stream")
	require.Equal(t, "text/event-stream", res.Header.Get("Content-Type"))
	require.Equal(t, "no-store", res.Header.Get("Cache-Control"))
	require.Equal(t, "no", res.Header.Get("X-Accel-Buffering"))
	require.NotEmpty(t, res.Header.Get(gate.CorrelationHeader))
	metrics := "event: metrics\ndata: {\"phase\":\"decode\",\"queue_depth\":0,\"queue_position\":0,\"predicted_start_ms\":0,\"on_time_probability\":1,\"kv_warmth\":false}\n\n"
	require.Equal(t, startedFrame+metrics+tokenFrame+endFrame, body)
	require.Equal(t, ": keep-alive\n\n", string(native{}.KeepAlive(nil)))
}

// LO-201, LO-826
func TestResumePointReachesTheLog(t *testing.T) {
	f := setup(t)
	var asked []string
	f.tasks.subscribe = func(id, after string) (delivery.Stream, error) {
		asked = append(asked, id+" "+after)
		return &played{}, nil
	}
	server := f.serve(t)
	get(t, server, "/v1/tasks/t1/stream")
	get(t, server, "/v1/tasks/t1/stream?after=3-0a1b2c3d")
	get(t, server, "/v1/tasks/t1/stream", "Last-Event-ID", "4-0a1b2c3d")
	get(t, server, "/v1/tasks/t1/stream?after=5-0a1b2c3d", "Last-Event-ID", "5-0a1b2c3d")
	get(t, server, "/v1/tasks/t1/stream?after=1-0a1b2c3d", "Last-Event-ID", "6-0a1b2c3d")
	get(t, server, "/v1/tasks/t1/stream?after=nonsense", "Last-Event-ID", "6-0a1b2c3d")
	get(t, server, "/v1/tasks/t1/stream?after=7-0a1b2c3d", "Last-Event-ID", "")
	get(t, server, "/v1/tasks/t1/stream?after=", "Last-Event-ID", "")
	require.Equal(t, []string{
		"t1 ", "t1 3-0a1b2c3d", "t1 4-0a1b2c3d", "t1 5-0a1b2c3d", "t1 6-0a1b2c3d", "t1 6-0a1b2c3d", "t1 7-0a1b2c3d", "t1 ",
	}, asked)
}

// OC-CTRL-2034
func TestErrorsBeforeTheStreamUseTheStatus(t *testing.T) {
	f := setup(t)
	f.tasks.subscribe = func(string, string) (delivery.Stream, error) {
		return nil, task.Errorf(task.NotFound, "there is no task")
	}
	require.Equal(t, gen.ErrorCodeNOTFOUND, envelope(t, f.do("GET", "/v1/tasks/t1/stream", "")).Code)
}

// Each error that ends a stream has an id, and who comes back with it hears that there is nothing more.
//
// LO-827, OC-CTRL-2034
func TestTheErrorOfOneStreamHasAnID(t *testing.T) {
	for _, code := range task.Codes() {
		f := setup(t)
		why := task.Errorf(code, "other bytes")
		f.tasks.subscribe = func(string, string) (delivery.Stream, error) { return delivery.Refusal(why), nil }
		if gate.StreamOnly(code) {
			f.tasks.subscribe = func(string, string) (delivery.Stream, error) { return nil, why }
		}
		server := f.serve(t)
		res, body := get(t, server, "/v1/tasks/t1/stream", "Last-Event-ID", "1-00000000")
		require.Equal(t, http.StatusOK, res.StatusCode)
		require.Regexp(t, `^id: 999999999999999999-[0-9a-f]{8}\nevent: error\ndata: \{"code":"`+string(code)+`","message":"other bytes",[^\n]*\}\n\n$`, body)
		id, _, _ := strings.Cut(strings.TrimPrefix(body, "id: "), "\n")
		f.tasks.subscribe = func(string, string) (delivery.Stream, error) { return &played{startedFrame}, nil }
		for _, header := range [][]string{{"Last-Event-ID", id}, nil} {
			path := "/v1/tasks/t1/stream"
			if header == nil {
				path += "?after=" + id
			}
			res, body = get(t, server, path, header...)
			require.Equal(t, http.StatusNoContent, res.StatusCode)
			require.Empty(t, body)
		}
		f.tasks.err = task.Errorf(task.NotFound, "there is no task")
		res, _ = get(t, server, "/v1/tasks/t1/stream", "Last-Event-ID", id)
		require.Equal(t, http.StatusNotFound, res.StatusCode)
	}
}
