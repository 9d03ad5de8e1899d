// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/harness/collector"
	"github.com/llama-orch/llama-orch/service/task"
	"github.com/llama-orch/llama-orch/service/tracing"
)

// handled has a handler answer requests, without a socket.
type handled struct{ http.Handler }

func (h handled) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result(), nil
}

// traced has the rig's tasks traced. It returns what stops that, and gives the spans.
func (r *rig) traced() func() []collector.Span {
	c := collector.New()
	tracer, err := tracing.New(context.Background(), tracing.Options{Endpoint: "http://collector", Sample: 1, Client: &http.Client{Transport: handled{c}}, Log: zap.NewNop()})
	require.NoError(r.t, err)
	r.s.o.Tracer = tracer
	return func() []collector.Span {
		require.NoError(r.t, tracer.Stop(context.Background()))
		return c.Spans()
	}
}

// LO-628: the run of a task that was canceled has not failed, nor has one that gave way. One that broke off has.
func TestWhatIsNoFailureOfARun(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		spans := r.traced()
		r.must("l", ofBatch, tokens(100))
		time.Sleep(205 * time.Millisecond)
		r.must("i")
		time.Sleep(15 * time.Millisecond)
		_, err := r.s.Cancel(t.Context(), "i")
		require.NoError(t, err)
		time.Sleep(5 * time.Second)
		require.Equal(t, task.Completed, r.status("l").State)
		r.set(func() { r.replicas[0].fail = errors.New("the engine said no") })
		r.must("f")
		time.Sleep(time.Second)
		require.Equal(t, task.Failed, r.status("f").State)
		runs, failed := 0, []string{}
		for _, s := range spans() {
			if s.Name == "decode" || s.Name == "prefill" {
				runs++
			}
			if s.Failed {
				failed = append(failed, s.Name)
			}
		}
		require.Equal(t, 8, runs, "two spans of each run")
		require.Equal(t, []string{"decode", "task"}, failed)
	})
}
