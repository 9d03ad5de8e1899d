// SPDX-License-Identifier: GPL-3.0-or-later

// Package collector takes spans as an OpenTelemetry collector does, by OTLP over HTTP in protobuf, and keeps them for tests.
package collector

import (
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"

	service "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// Span is what was heard of one. Ids are in hex, times in nanoseconds since 1970.
type Span struct {
	Name, Trace, ID, Parent, Service string
	From, To                         int64
	Failed                           bool
	Attributes                       map[string]string
}

// Collector is a handler that keeps the spans it gets.
type Collector struct {
	mu    sync.Mutex
	spans []Span
}

// New makes one.
func New() *Collector { return &Collector{} }

// Spans are all that came, in their order.
func (c *Collector) Spans() []Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.spans)
}

// ServeHTTP takes an export.
func (c *Collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var in service.ExportTraceServiceRequest
	if err == nil {
		err = proto.Unmarshal(body, &in)
	}
	if err != nil || r.URL.Path != "/v1/traces" || r.Header.Get("Content-Type") != "application/x-protobuf" {
		http.Error(w, fmt.Sprint("no export of traces: ", err), http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, of := range in.ResourceSpans {
		about := texts(of.Resource.Attributes)
		for _, scope := range of.ScopeSpans {
			for _, s := range scope.Spans {
				c.spans = append(c.spans, Span{
					Name: s.Name, Trace: hex.EncodeToString(s.TraceId), ID: hex.EncodeToString(s.SpanId), Parent: hex.EncodeToString(s.ParentSpanId),
					Service: about["service.name"], From: int64(s.StartTimeUnixNano), To: int64(s.EndTimeUnixNano),
					Failed: s.Status.GetCode() == trace.Status_STATUS_CODE_ERROR, Attributes: texts(s.Attributes),
				})
			}
		}
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
}

func texts(all []*common.KeyValue) map[string]string {
	out := map[string]string{}
	for _, a := range all {
		switch v := a.Value.Value.(type) {
		case *common.AnyValue_StringValue:
			out[a.Key] = v.StringValue
		case *common.AnyValue_IntValue:
			out[a.Key] = fmt.Sprint(v.IntValue)
		default:
			out[a.Key] = a.Value.String()
		}
	}
	return out
}
