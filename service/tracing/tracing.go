// SPDX-License-Identifier: GPL-3.0-or-later

// Package tracing tells an OpenTelemetry collector how tasks went: a span a task, and below it one for each part of its way (LO-628). A span is made
// when its part is over, from times that are known by then. So nothing is carried along with a task, and a daemon that does not trace pays nothing.
package tracing

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"net/url"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/task"
)

// Options are what a Tracer is made from.
type Options struct {
	Endpoint string  // URL of a collector that takes OTLP over HTTP; without a path it is /v1/traces
	Sample   float64 // the share of traces that begin here, from 0 to 1. Traces of clients are recorded as they ask
	Client   *http.Client
	Version  string
	Log      *zap.Logger
}

// Tracer sends spans. A nil one does nothing.
type Tracer struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
	sample   uint64
}

// Part is a part of a task's way.
type Part struct {
	Name     string // admission, queue, load, prefill, decode, delivery
	From, To time.Time
	Replica  string // empty: none had the task
	Tokens   int
	Err      error
}

// New makes a Tracer. Stop ends it.
func New(ctx context.Context, o Options) (*Tracer, error) {
	at, err := url.Parse(o.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("the collector's address: %w", err)
	}
	if at.Path == "" || at.Path == "/" {
		at.Path = "/v1/traces"
	}
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(at.String()), otlptracehttp.WithHTTPClient(o.Client))
	if err != nil {
		return nil, fmt.Errorf("make the exporter of traces: %w", err)
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		o.Log.Warn("spans were not sent, and are lost: is the collector running, and does the policy allow it?", zap.String("endpoint", o.Endpoint), zap.Error(err))
	}))
	about := resource.NewSchemaless(attribute.String("service.name", "llama-orch"), attribute.String("service.version", o.Version))
	t := &Tracer{sample: share(o.Sample)}
	q := &queue{log: o.Log}
	batches := sdktrace.NewBatchSpanProcessor(&exit{exporter, q}, sdktrace.WithMaxQueueSize(queueSpans), sdktrace.WithMaxExportBatchSize(sdktrace.DefaultMaxExportBatchSize))
	t.provider = sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(&entrance{batches, q}), sdktrace.WithResource(about), sdktrace.WithIDGenerator(t), sdktrace.WithSampler(sdktrace.AlwaysSample()))
	t.tracer = t.provider.Tracer("github.com/llama-orch/llama-orch")
	return t, nil
}

// share is the bound below which the beginning of a trace's id has it recorded.
func share(of float64) uint64 {
	if of >= 1 {
		return math.MaxUint64
	}
	return uint64(of * math.MaxUint64)
}

// Stop sends what is left.
func (t *Tracer) Stop(ctx context.Context) error {
	if t == nil {
		return nil
	}
	return t.provider.Shutdown(ctx)
}

// wants says whether the task's trace is recorded.
func (t *Tracer) wants(own task.Trace, client bool) bool {
	if client {
		return own.Sampled
	}
	return binary.BigEndian.Uint64(own.TraceID[:]) <= t.sample
}

// Context is a context by which the task's engine hears of the trace.
func (t *Tracer) Context(ctx context.Context, of *task.Task) context.Context {
	if t == nil {
		return ctx
	}
	own, parent := of.Trace()
	own.Sampled = t.wants(own, parent != [8]byte{})
	return task.WithTraceparent(ctx, own.String())
}

// TraceID is the id of the task's trace, in hex; empty: it is not recorded.
func (t *Tracer) TraceID(of *task.Task) string {
	if t == nil {
		return ""
	}
	own, parent := of.Trace()
	if !t.wants(own, parent != [8]byte{}) {
		return ""
	}
	return trace.TraceID(own.TraceID).String()
}

// Part sends one part of a task's way.
func (t *Tracer) Part(of *task.Task, p Part) {
	if t == nil || p.To.Before(p.From) {
		return
	}
	own, parent := of.Trace()
	if !t.wants(own, parent != [8]byte{}) {
		return
	}
	ctx := trace.ContextWithRemoteSpanContext(context.Background(), spanContext(own.TraceID, own.SpanID))
	attributes := make([]attribute.KeyValue, 0, 2)
	if p.Replica != "" {
		attributes = append(attributes, attribute.String("llorch.replica_id", p.Replica))
	}
	if p.Tokens > 0 {
		attributes = append(attributes, attribute.Int("llorch.tokens", p.Tokens))
	}
	_, span := t.tracer.Start(ctx, p.Name, trace.WithTimestamp(p.From), trace.WithAttributes(attributes...))
	end(span, p.Err, p.To)
}

// Ended sends the span of a whole task.
func (t *Tracer) Ended(r *task.Record) {
	if t == nil {
		return
	}
	own, parent := r.Task.Trace()
	if !t.wants(own, parent != [8]byte{}) {
		return
	}
	ctx := context.WithValue(context.Background(), idsKey{}, own)
	if parent != [8]byte{} {
		ctx = trace.ContextWithRemoteSpanContext(ctx, spanContext(own.TraceID, parent))
	}
	of := &r.Task
	attributes := []attribute.KeyValue{
		attribute.String("llorch.task_id", of.ID), attribute.String("llorch.pool_id", of.PoolID), attribute.String("llorch.priority", string(of.Request.Priority)),
		attribute.String("llorch.determinism", string(of.Determinism)), attribute.String("llorch.outcome", string(r.State)),
		attribute.String("llorch.correlation_id", of.Request.CorrelationID), attribute.String("gen_ai.system", of.Engine), attribute.String("gen_ai.request.model", of.Request.ModelRef),
	}
	var err error
	if r.End != nil {
		attributes = append(attributes, attribute.Int("gen_ai.usage.input_tokens", r.End.TokensIn), attribute.Int("gen_ai.usage.output_tokens", r.End.TokensOut))
	} else if r.Err != nil {
		attributes = append(attributes, attribute.String("error.type", string(r.Err.Code)))
		if r.State != task.StateCanceled {
			err = r.Err
		}
	}
	_, span := t.tracer.Start(ctx, "task", trace.WithTimestamp(of.AcceptedAt), trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(attributes...))
	end(span, err, r.FinishedAt)
}

func end(span trace.Span, err error, at time.Time) {
	if err != nil {
		span.SetStatus(codes.Error, string(task.AsError(err).Code))
	}
	span.End(trace.WithTimestamp(at))
}

func spanContext(traceID [16]byte, spanID [8]byte) trace.SpanContext {
	return trace.NewSpanContext(trace.SpanContextConfig{TraceID: traceID, SpanID: spanID, TraceFlags: trace.FlagsSampled, Remote: true})
}

type idsKey struct{}

// NewIDs implements sdktrace.IDGenerator: those of the task's own span are known.
func (t *Tracer) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	own, _ := ctx.Value(idsKey{}).(task.Trace)
	return own.TraceID, own.SpanID
}

// NewSpanID implements sdktrace.IDGenerator.
func (t *Tracer) NewSpanID(ctx context.Context, _ trace.TraceID) trace.SpanID {
	if own, ok := ctx.Value(idsKey{}).(task.Trace); ok {
		return own.SpanID
	}
	for {
		var id trace.SpanID
		binary.BigEndian.PutUint64(id[:], rand.Uint64()) //nolint:gosec // it need only differ
		if id.IsValid() {
			return id
		}
	}
}
