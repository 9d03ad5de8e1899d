// SPDX-License-Identifier: GPL-3.0-or-later

package tracing_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/llama-orch/llama-orch/harness/collector"
	"github.com/llama-orch/llama-orch/service/task"
	"github.com/llama-orch/llama-orch/service/tracing"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var accepted = time.Unix(1_800_000_000, 0)

func record(traceparent string) *task.Record {
	r := &task.Record{State: task.Completed, FinishedAt: accepted.Add(3 * time.Second), End: &task.End{TokensIn: 5, TokensOut: 7}}
	r.Task = task.Task{
		ID: "t", PoolID: "p", Engine: "llamacpp", AcceptedAt: accepted, Determinism: task.Strict,
		Request: task.Request{Prompt: "a secret", ModelRef: "m", Priority: task.Batch, Traceparent: traceparent},
	}
	return r
}

// send has a tracer send a task, and returns what the collector heard.
func send(t *testing.T, sample float64, r *task.Record) []collector.Span {
	t.Helper()
	c := collector.New()
	server := httptest.NewServer(c)
	defer server.Close()
	client := server.Client()
	tracer, err := tracing.New(t.Context(), tracing.Options{Endpoint: server.URL, Sample: sample, Client: client, Version: "v1", Log: zap.NewNop()})
	require.NoError(t, err)
	tracer.Part(&r.Task, tracing.Part{Name: "queue", From: accepted, To: accepted.Add(time.Second)})
	tracer.Part(&r.Task, tracing.Part{Name: "decode", From: accepted.Add(time.Second), To: accepted.Add(2 * time.Second), Replica: "p-0", Tokens: 7, Err: errors.New("gone")})
	tracer.Part(&r.Task, tracing.Part{Name: "nothing", From: accepted.Add(time.Second), To: accepted})
	tracer.Ended(r)
	require.NoError(t, tracer.Stop(context.Background()))
	return c.Spans()
}

// LO-628: a trace has the task, and below it the parts of its way, at the times when they were.
func TestATaskIsATrace(t *testing.T) {
	spans := send(t, 1, record(""))
	require.Len(t, spans, 3)
	queue, decode, whole := spans[0], spans[1], spans[2]
	require.Equal(t, "task", whole.Name)
	require.Empty(t, whole.Parent)
	own, _ := record("").Task.Trace()
	require.Equal(t, own.String(), "00-"+whole.Trace+"-"+whole.ID+"-01")
	require.Equal(t, accepted.UnixNano(), whole.From)
	require.Equal(t, accepted.Add(3*time.Second).UnixNano(), whole.To)
	require.Equal(t, "completed", whole.Attributes["llorch.outcome"])
	require.Equal(t, "7", whole.Attributes["gen_ai.usage.output_tokens"])
	require.Equal(t, "llama-orch", whole.Service)
	require.False(t, whole.Failed)
	for _, part := range []collector.Span{queue, decode} {
		require.Equal(t, whole.Trace, part.Trace)
		require.Equal(t, whole.ID, part.Parent)
		require.NotEqual(t, whole.ID, part.ID)
	}
	require.NotEqual(t, queue.ID, decode.ID)
	require.True(t, decode.Failed)
	require.Equal(t, "p-0", decode.Attributes["llorch.replica_id"])
	for _, s := range spans {
		for name, value := range s.Attributes {
			require.NotContains(t, value, "secret", name)
		}
	}
}

// LO-629: a client's trace goes on, and whether it is recorded is the client's word.
func TestAClientsTraceGoesOn(t *testing.T) {
	const theirs = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0"
	for _, s := range send(t, 0, record(theirs+"1")) {
		require.Equal(t, "4bf92f3577b34da6a3ce929d0e0e4736", s.Trace)
		if s.Name == "task" {
			require.Equal(t, "00f067aa0ba902b7", s.Parent)
		}
	}
	require.Len(t, send(t, 0, record(theirs+"1")), 3)
	require.Empty(t, send(t, 1, record(theirs+"0")))
	require.Empty(t, send(t, 0, record("")), "nothing that begins here is to be recorded")
}

// LO-628: without a tracer nothing is done, and engines hear of no trace.
func TestNoTracer(t *testing.T) {
	var none *tracing.Tracer
	r := record("")
	none.Part(&r.Task, tracing.Part{Name: "queue"})
	none.Ended(r)
	require.Empty(t, none.TraceID(&r.Task))
	require.Empty(t, task.Traceparent(none.Context(t.Context(), &r.Task)))
	require.NoError(t, none.Stop(t.Context()))
}

// LO-628: a collector that is gone costs nothing but a line in the log.
func TestACollectorThatIsGone(t *testing.T) {
	core, seen := observer.New(zap.WarnLevel)
	tracer, err := tracing.New(t.Context(), tracing.Options{Endpoint: "http://127.0.0.1:1", Sample: 1, Client: &http.Client{Transport: &http.Transport{}}, Log: zap.New(core)})
	require.NoError(t, err)
	tracer.Ended(record(""))
	require.NoError(t, tracer.Stop(t.Context()))
	require.Len(t, seen.All(), 1)
	require.Contains(t, seen.All()[0].Message, "is the collector running")
}

// LO-628: spans that a slow collector leaves no room for are dropped, and the log says how many: at once, and then not at each.
func TestACollectorThatIsSlow(t *testing.T) {
	c, let := collector.New(), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-let
		c.ServeHTTP(w, r)
	}))
	defer server.Close()
	takes := sync.OnceFunc(func() { close(let) })
	defer takes()
	core, seen := observer.New(zap.WarnLevel)
	tracer, err := tracing.New(t.Context(), tracing.Options{Endpoint: server.URL, Sample: 1, Client: server.Client(), Log: zap.New(core)})
	require.NoError(t, err)
	const all = 10_000
	for range all {
		tracer.Ended(record(""))
	}
	require.Len(t, seen.All(), 1, "at once")
	takes()
	require.NoError(t, tracer.Stop(t.Context()))
	require.Len(t, seen.All(), 2, "and at the end")
	dropped := 0
	for _, line := range seen.All() {
		require.Contains(t, line.Message, "spans were dropped")
		dropped += int(line.ContextMap()["spans"].(int64))
	}
	require.Equal(t, all, len(c.Spans())+dropped)
	require.GreaterOrEqual(t, len(c.Spans()), 2048, "what there is room for is sent")
}
