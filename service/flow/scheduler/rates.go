// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/llama-orch/llama-orch/service/flow/placement"
	"github.com/llama-orch/llama-orch/service/task"
)

// weight is how much the newest task counts in a mean. With it about the last ten tasks count.
const weight = 0.2

// rates are how long a pool's tasks took, on each of its replicas. Predictions are made from them alone. Before anything was measured,
// a prediction is 0 and not a guess (ORCH-2001). What was measured holds over a restart (measured.go).
type rates struct {
	mu       sync.Mutex
	service  mean // seconds of a task, from its dispatch to the free slot
	answer   mean // tokens of an answer
	replicas map[string]*pace
	runs     map[*job]*runTime
	queued   work
	counted  bool                    // this process has measured a task
	recalled map[string]measuredPace // of replicas that have not been met since the start
}

// pace is how fast a replica is, in seconds a token.
type pace struct {
	of              string // the fingerprint of what it computes
	prefill, decode mean
}

type runTime struct {
	replicaID string
	of        string // the replica's fingerprint
	began     time.Time
	first     time.Time // of the first token; zero before
}

// work is what the queued tasks ask for.
type work struct {
	tasks   int
	prompt  int // tokens
	answer  int // tokens, of the tasks that say how many they expect
	unknown int // tasks that do not
}

// mean is an exponentially weighted mean. The zero mean has measured nothing.
type mean struct {
	value    float64
	measured bool
}

func (m *mean) add(v float64) {
	if !m.measured {
		m.value, m.measured = v, true
		return
	}
	m.value += weight * (v - m.value)
}

// queue counts a task in (n = 1) or out (n = -1) of the queue.
func (r *rates) queue(j *job, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.queued.tasks += n
	r.queued.prompt += n * reading(j)
	if length := expected(j); length > 0 {
		r.queued.answer += n * length
	} else {
		r.queued.unknown += n
	}
}

// reading is about how many tokens a task's prompt has. Where nobody has counted them, four bytes are taken for one.
func reading(j *job) int {
	if n := j.task.PromptTokens; n > 0 {
		return n
	}
	n := len(j.task.Prompt)
	if n == 0 {
		for _, m := range j.task.Request.Messages {
			n += m.Bytes()
		}
	}
	return n / 4
}

// expected is the length of the answer that a task's client expects; 0 where it does not say.
func expected(j *job) int {
	q := &j.task.Request
	if q.ExpectedTokens > 0 && q.MaxTokens > 0 {
		return min(q.ExpectedTokens, q.MaxTokens)
	}
	return q.ExpectedTokens
}

// began notes a task's dispatch.
func (r *rates) began(j *job, on Replica, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.runs == nil {
		r.runs = map[*job]*runTime{}
	}
	r.runs[j] = &runTime{replicaID: on.ID, of: on.Fingerprint, began: now}
}

// running are the jobs that run now.
func (r *rates) running() []*job {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Keys(r.runs))
}

// firstToken notes that a task's prompt was read.
func (r *rates) firstToken(j *job, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.runs[j].first = now
}

// ended notes that a task's slot is free. Only a run that took its task from the beginning to the end counts for how long tasks take, and only one that
// started cold for how long a prompt takes.
func (r *rates) ended(j *job, tokens, cached int, now time.Time, counts bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	run := r.runs[j]
	delete(r.runs, j)
	if !counts {
		return
	}
	typical := j.task.Request.Actor != task.SelfTester // a self-test's answers are shorter than anybody's
	if typical {
		r.service.add(now.Sub(run.began).Seconds())
		r.counted = true
	}
	if run.first.IsZero() {
		return
	}
	if typical {
		r.answer.add(float64(tokens))
	}
	p := r.pace(run.replicaID)
	if p.of != run.of { // the replica has another model by now
		*p = pace{of: run.of}
	}
	if cached == 0 {
		p.prefill.add(run.first.Sub(run.began).Seconds() / float64(max(reading(j), 1)))
	}
	if tokens > 1 {
		p.decode.add(now.Sub(run.first).Seconds() / float64(tokens-1))
	}
}

// pace is how fast a replica is. The caller holds mu.
func (r *rates) pace(replicaID string) *pace {
	if r.replicas == nil {
		r.replicas = map[string]*pace{}
	}
	p := r.replicas[replicaID]
	if p == nil {
		p = &pace{}
		r.replicas[replicaID] = p
	}
	return p
}

// prefill is about how long a replica needs for so many tokens of a prompt; 0 before that was measured.
func (r *rates) prefill(replicaID string, tokens int) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.replicas[replicaID]
	if p == nil {
		return 0
	}
	return seconds(p.prefill.value * float64(tokens))
}

// perTask is the mean time of a task, 0 before one was measured.
func (r *rates) perTask() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return seconds(r.service.value)
}

// looked is how many waiting tasks are given their slots one by one. For more than that, the pool's mean rate counts.
const looked = 128

// wait predicts when a slot is free for a task that has so many ahead of it. The running tasks have to end. Then those ahead take
// each slot that becomes free, on each replica at its own pace. Jobs that make way are in nobody's.
func (r *rates) wait(ahead int, ready []placement.Replica, now time.Time, makeWay []*job) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.meet(ready)
	type slot struct{ free, each float64 } // seconds until it is free, and for each task
	var slots []slot
	prompt, answer := r.typical()
	flow := 0.0 // tasks a second
	for i := range ready {
		each := r.time(ready[i].ID, answer, prompt)
		for range ready[i].Slots {
			slots = append(slots, slot{each: each})
		}
		if each > 0 {
			flow += float64(ready[i].Slots) / each
		}
	}
	if len(slots) == 0 { // the prediction is the one for a single slot
		return seconds(float64(ahead) * r.service.value)
	}
	known := map[string]int{} // runs by replica
	for j, run := range r.runs {
		known[run.replicaID]++
		if slices.Contains(makeWay, j) {
			continue
		}
		left := max(r.time(run.replicaID, r.length(j), reading(j))-now.Sub(run.began).Seconds(), 0)
		for at, i := 0, 0; i < len(ready); at, i = at+ready[i].Slots, i+1 {
			if ready[i].ID != run.replicaID {
				continue
			}
			for k := at; k < at+ready[i].Slots; k++ {
				if slots[k].free == 0 {
					slots[k].free = left
					break
				}
			}
		}
	}
	for at, i := 0, 0; i < len(ready); at, i = at+ready[i].Slots, i+1 {
		// Who has just taken a slot has not told yet that it runs there.
		for k, taken := at, ready[i].Active-known[ready[i].ID]; k < at+ready[i].Slots && taken > 0; k++ {
			if slots[k].free == 0 {
				slots[k].free = slots[k].each
				taken--
			}
		}
	}
	first := func() *slot {
		best := &slots[0]
		for i := range slots {
			if slots[i].free < best.free {
				best = &slots[i]
			}
		}
		return best
	}
	for range min(ahead, looked) {
		s := first()
		s.free += s.each
	}
	wait := first().free
	if ahead > looked && flow > 0 {
		wait += float64(ahead-looked) / flow
	}
	return seconds(wait)
}

// typical is the mean of the queued tasks, in tokens.
func (r *rates) typical() (prompt int, answer float64) {
	if r.queued.tasks <= 0 { // a submit may count its task a moment after somebody took it out of the queue
		return 0, r.answer.value
	}
	n := float64(r.queued.tasks)
	return int(float64(r.queued.prompt) / n), (float64(r.queued.answer) + float64(r.queued.unknown)*r.answer.value) / n
}

// length is how many tokens a task's answer is likely to have.
func (r *rates) length(j *job) float64 {
	length := float64(expected(j))
	if length == 0 {
		length = r.answer.value
	}
	if limit := j.task.Request.MaxTokens; limit > 0 {
		length = min(length, float64(limit))
	}
	return length
}

// time is what a replica needs for a task, in seconds. For a replica that was not measured yet, the pool's mean counts.
func (r *rates) time(replicaID string, answer float64, prompt int) float64 {
	p := r.replicas[replicaID]
	if p == nil || !p.decode.measured {
		return r.service.value
	}
	return p.prefill.value*float64(max(prompt, 1)) + p.decode.value*max(answer-1, 0)
}

func seconds(s float64) time.Duration {
	return time.Duration(s * float64(time.Second)).Round(time.Microsecond)
}
