// SPDX-License-Identifier: GPL-3.0-or-later

package chaos

import (
	"context"
	"maps"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"
)

// otherPlan is a request that comes once another one has its answer: with its key, or to go on from it.
type otherPlan struct {
	late    time.Duration
	request map[string]any
}

// conversing is how many responses certainly have one that goes on from them.
const conversing = 3

// shortAnswer is how many tokens the answers of a conversation have at most.
const shortAnswer = 40

func drawOther(r *rand.Rand, kind string) *otherPlan {
	p := &otherPlan{late: upTo(r, 3*time.Second)}
	for strict := false; !strict; {
		strict, p.request = drawRequest(r, kind)
	}
	if kind == response {
		p.request["max_output_tokens"] = shortAnswer
	}
	return p
}

// behind is the request as one that goes on from a response.
func (p *otherPlan) behind(id string) map[string]any {
	r := maps.Clone(p.request)
	r["previous_response_id"] = id
	return r
}

// sendOther sends a request until it has an answer, or is refused for good.
func (d *frontDriver) sendOther(ctx context.Context, kind string, r request, note func(*heard)) {
	for {
		daemon, _, ok := d.field.at(ctx)
		if !ok {
			return
		}
		h := &heard{}
		d.ask(ctx, daemon, r, h, nil)
		d.mu.Lock()
		note(h)
		d.mu.Unlock()
		if h.said(kind).done || h.status >= http.StatusBadRequest && !h.again || !pause(ctx, again) {
			return
		}
	}
}

// useKey sends another body under the key of a request that was answered.
func (d *frontDriver) useKey(ctx context.Context, c *chatRecord) {
	if c.plan.other == nil || !c.answered() || !pause(ctx, c.plan.other.late) {
		return
	}
	d.sendOther(ctx, c.plan.kind, post(dialects[c.plan.kind].path, c.plan.key, c.plan.other.request), func(h *heard) { c.other = append(c.other, h) })
}

// answered reports whether a client has the whole answer. Then the key is bound to its task.
func (c *chatRecord) answered() bool {
	for _, a := range c.heard {
		if a.said(c.plan.kind).done {
			return true
		}
	}
	return false
}

// goOn sends the request that goes on from a response, once that has completed.
func (d *frontDriver) goOn(ctx context.Context, r *responseRecord) {
	if r.plan.next == nil || r.id == "" {
		return
	}
	for {
		p, ok := d.call(ctx, get("/v1/responses/"+r.id), nil)
		v, is := viewOf[responseView](p)
		switch {
		case !ok || !is || v.over() && v.Status != statusCompleted && v.Status != statusIncomplete:
			return
		case v.over():
			if pause(ctx, r.plan.next.late) {
				d.sendOther(ctx, response, post(dialects[response].path, "", r.plan.next.behind(r.id)), func(h *heard) { r.next = append(r.next, h) })
			}
			return
		}
		if !pause(ctx, again) {
			return
		}
	}
}

func otherBodies(h *history, f *finding) {
	for _, c := range h.chats {
		for i, a := range c.other {
			if a.status == 0 {
				continue
			}
			f.judged++
			s := a.said(c.plan.kind)
			switch {
			case a.answers():
				f.breach("%s: another body under its key was answered by task %s", c.plan.id, a.task)
			case a.status == http.StatusConflict && (a.again || s.fault == nil || !strings.Contains(s.fault.Message, "Idempotency-Key")):
				f.breach("%s: another body under its key is a conflict that does not name the key, or may be repeated: %s", c.plan.id, a.body)
			case a.status != http.StatusConflict && (!a.again || i == len(c.other)-1):
				f.breach("%s: another body under its key was answered with %d: %s", c.plan.id, a.status, a.body)
			}
		}
	}
}

func conversations(h *history, f *finding) {
	for _, r := range h.responses {
		if r.id == "" || len(r.next) == 0 {
			continue
		}
		f.judged++
		last := r.next[len(r.next)-1]
		s := last.said(response)
		var v struct {
			Previous string `json:"previous_response_id"`
		}
		_ = into([]byte(last.body), &v) // it is judged by what it lacks
		switch {
		case !s.done:
			f.breach("%s: what goes on from %s has no answer; the last it was told is %d %.200s", r.plan.id, r.id, last.status, last.body)
		case v.Previous != r.id:
			f.breach("%s: what goes on from %s says that it goes on from %q", r.plan.id, r.id, v.Previous)
		case r.calmNext == nil || s.text != *r.calmNext:
			f.breach("%s: what goes on from %s says %q, and undisturbed another text", r.plan.id, r.id, s.text)
		}
	}
}
