// SPDX-License-Identifier: GPL-3.0-or-later

package chaos

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/llama-orch/llama-orch/harness/client"
)

// driver runs the clients. mu guards the records of the tasks while clients write them.
type driver struct {
	field *field
	mu    sync.Mutex
	full  int // submits that were refused because the ledger could not write
	live  map[*taskRecord]map[*view]bool
}

// callWithin bounds one call that is no stream.
const callWithin = 20 * time.Second

// drive does everything that one task's clients do.
func (d *driver) drive(ctx context.Context, t *taskRecord) {
	var clients sync.WaitGroup
	defer clients.Wait()
	body := t.plan.body(false, 0)
	if t.plan.twice {
		clients.Go(func() { d.submit(ctx, t, body) })
	}
	if !d.submit(ctx, t, body) {
		return
	}
	watched := make(chan struct{})
	for i, p := range t.plan.readers {
		clients.Go(func() {
			r := &reader{d: d, t: t, number: i, plan: p}
			if i == 0 && t.plan.cancel != nil {
				r.events, r.reached = t.plan.cancel.events, sync.OnceFunc(func() { close(watched) })
				defer r.reached()
			}
			r.run(ctx)
		})
	}
	if c := t.plan.cancel; c != nil {
		if c.events > 0 {
			select {
			case <-watched:
			case <-ctx.Done():
				return
			}
		}
		if !pause(ctx, c.after) {
			return
		}
		for range c.times {
			clients.Go(func() { d.cancel(ctx, t) })
		}
	}
}

// submit sends a task until it is accepted or refused for good, and reports whether it was accepted.
func (d *driver) submit(ctx context.Context, t *taskRecord, body []byte) bool {
	const most = 60
	for try := 1; ; try++ {
		daemon, _, ok := d.field.at(ctx)
		if !ok {
			return false
		}
		s := submit{sent: time.Now()}
		call, stop := context.WithTimeout(ctx, callWithin)
		admission, err := daemon.Client.Submit(call, body)
		stop()
		s.answered = time.Now()
		var refused *client.RefusedError
		switch {
		case err == nil:
			s.admission = &admission
		case errors.As(err, &refused):
			s.code = refused.Code
		}
		d.mu.Lock()
		t.submits = append(t.submits, s)
		if s.code == "LEDGER_UNAVAILABLE" {
			d.full++
		}
		d.mu.Unlock()
		wait := 200 * time.Millisecond
		switch {
		case err == nil:
			return true
		case refused == nil: // the answer was lost; ask again, since the task may have been accepted
			wait = 60 * time.Millisecond
		case refused.Status == http.StatusTooManyRequests && try > 3, refused.Status == http.StatusBadRequest, try > most:
			return false
		}
		if !pause(ctx, wait) {
			return false
		}
	}
}

func (d *driver) cancel(ctx context.Context, t *taskRecord) {
	for {
		daemon, _, ok := d.field.at(ctx)
		if !ok {
			return
		}
		c := cancelCall{sent: time.Now()}
		call, stop := context.WithTimeout(ctx, callWithin)
		answer, err := daemon.Client.Cancel(call, t.plan.id)
		stop()
		c.returned = time.Now()
		var refused *client.RefusedError
		if err == nil {
			c.answer = &answer
		} else if errors.As(err, &refused) {
			c.code = refused.Code
		}
		d.mu.Lock()
		t.cancels = append(t.cancels, c)
		d.mu.Unlock()
		if err == nil || refused != nil && refused.Status < http.StatusInternalServerError || !pause(ctx, 50*time.Millisecond) {
			return
		}
	}
}

// within returns the accepted tasks that some client is reading now, which means that it has a token and not yet the end.
func (d *driver) within() (tasks []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for t, views := range d.live {
		for v := range views {
			if v.tokens() > 0 && !v.over() {
				tasks = append(tasks, t.plan.id)
				break
			}
		}
	}
	return tasks
}

// reader is one client of a stream.
type reader struct {
	d      *driver
	t      *taskRecord
	number int
	plan   readerPlan

	events  int    // when reached is called
	reached func() // may be nil
	view    *view
	cuts    int // done
}

func (r *reader) run(ctx context.Context) {
	if !pause(ctx, r.plan.late) {
		return
	}
	r.begin()
	for {
		daemon, life, ok := r.d.field.at(ctx)
		if !ok {
			return
		}
		over, again := r.connect(ctx, daemon, life)
		if over || !pause(ctx, again) {
			return
		}
	}
}

func (r *reader) begin() {
	r.d.mu.Lock()
	defer r.d.mu.Unlock()
	r.view = &view{reader: r.number, slow: r.plan.slow > 0}
	r.t.views = append(r.t.views, r.view)
}

func (r *reader) discard(why string) {
	r.d.mu.Lock()
	r.view.discarded, r.view.at = why, time.Now()
	r.d.mu.Unlock()
	r.begin()
}

// connect reads on one connection. It returns whether the stream is over, and if not, how long to wait before the next connection.
func (r *reader) connect(ctx context.Context, daemon *server, life int) (over bool, again time.Duration) {
	v, after := r.view, ""
	if n := len(v.seen); n > 0 {
		after = v.seen[n-1].ID
	}
	// Nobody must wait for a stream in a dead daemon's socket, so the context ends with the daemon's client.
	frames, err := daemon.Client.Follow(ctx, r.t.plan.id, after, r.plan.query)
	var refused *client.RefusedError
	switch {
	case errors.As(err, &refused) && refused.Code == "INVALID_PARAMS" && after != "":
		r.discard("the daemon refused " + after + ": " + refused.Message)
		return false, 0
	case errors.As(err, &refused) && refused.Code == "NOT_FOUND":
		r.d.mu.Lock()
		r.t.unknown = true // of a task that was accepted
		r.d.mu.Unlock()
		return true, 0
	case err != nil:
		return false, 20 * time.Millisecond
	}
	defer frames.Close()
	r.d.mu.Lock()
	v.conns = append(v.conns, conn{opened: time.Now(), life: life, resumed: after != ""})
	number := len(v.conns) - 1
	if r.d.live[r.t] == nil {
		r.d.live[r.t] = map[*view]bool{}
	}
	r.d.live[r.t][v] = true
	r.d.mu.Unlock()
	defer func() {
		r.d.mu.Lock()
		v.conns[number].closed = time.Now()
		delete(r.d.live[r.t], v)
		r.d.mu.Unlock()
	}()
	for {
		e, err := frames.Next()
		if err != nil {
			return false, 10 * time.Millisecond
		}
		if e.Aside() {
			r.discard("the stream was ended with " + e.Data)
			return false, 10 * time.Millisecond
		}
		if r.take(v, e, number) {
			return true, 0
		}
		if r.cuts < len(r.plan.cuts) && len(v.seen) >= r.plan.cuts[r.cuts] {
			r.cuts++
			if r.plan.fresh {
				r.begin()
			}
			return false, r.plan.pause
		}
		if !pause(ctx, r.plan.slow) {
			return false, 0
		}
	}
}

// take notes an event, and reports whether it is the last.
func (r *reader) take(v *view, e client.Event, conn int) bool {
	r.d.mu.Lock()
	defer r.d.mu.Unlock()
	if e.ID == "" {
		var m struct{ Failover int }
		if decode(e.Data, &m) == nil {
			v.failover = max(v.failover, m.Failover)
		}
		return false
	}
	v.seen = append(v.seen, seen{e, time.Now(), conn})
	if r.reached != nil && (len(v.seen) > r.events || e.Terminal()) {
		r.reached()
	}
	return e.Terminal()
}
