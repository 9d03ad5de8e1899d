// SPDX-License-Identifier: GPL-3.0-or-later

package worker

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"time"
)

const (
	// maxBody bounds a request. A prompt of a million tokens is far below it.
	maxBody = 32 << 20
	// bodyWithin is how long the body of a request may take. Its client is the orchestrator on the same machine.
	bodyWithin = 30 * time.Second
	// restWithin is how long the rest of a body may come in that nobody reads.
	restWithin = time.Second
)

// takeBody reads the body of a request that has one to take, and leaves those of all others.
func takeBody(rw http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodGet {
		err := readBody(rw, r)
		if err == nil {
			return nil
		}
		leaveBody(rw, r)
		return err
	}
	leaveBody(rw, r)
	return nil
}

// readBody reads a request's body whole, in bounds, and leaves it in the request. After it the connection has no deadline, so that a
// long job is not taken for a client that is gone.
func readBody(rw http.ResponseWriter, r *http.Request) error {
	if r.Body == http.NoBody {
		return nil
	}
	control := http.NewResponseController(rw)
	_ = control.SetReadDeadline(time.Now().Add(bodyWithin)) // where there are no deadlines, nobody waits
	data, err := io.ReadAll(http.MaxBytesReader(rw, r.Body, maxBody))
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, io.ErrUnexpectedEOF):
		return invalid("the body broke off after %d bytes", len(data))
	case err != nil:
		return err
	}
	_ = control.SetReadDeadline(time.Time{})
	r.Body = io.NopCloser(bytes.NewReader(data))
	return nil
}

// leaveBody is called before an answer that does not need the request's body. The answer must not wait for it, so the connection ends
// with the answer (LO-820).
func leaveBody(rw http.ResponseWriter, r *http.Request) {
	if r.Body == http.NoBody {
		return
	}
	rw.Header().Set("Connection", "close")
	_ = http.NewResponseController(rw).SetReadDeadline(time.Now().Add(restWithin)) // where there are no deadlines, nobody waits
}
