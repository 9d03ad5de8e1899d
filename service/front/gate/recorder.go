// SPDX-License-Identifier: GPL-3.0-or-later

package gate

import (
	"bufio"
	"net"
	"net/http"
)

// recorder notes the status of a response, and lets http.ResponseController reach the connection's own controls.
type recorder struct {
	http.ResponseWriter
	status int // 0: the response has not begun
}

// Unwrap is for http.ResponseController.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// WriteHeader is http.ResponseWriter's.
func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

// Write is http.ResponseWriter's.
func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	return r.ResponseWriter.Write(b)
}

// Hijack is http.Hijacker's. What takes the connection over is a stream, whose status is always 200.
func (r *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffer, err := http.NewResponseController(r.ResponseWriter).Hijack()
	if err == nil && r.status == 0 {
		r.status = http.StatusOK
	}
	return conn, buffer, err
}
