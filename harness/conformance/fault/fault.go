// SPDX-License-Identifier: GPL-3.0-or-later

// Package fault makes servers of event streams misbehave, whatever dialect they speak: it changes what they write. So all conformance servers have
// the same faults (LO-458).
package fault

import (
	"bytes"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/llama-orch/llama-orch/harness/watch"
)

// Shape is what a fault has to know of a dialect.
type Shape struct {
	// Streams reports whether a request's answer is a stream. Others are left alone.
	Streams func(path string, body []byte) bool
	// Says reports whether a frame's data has a piece of the answer, and Ends whether it says that the answer is over.
	Says, Ends func(data string) bool
	// Error is the body of an error, also of one in the stream.
	Error func(status int, message string) string
}

// Outcome is what a client has to see.
type Outcome string

// The outcomes.
const (
	Same    Outcome = "the same answer"
	Retried Outcome = "the same answer, from another try" // where the adapter tries again; else it is Broken
	Broken  Outcome = "an error that may be retried"      // WORKER_RESET
	Held    Outcome = "a wait until the caller ends it"   // and the connection is closed
)

// Fault is one way in which servers misbehave.
type Fault struct {
	Name string
	Want Outcome
	// Nothing of the answer comes, unless from another try.
	Nothing bool
	wrap    func(c *call)
}

// Server is a server with a fault. Make it with New.
type Server struct {
	watch.State

	next  http.Handler
	fault Fault
	shape Shape
	asked int // streams
	gone  int // of them, those whose client closed the connection or was answered
}

// New wraps a server.
func New(next http.Handler, f Fault, s Shape) *Server { return &Server{next: next, fault: f, shape: s} }

// Asks is how many streams were asked for. It is for Until, as Over is.
func (s *Server) Asks() int { return s.asked }

// Over reports whether all streams are over.
func (s *Server) Over() bool { return s.asked == s.gone }

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body) // only behind its end net/http notices that a client goes
	if err != nil {
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	if !s.shape.Streams(r.URL.Path, body) {
		s.next.ServeHTTP(w, r)
		return
	}
	c := &call{s: s, w: w, r: r}
	s.Update(func() { s.asked++; c.n = s.asked })
	defer s.Update(func() { s.gone++ })
	s.fault.wrap(c)
}

// call is one stream that is asked for.
type call struct {
	s *Server
	w http.ResponseWriter
	r *http.Request
	n int // from 1
}

// pass has the server answer, and gives each frame, with its empty line, to each. At the end it calls each with nil.
func (c *call) pass(each func(write func(string), frame string)) {
	f := &frames{ResponseWriter: c.w, each: each}
	c.s.next.ServeHTTP(f, c.r)
	if f.status == http.StatusOK || f.status == 0 {
		each(f.write, "")
	}
}

// head answers with a status, and a type.
func (c *call) head(status int, kind string) {
	c.w.Header().Set("Content-Type", kind)
	c.w.WriteHeader(status)
}

// write sends bytes at once.
func (c *call) write(text string) {
	_, _ = c.w.Write([]byte(text)) // the context shows whether the client has gone
	_ = http.NewResponseController(c.w).Flush()
}

// hold waits until the client has gone.
func (c *call) hold() { <-c.r.Context().Done() }

// frames is a response that is cut into frames.
type frames struct {
	http.ResponseWriter

	each   func(write func(string), frame string)
	held   []byte
	status int
}

// WriteHeader implements http.ResponseWriter.
func (f *frames) WriteHeader(status int) {
	f.status = status
	f.ResponseWriter.WriteHeader(status)
}

// Write implements io.Writer.
func (f *frames) Write(b []byte) (int, error) {
	if f.status != 0 && f.status != http.StatusOK {
		return f.ResponseWriter.Write(b) //nolint:wrapcheck // it is its writer
	}
	f.held = append(f.held, b...)
	for {
		end := bytes.Index(f.held, []byte("\n\n"))
		if end < 0 {
			return len(b), nil
		}
		frame := string(f.held[:end+2])
		f.held = slices.Delete(f.held, 0, end+2)
		f.each(f.write, frame)
	}
}

func (f *frames) write(text string) {
	_, _ = f.ResponseWriter.Write([]byte(text)) // the context shows whether the client has gone
	_ = http.NewResponseController(f.ResponseWriter).Flush()
}

// Unwrap is for http.ResponseController.
func (f *frames) Unwrap() http.ResponseWriter { return f.ResponseWriter }

// data is what stands in a frame's data line.
func data(frame string) string {
	for line := range strings.SplitSeq(frame, "\n") {
		if text, ok := strings.CutPrefix(line, "data:"); ok {
			return strings.TrimPrefix(text, " ")
		}
	}
	return ""
}
