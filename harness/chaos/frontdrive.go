// SPDX-License-Identifier: GPL-3.0-or-later

package chaos

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/llama-orch/llama-orch/harness/client"
)

// frontDriver runs the clients of fronts. mu guards their records while clients write them.
type frontDriver struct {
	field *field
	http  *http.Client

	mu     sync.Mutex
	within map[string]int // by task: the streams of it that have begun and go on
}

func newFrontDriver(f *field) *frontDriver {
	return &frontDriver{field: f, http: &http.Client{Transport: &http.Transport{DisableCompression: true}}, within: map[string]int{}}
}

// close lets go of idle connections.
func (d *frontDriver) close() { d.http.CloseIdleConnections() }

// answerWithin bounds an answer that is sent as a whole, and a pause in a stream that is no stream of a response.
const answerWithin = 90 * time.Second

// ask sends one request and takes its answer down. Each is called with every frame, and says whether the client wants more; nil: it does.
func (d *frontDriver) ask(ctx context.Context, to *server, r request, h *heard, each func(frame string) bool) {
	ctx, stop := context.WithTimeout(ctx, answerWithin)
	defer stop()
	h.sent = time.Now()
	defer func() { h.at = time.Now() }()
	sent, err := http.NewRequestWithContext(ctx, r.method, to.URL+r.path, bytes.NewReader(r.body))
	if err != nil {
		panic(err) // the paths are right
	}
	if r.body != nil {
		sent.Header.Set("Content-Type", r.form)
	}
	if r.key != "" {
		sent.Header.Set("Idempotency-Key", r.key)
	}
	res, err := d.http.Do(sent)
	if err != nil {
		return
	}
	defer res.Body.Close()
	h.status, h.task, h.wait = res.StatusCode, res.Header.Get("X-Task-Id"), res.Header.Get("Retry-After")
	h.again = res.Header.Get("X-Should-Retry") != "false"
	for _, name := range slices.Sorted(maps.Keys(res.Header)) {
		if part, is := strings.CutPrefix(name, "X-Receipt-"); is {
			h.receipt += part + "=" + res.Header.Get(name) + " "
		}
	}
	if h.streamed = strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream"); !h.streamed {
		body, err := io.ReadAll(res.Body)
		h.body, h.whole = strings.TrimLeft(string(body), " "), err == nil
		return
	}
	defer d.listening(h.task)()
	for in := client.NewScanner(res.Body); ; {
		frame, err := in.Frame()
		switch {
		case errors.Is(err, io.EOF):
			h.whole = true
			return
		case errors.Is(err, client.ErrBroken):
			return
		case err != nil:
			h.garbled = err.Error()
			return
		case sign(frame):
			continue
		}
		h.frames = append(h.frames, frame)
		if each != nil && !each(frame) {
			h.left = true
			return
		}
	}
}

// request is one on a front.
type request struct {
	method, path, form, key string
	body                    []byte
}

// post is one with a JSON body.
func post(path, key string, body any) request {
	return request{http.MethodPost, path, "application/json", key, encode(body)}
}

func get(path string) request { return request{method: http.MethodGet, path: path} }

// sign reports whether a frame only says that somebody is there, and is no part of an answer.
func sign(frame string) bool {
	return strings.HasPrefix(frame, ":") && !strings.HasPrefix(frame, ": receipt") || strings.HasPrefix(frame, "event: ping\n") ||
		strings.HasPrefix(frame, "event: keepalive\n")
}

// listening notes that a client reads the stream of a task, until the function that it returns is called.
func (d *frontDriver) listening(task string) func() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.within[task]++
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.within[task]--; d.within[task] == 0 {
			delete(d.within, task)
		}
	}
}

// reading returns the tasks whose streams clients are reading now.
func (d *frontDriver) reading() (tasks []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for task := range d.within {
		tasks = append(tasks, task)
	}
	return tasks
}

// stormFronts starts the clients of fronts.
func (f *field) stormFronts(ctx context.Context, began time.Time, p schedule, clients *sync.WaitGroup) {
	at := func(when time.Duration, run func(ctx context.Context)) {
		clients.Go(func() {
			if pause(ctx, time.Until(began.Add(when))) {
				run(ctx)
			}
		})
	}
	for _, plan := range p.chats {
		c := &chatRecord{plan: plan}
		f.h.chats = append(f.h.chats, c)
		at(plan.at, func(ctx context.Context) { f.fronts.chat(ctx, c) })
	}
	for _, plan := range p.responses {
		r := &responseRecord{plan: plan}
		f.h.responses = append(f.h.responses, r)
		at(plan.at, func(ctx context.Context) { f.fronts.response(ctx, r) })
	}
	for _, plan := range p.batches {
		b := &batchRecord{plan: plan}
		f.h.batches = append(f.h.batches, b)
		at(plan.at, func(ctx context.Context) { f.fronts.batch(ctx, b) })
	}
}

// again is how a client that was told of an error, or of nothing, goes on: it waits a little.
const again = 300 * time.Millisecond

// chat does everything that the clients of one request do.
func (d *frontDriver) chat(ctx context.Context, c *chatRecord) {
	var clients sync.WaitGroup
	for n, p := range c.plan.clients {
		clients.Go(func() {
			if pause(ctx, p.late) {
				d.client(ctx, c, n, p)
			}
		})
	}
	clients.Wait()
	d.useKey(ctx, c)
}

// client sends a request until it has an answer, or leaves.
func (d *frontDriver) client(ctx context.Context, c *chatRecord, n int, p clientPlan) {
	ask := post(dialects[c.plan.kind].path, c.plan.key, c.plan.request)
	for try := 0; ; {
		daemon, _, ok := d.field.at(ctx)
		if !ok {
			return
		}
		h, frames := &heard{client: n}, 0
		d.ask(ctx, daemon, ask, h, func(string) bool {
			frames++
			return try >= len(p.cuts) || frames < p.cuts[try]
		})
		d.mu.Lock()
		c.heard = append(c.heard, h)
		d.mu.Unlock()
		wait := again
		switch {
		case h.left && p.leaves, h.said(c.plan.kind).done, h.status >= http.StatusBadRequest && !h.again && !unanswered(h, c.plan.kind):
			return
		case h.left:
			try, wait = try+1, p.pause
		case h.status == 0:
			wait = 60 * time.Millisecond
		}
		if !pause(ctx, wait) {
			return
		}
	}
}

// unanswered reports whether a request was refused because its task was canceled. Its clients had gone, and one came back just then.
func unanswered(h *heard, kind string) bool {
	fault := h.said(kind).fault
	return fault != nil && strings.Contains(strings.ToLower(fault.Message), "cancel")
}

// call makes a call that is no request for an answer, until it is answered, or refused so that a repeat does not help. It hands each try to note.
func (d *frontDriver) call(ctx context.Context, r request, note func(poll)) (p poll, ok bool) {
	for {
		daemon, _, ok := d.field.at(ctx)
		if !ok {
			return p, false
		}
		h := &heard{}
		within, stop := context.WithTimeout(ctx, callWithin)
		d.ask(within, daemon, r, h, nil)
		stop()
		p = poll{sent: h.sent, at: h.at, status: h.status, body: h.body}
		if !h.whole {
			p.status = 0
		}
		if note != nil {
			d.mu.Lock()
			note(p)
			d.mu.Unlock()
		}
		if p.status != 0 && (p.status < http.StatusBadRequest || !h.again) {
			return p, true
		}
		if !pause(ctx, again/2) {
			return p, false
		}
	}
}
