// SPDX-License-Identifier: GPL-3.0-or-later

package gate

import (
	"bufio"
	"net"
	"net/http"
	"time"

	"github.com/llama-orch/llama-orch/service/port"
)

// recorder notes the status of a response, and lets http.ResponseController reach the connection's own controls.
type recorder struct {
	http.ResponseWriter
	status int   // 0: the response has not begun
	body   *body // of the request; nil: it has none
	asked  bool  // the client waits for a sign before it sends its body
	taken  bool  // a handler has the connection

	answered func(status int) // is called when the response begins

	within time.Duration // what the answer may take to be written
	shows  string        // which headers a web page of another origin may read; empty: there is none that may
}

// expose says what a page may read. Gen's encoders have said so already, for any page.
func (r *recorder) expose() {
	if r.shows != "" {
		r.Header().Set("Access-Control-Expose-Headers", r.shows)
	} else {
		r.Header().Del("Access-Control-Expose-Headers")
	}
}

// bound begins the time for the answer. A client that does not read it must not keep the connection for ever. A stream sets the time anew
// for each write.
func (r *recorder) bound() {
	_ = http.NewResponseController(r.ResponseWriter).SetWriteDeadline(time.Now().Add(r.within))
}

// begin is called before the response begins. What the client was not asked for must not hold it up.
func (r *recorder) begin(status int) {
	if r.status != 0 || status < http.StatusOK && status != http.StatusSwitchingProtocols {
		return
	}
	r.status = status
	r.answered(status)
	// What came before, such as the load of a model or a time in which this process was stopped (LO-836), is not the client's doing.
	r.bound()
	r.expose()
	if r.body != nil && !r.body.settle(r.asked) {
		r.Header().Set("Connection", "close")
	}
}

// Unwrap is for http.ResponseController.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// WriteHeader is http.ResponseWriter's.
func (r *recorder) WriteHeader(status int) {
	r.begin(status)
	r.ResponseWriter.WriteHeader(status)
}

// Write is http.ResponseWriter's.
func (r *recorder) Write(b []byte) (int, error) {
	r.begin(http.StatusOK)
	return r.ResponseWriter.Write(b)
}

// Hijack is http.Hijacker's. What takes the connection over is a stream, whose status is always 200.
func (r *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffer, err := http.NewResponseController(r.ResponseWriter).Hijack()
	if err == nil {
		r.taken = true
		r.expose()
		if r.status == 0 {
			r.status = http.StatusOK
			r.answered(r.status)
		}
	}
	return conn, buffer, err
}

// waits is called when the request was served. Where no handler has taken the connection over, it waits for another request.
func (r *recorder) waits(served *http.Request) {
	if !r.taken {
		port.Waits(served.Context())
	}
}
