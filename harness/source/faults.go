// SPDX-License-Identifier: GPL-3.0-or-later

package source

import (
	"net/http"
	"sync"
	"sync/atomic"
)

// Seen is one request for bytes of a model, as its headers describe it.
type Seen struct {
	Path, Range, Host, Authorization string
}

// Faults is in front of a real server. It writes down the requests for models, and breaks the answers that it is told to break. Set its fields while no
// request is under way, or with Lock held.
type Faults struct {
	sync.Mutex
	Inner http.Handler
	IsGet func(r *http.Request) bool // reports whether a request is for a model's bytes

	Sent  atomic.Int64 // bytes of models
	Seen  []Seen
	Cut   []int                                                // ends the connection after so many bytes of the body; one entry for each request
	First []http.HandlerFunc                                   // answer instead of the server; one for each request
	Gate  func(w http.ResponseWriter, at int, r *http.Request) // called where Cut says, instead of ending the connection; the rest follows
}

func (f *Faults) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !f.IsGet(r) {
		f.Inner.ServeHTTP(w, r)
		return
	}
	f.Lock()
	f.Seen = append(f.Seen, Seen{r.URL.Path, r.Header.Get("Range"), r.Host, r.Header.Get("Authorization")})
	var instead http.HandlerFunc
	if len(f.First) > 0 {
		instead, f.First = f.First[0], f.First[1:]
	}
	cut := -1
	if len(f.Cut) > 0 {
		cut, f.Cut = f.Cut[0], f.Cut[1:]
	}
	gate := f.Gate
	f.Unlock()
	if instead != nil {
		instead(w, r)
		return
	}
	f.Inner.ServeHTTP(&cutter{ResponseWriter: w, sent: &f.Sent, left: cut, gate: gate, r: r, open: cut < 0}, r)
}

// Requests returns the requests for models so far.
func (f *Faults) Requests() []Seen {
	f.Lock()
	defer f.Unlock()
	return append([]Seen(nil), f.Seen...)
}

// cutter sends so many bytes. If there is a gate, it waits there, and goes on when the gate opens. Otherwise it drops the connection.
type cutter struct {
	http.ResponseWriter
	sent *atomic.Int64
	left int
	gate func(w http.ResponseWriter, at int, r *http.Request)
	r    *http.Request
	open bool
}

func (c *cutter) Write(p []byte) (int, error) {
	if c.open {
		return c.send(p)
	}
	n, err := c.send(p[:min(len(p), c.left)])
	if c.left -= n; err != nil || c.left > 0 {
		return n, err
	}
	_ = http.NewResponseController(c.ResponseWriter).Flush()
	if c.gate == nil {
		panic(http.ErrAbortHandler)
	}
	c.gate(c.ResponseWriter, n, c.r)
	c.open = true
	more, err := c.send(p[n:])
	return n + more, err
}

func (c *cutter) send(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.sent.Add(int64(n))
	return n, err
}
