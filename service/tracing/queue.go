// SPDX-License-Identifier: GPL-3.0-or-later

package tracing

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.uber.org/zap"
)

const (
	queueSpans = 2048 // that wait for the collector
	tellEvery  = time.Minute
)

// queue counts the spans that wait for the collector, and drops those for which there is no room. The SDK's queue is as long, so that it never drops one
// itself: it would tell nobody.
type queue struct {
	log   *zap.Logger
	waits atomic.Int64

	mu   sync.Mutex
	lost int       // since the log said so last
	told time.Time // when it did
}

// drop counts a span that is not sent. The log says so at once, and then once a minute.
func (q *queue) drop(now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.lost++
	if now.Sub(q.told) >= tellEvery {
		q.told = now
		q.tell()
	}
}

// tell says how many spans were dropped, if any were. The caller holds mu.
func (q *queue) tell() {
	if q.lost > 0 {
		q.log.Warn("spans were dropped, since the collector takes them too slowly: trace fewer tasks with tracing.sample, or give the collector more room", zap.Int("spans", q.lost))
		q.lost = 0
	}
}

// entrance is the end of the queue that spans come in by.
type entrance struct {
	sdktrace.SpanProcessor

	queue *queue
}

// OnEnd implements sdktrace.SpanProcessor.
func (e *entrance) OnEnd(s sdktrace.ReadOnlySpan) {
	if e.queue.waits.Add(1) > queueSpans {
		e.queue.waits.Add(-1)
		e.queue.drop(time.Now())
		return
	}
	e.SpanProcessor.OnEnd(s)
}

// Shutdown implements sdktrace.SpanProcessor.
func (e *entrance) Shutdown(ctx context.Context) error {
	e.queue.mu.Lock()
	e.queue.tell()
	e.queue.mu.Unlock()
	return e.SpanProcessor.Shutdown(ctx)
}

// exit is the end of the queue that spans leave by.
type exit struct {
	sdktrace.SpanExporter

	queue *queue
}

// ExportSpans implements sdktrace.SpanExporter.
func (e *exit) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	e.queue.waits.Add(-int64(len(spans)))
	return e.SpanExporter.ExportSpans(ctx, spans)
}
