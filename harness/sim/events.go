// SPDX-License-Identifier: GPL-3.0-or-later

package sim

import "time"

// kind says what an event is about. The event's ref says which one.
type kind uint8

const (
	taskArrives  kind = iota // ref: task
	taskCancels              // ref: task
	taskEnds                 // ref: card; mark tells a superseded one
	workerLoads              // ref: worker
	workerLeaves             // ref: worker
	policyTicks
)

type event struct {
	at   time.Duration
	seq  uint64 // at the same instant, the event that was set first comes first
	kind kind
	ref  int32
	mark uint32
}

func (e *event) before(o *event) bool { return e.at < o.at || e.at == o.at && e.seq < o.seq }

// events is a heap with four children at each node. It is shallower than one with two, and a small simulation spends most of its time here.
type events struct {
	heap []event
	seq  uint64
}

func (h *events) add(at time.Duration, k kind, ref int32, mark uint32) {
	h.seq++
	e := event{at: at, seq: h.seq, kind: k, ref: ref, mark: mark}
	h.heap = append(h.heap, e)
	i := len(h.heap) - 1
	for i > 0 {
		up := (i - 1) / 4
		if !e.before(&h.heap[up]) {
			break
		}
		h.heap[i] = h.heap[up]
		i = up
	}
	h.heap[i] = e
}

func (h *events) next() (event, bool) {
	if len(h.heap) == 0 {
		return event{}, false
	}
	first := h.heap[0]
	last := len(h.heap) - 1
	e := h.heap[last]
	h.heap = h.heap[:last]
	if last == 0 {
		return first, true
	}
	i := 0
	for {
		child := 4*i + 1
		if child >= last {
			break
		}
		least := child
		for c := child + 1; c < min(child+4, last); c++ {
			if h.heap[c].before(&h.heap[least]) {
				least = c
			}
		}
		if !h.heap[least].before(&e) {
			break
		}
		h.heap[i] = h.heap[least]
		i = least
	}
	h.heap[i] = e
	return first, true
}
