// SPDX-License-Identifier: GPL-3.0-or-later

// Package tape records what the suites' clients ask the daemon, and what it answers, so that all of it can be held against the API's document
// afterwards (LO-845, ADR 023).
package tape

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"
)

// Env names the environment variable with the folder of the records. Without it nothing is recorded.
const Env = "LLORCH_TAPE"

// What is kept of one exchange at most, in bytes.
const (
	mostAsked    = 64 << 10
	mostAnswered = 1 << 20
)

// Exchange is a request and its answer.
type Exchange struct {
	Method  string      `json:"method"`
	Target  string      `json:"target"` // path and query
	Asked   http.Header `json:"asked"`  // without what is secret
	Request []byte      `json:"request,omitempty"`

	Status int         `json:"status"`
	Header http.Header `json:"header"`
	Body   []byte      `json:"body,omitempty"`
	Whole  bool        `json:"whole"` // the client read the answer to its end
}

// recorder writes the exchanges of this process to a file.
type recorder struct {
	mu   sync.Mutex
	file *os.File // closed with the process; a line is one write, so a process that is killed leaves whole lines
	err  error
}

var open = sync.OnceValue(func() *recorder {
	dir := os.Getenv(Env)
	if dir == "" {
		return nil
	}
	file, err := os.CreateTemp(dir, "*.jsonl")
	return &recorder{file: file, err: err}
})

// Transport is a transport whose exchanges are recorded. Where no folder is named, it is next.
func Transport(next http.RoundTripper) http.RoundTripper {
	r := open()
	if r == nil {
		return next
	}
	return &transport{RoundTripper: next, to: r}
}

type transport struct {
	http.RoundTripper
	to *recorder
}

// CloseIdleConnections lets http.Client close those of the transport behind it.
func (t *transport) CloseIdleConnections() {
	if c, ok := t.RoundTripper.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// RoundTrip is http.RoundTripper's. An exchange is recorded when its answer was read to the end, or closed.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if t.to.err != nil {
		return nil, fmt.Errorf("record the exchanges: %w", t.to.err)
	}
	e := Exchange{Method: r.Method, Target: r.URL.RequestURI(), Asked: asked(r.Header), Request: sent(r)}
	res, err := t.RoundTripper.RoundTrip(r)
	if err != nil {
		return nil, err //nolint:wrapcheck // it is the caller's transport
	}
	e.Status, e.Header = res.StatusCode, res.Header.Clone()
	res.Body = &answer{ReadCloser: res.Body, exchange: e, to: t.to}
	return res, nil
}

// asked are the headers that say what the client wants. Whether there is a token matters, and not which.
func asked(h http.Header) http.Header {
	out := http.Header{}
	for _, name := range []string{"Content-Type", "Content-Encoding", "Last-Event-Id", "Range", "If-Range", "If-Match", "If-None-Match"} {
		if values := h.Values(name); len(values) > 0 {
			out[name] = values
		}
	}
	if h.Get("Authorization") != "" {
		out.Set("Authorization", "Bearer token")
	}
	return out
}

// sent is a request's body, where it can be read twice and is not long.
func sent(r *http.Request) []byte {
	if r.GetBody == nil {
		return nil
	}
	body, err := r.GetBody()
	if err != nil {
		return nil
	}
	defer body.Close()
	data, err := io.ReadAll(io.LimitReader(body, mostAsked+1))
	if err != nil || len(data) > mostAsked {
		return nil
	}
	return data
}

// answer is a body that remembers what was read of it.
type answer struct {
	io.ReadCloser
	exchange Exchange
	to       *recorder
	once     sync.Once
	mu       sync.Mutex // a client may close while it reads
	read     bytes.Buffer
}

// Read is io.Reader's.
func (a *answer) Read(p []byte) (int, error) {
	n, err := a.ReadCloser.Read(p)
	a.mu.Lock()
	if a.read.Len() <= mostAnswered {
		a.read.Write(p[:n])
	}
	a.mu.Unlock()
	if err != nil {
		a.over(errors.Is(err, io.EOF))
	}
	return n, err
}

// Close is io.Closer's.
func (a *answer) Close() error {
	// An answer without a body is whole, and nobody needs to read it.
	a.over(a.exchange.Status == http.StatusNoContent || a.exchange.Status == http.StatusNotModified || a.exchange.Method == http.MethodHead)
	return a.ReadCloser.Close()
}

func (a *answer) over(whole bool) {
	a.once.Do(func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.exchange.Whole = whole && a.read.Len() <= mostAnswered
		a.exchange.Body = a.read.Bytes()[:min(a.read.Len(), mostAnswered)]
		a.to.write(&a.exchange)
	})
}

func (r *recorder) write(e *Exchange) {
	line, err := json.Marshal(e)
	if err != nil {
		panic(err) // it is made of what JSON has
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, err := r.file.Write(append(line, '\n')); err != nil && r.err == nil {
		r.err = err
	}
}

// Read reads all records of a folder, and hands each exchange to a function.
func Read(dir string, each func(Exchange) error) error {
	files, err := filepath.Glob(filepath.Join(dir, "*.jsonl"))
	if err != nil {
		return fmt.Errorf("find the records: %w", err)
	}
	for _, name := range files {
		if err := readFile(name, each); err != nil {
			return fmt.Errorf("read %s: %w", filepath.Base(name), err)
		}
	}
	return nil
}

func readFile(name string, each func(Exchange) error) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	in := bufio.NewScanner(file)
	in.Buffer(nil, 4*(mostAsked+mostAnswered))
	for in.Scan() {
		var e Exchange
		if err := json.Unmarshal(in.Bytes(), &e); err != nil {
			return err
		}
		if err := each(e); err != nil {
			return err
		}
	}
	return in.Err()
}
