// SPDX-License-Identifier: GPL-3.0-or-later

package chaos

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"
)

// responsePrefix is what the id of a response has in front of its task's.
const responsePrefix = "resp_"

// response does everything that one response's clients do.
func (d *frontDriver) response(ctx context.Context, r *responseRecord) {
	d.respond(ctx, r)
	d.goOn(ctx, r)
}

func (d *frontDriver) respond(ctx context.Context, r *responseRecord) {
	var clients sync.WaitGroup
	defer clients.Wait()
	known := make(chan struct{})
	tell := sync.OnceFunc(func() { close(known) })
	defer tell()
	clients.Go(func() {
		defer tell()
		d.creator(ctx, r, tell)
	})
	select {
	case <-known:
	case <-ctx.Done():
	}
	d.mu.Lock()
	id := r.id
	d.mu.Unlock()
	if id == "" {
		return
	}
	for n, p := range r.plan.readers {
		clients.Go(func() {
			if !pause(ctx, p.late) {
				return
			}
			reader := &responseReader{d: d, r: r, id: id, plan: p}
			reader.begin(n + 1)
			if p.joins && reader.join(ctx) {
				return
			}
			reader.run(ctx)
		})
	}
	if r.plan.polls > 0 {
		clients.Go(func() { d.look(ctx, r, id) })
	}
	if r.plan.cancel > 0 && pause(ctx, r.plan.cancel) {
		ask := request{method: http.MethodPost, path: "/v1/responses/" + id + "/cancel"}
		d.call(ctx, ask, func(p poll) { r.cancels = append(r.cancels, p) })
	}
}

// creator sends the request until its response has an id. Where it is answered by a stream, it reads that to its end, on as many connections as it takes.
func (d *frontDriver) creator(ctx context.Context, r *responseRecord, tell func()) {
	reader := &responseReader{d: d, r: r, plan: responseReaderPlan{cuts: r.plan.cuts, pause: 50 * time.Millisecond}}
	reader.begin(0)
	for reader.id == "" {
		over := reader.send(ctx, func(id string) {
			d.mu.Lock()
			r.id, reader.id = id, id
			d.mu.Unlock()
			tell()
		})
		if over || !pause(ctx, again) {
			return
		}
	}
	if stream, _ := r.plan.request["stream"].(bool); stream {
		reader.run(ctx)
	}
}

// look asks for a response until it has ended.
func (d *frontDriver) look(ctx context.Context, r *responseRecord, id string) {
	for {
		p, ok := d.call(ctx, get("/v1/responses/"+id), func(p poll) { r.polls = append(r.polls, p) })
		if v, is := viewOf[responseView](p); !ok || is && v.over() || p.status == http.StatusNotFound || !pause(ctx, r.plan.polls) {
			return
		}
	}
}

// viewOf decodes what a look has shown; false: it has shown nothing of that kind.
func viewOf[T any](p poll) (v T, ok bool) {
	return v, p.status == http.StatusOK && into([]byte(p.body), &v) == nil
}

// responseReader is one client of a response's stream.
type responseReader struct {
	d    *frontDriver
	r    *responseRecord
	id   string
	plan responseReaderPlan
	held *holding
	cuts int // done
}

func (r *responseReader) begin(number int) {
	r.held = &holding{reader: number}
	r.d.mu.Lock()
	defer r.d.mu.Unlock()
	r.r.views = append(r.r.views, r.held)
}

// send sends the request that creates the response, or joins it, and reads the stream of its answer. Told is called with its id. It returns whether the client
// has no more to do.
func (r *responseReader) send(ctx context.Context, told func(id string)) (over bool) {
	daemon, life, ok := r.d.field.at(ctx)
	if !ok {
		return true
	}
	h := &heard{client: r.held.reader}
	ask := post(dialects[response].path, r.r.plan.key, r.r.plan.request)
	r.d.ask(ctx, daemon, ask, h, func(frame string) bool {
		if told != nil && h.status == http.StatusOK {
			told(responsePrefix + h.task)
			told = nil
		}
		return r.take(frame, life)
	})
	if told != nil && h.status == http.StatusOK && h.task != "" {
		told(responsePrefix + h.task)
	}
	r.d.mu.Lock()
	r.r.asked = append(r.r.asked, h)
	r.d.mu.Unlock()
	r.held.ended(h)
	return r.held.over || h.status >= http.StatusBadRequest && !h.again
}

// join sends the request again, with its key. It returns whether the client has no more to do.
func (r *responseReader) join(ctx context.Context) (over bool) {
	for id := ""; ; {
		over := r.send(ctx, func(of string) { id = of })
		if id != "" && id != r.id { // the one before has failed, and this one is another
			r.held.frames, r.held.over = nil, false
			return true
		}
		if stream, _ := r.r.plan.request["stream"].(bool); over || id != "" {
			return over || !stream
		}
		if !pause(ctx, again) {
			return true
		}
	}
}

// run reads the stream to its end, each time from behind the last event that it has.
func (r *responseReader) run(ctx context.Context) {
	for !r.held.over {
		daemon, life, ok := r.d.field.at(ctx)
		if !ok {
			return
		}
		path := "/v1/responses/" + r.id + "?stream=true"
		if n := len(r.held.frames); n > 0 && r.plan.fresh {
			r.begin(r.held.reader)
		} else if n > 0 {
			path += fmt.Sprintf("&starting_after=%d", n-1)
		}
		h := &heard{}
		r.d.ask(ctx, daemon, get(path), h, func(frame string) bool { return r.take(frame, life) })
		wait := 20 * time.Millisecond
		switch {
		case h.left:
			wait = r.plan.pause
		case h.status == http.StatusBadRequest:
			r.discard(h.body)
		case h.status == http.StatusNotFound:
			r.discard(lost + h.body)
			return
		case h.garbled != "":
			r.discard(h.garbled)
			return
		}
		r.held.ended(h)
		if !pause(ctx, wait) {
			return
		}
	}
}

// lost begins the reason why a reader gave up on a response that it had been told of.
const lost = "the daemon does not know it: "

// ended notes that a connection ended.
func (h *holding) ended(as *heard) {
	h.breaks++
	h.clean = h.clean || as.streamed && as.whole && !h.over && h.discarded == ""
}

func (r *responseReader) discard(why string) {
	r.d.mu.Lock()
	r.held.discarded = why
	r.d.mu.Unlock()
	if !strings.HasPrefix(why, lost) {
		r.begin(r.held.reader)
	}
}

// take notes a frame, and says whether the client wants more.
func (r *responseReader) take(frame string, life int) bool {
	if strings.HasPrefix(frame, ":") { // the receipt has no number
		return true
	}
	r.held.frames, r.held.at, r.held.lives = append(r.held.frames, frame), append(r.held.at, time.Now()), append(r.held.lives, life)
	r.held.over = terminal(frame)
	cut := r.cuts < len(r.plan.cuts) && len(r.held.frames) >= r.plan.cuts[r.cuts]
	if cut {
		r.cuts++
	}
	return !cut
}

// terminal reports whether a frame is the last one of a response's stream.
func terminal(frame string) bool {
	name, _, _ := parts(frame)
	switch name {
	case "response.completed", "response.incomplete", "response.failed", "error":
		return true
	}
	return false
}
