// SPDX-License-Identifier: GPL-3.0-or-later

package task

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
)

// Trace is where something stands in a trace, as the header traceparent of W3C Trace Context says it.
type Trace struct {
	TraceID [16]byte
	SpanID  [8]byte // of the span that the next ones belong to
	Sampled bool    // whoever began the trace wants it recorded
}

// ParseTraceparent reads a header. It reports false for one that is none, which W3C has ignored.
func ParseTraceparent(text string) (t Trace, ok bool) {
	parts := strings.Split(text, "-")
	if len(parts) < 4 || len(parts[0]) != 2 || parts[0] == "ff" || parts[0] == "00" && len(parts) != 4 || text != strings.ToLower(text) {
		return Trace{}, false
	}
	var version, flags [1]byte
	for i, into := range [][]byte{version[:], t.TraceID[:], t.SpanID[:], flags[:]} {
		if len(parts[i]) != hex.EncodedLen(len(into)) {
			return Trace{}, false
		}
		if _, err := hex.Decode(into, []byte(parts[i])); err != nil {
			return Trace{}, false
		}
	}
	t.Sampled = flags[0]&1 == 1
	return t, t.TraceID != [16]byte{} && t.SpanID != [8]byte{}
}

// String is the header.
func (t Trace) String() string {
	flags := "00"
	if t.Sampled {
		flags = "01"
	}
	return "00-" + hex.EncodeToString(t.TraceID[:]) + "-" + hex.EncodeToString(t.SpanID[:]) + "-" + flags
}

// Trace is the task's own place: the trace of its client, or a trace of its own, and in it a span that each process makes the same of the task's id and
// the time of its accept. Parent is the client's span; zero: the client named none.
func (t *Task) Trace() (own Trace, parent [8]byte) {
	sum := sha256.Sum256([]byte(t.ID + "\x00" + strconv.FormatInt(t.AcceptedAt.UnixMilli(), 10)))
	own = Trace{TraceID: [16]byte(sum[:16]), SpanID: [8]byte(sum[16:24]), Sampled: true}
	if theirs, ok := ParseTraceparent(t.Request.Traceparent); ok {
		own.TraceID, own.Sampled, parent = theirs.TraceID, theirs.Sampled, theirs.SpanID
	}
	return own, parent
}

type traceparentKey struct{}

// WithTraceparent is a context whose requests to engines carry the header.
func WithTraceparent(ctx context.Context, header string) context.Context {
	return context.WithValue(ctx, traceparentKey{}, header)
}

// Traceparent is the header of requests to engines; empty: they carry none.
func Traceparent(ctx context.Context) string {
	header, _ := ctx.Value(traceparentKey{}).(string)
	return header
}
