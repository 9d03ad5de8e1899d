// SPDX-License-Identifier: GPL-3.0-or-later

package page

import (
	"cmp"
	"net/http"
	"time"

	"github.com/llama-orch/llama-orch/service/front/gate"
)

const (
	aliveEvery  = 15 * time.Second
	writeWithin = 10 * time.Second // else the page does not read, and is cut off
)

// events is the stream that a page follows the server by (LO-606).
func (f *Front) events(w http.ResponseWriter, r *http.Request) error {
	h := w.Header()
	secure(h)
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no")
	filter, wanted, err := logWish(r.URL.Query())
	if err != nil {
		return err
	}
	call := gate.CallFrom(r.Context())
	if call.Head { // the page asks whether it may still follow
		return nil
	}
	sign, leave, err := f.live.follow()
	if err != nil {
		return err
	}
	defer leave()
	out := http.NewResponseController(w)
	send := func(frame []byte) bool {
		_ = out.SetWriteDeadline(time.Now().Add(writeWithin))
		_, err := w.Write(frame) //nolint:gosec // G705: events, which no browser reads as HTML
		return err == nil && out.Flush() == nil
	}
	if !send([]byte("retry: 1000\n\n")) {
		return nil
	}
	alive := time.NewTicker(aliveEvery)
	defer alive.Stop()
	var log *tail
	var tick <-chan time.Time
	if wanted {
		log = followLog(f.o.Logs.Read(), filter)
		ticker := time.NewTicker(linesEvery)
		defer ticker.Stop()
		tick = ticker.C
		if !send(log.frame()) {
			return nil
		}
	}
	seen := cmp.Or(r.Header.Get("Last-Event-ID"), r.URL.Query().Get("after"))
	for !call.Over() {
		patches, known := f.live.since(seen)
		if !known {
			patches = append(patches, f.live.all())
		}
		for _, p := range patches {
			if seen = f.live.id(p.seq); !send(f.live.frame(p)) {
				return nil
			}
		}
		select {
		case <-sign:
		case <-tick:
			if call.Over() {
				return nil
			}
			log.read(r.Context())
			if frame := log.frame(); frame != nil && !send(frame) {
				return nil
			}
		case <-alive.C:
			if !send([]byte(": alive\n\n")) {
				return nil
			}
		case <-f.live.over:
			return nil
		case <-r.Context().Done():
			return nil
		}
	}
	return nil
}
