// SPDX-License-Identifier: GPL-3.0-or-later

package sim

import (
	"math"
	"math/rand/v2"
	"time"
)

// The reference box's models, by index.
const (
	coder7b = iota
	coder14b
	coder32b
	general8b
	embedder
)

// writer makes a load's tasks.
type writer struct {
	r     *rand.Rand
	tasks []Task
}

// normal draws from a log-normal distribution with the given median, bounded by most. With sigma 0.7 the 95th percentile is about 3.2 medians.
func (w *writer) normal(median, sigma, most float64) float64 {
	return min(median*math.Exp(sigma*w.r.NormFloat64()), most)
}

func (w *writer) length(median, most float64) int32 {
	return int32(max(w.normal(median, 0.7, most), 1))
}

func (w *writer) pause(median time.Duration) time.Duration {
	return time.Duration(w.normal(float64(median), 0.8, 20*float64(median)))
}

// add appends a task that follows another (-1: none), and returns its index.
func (w *writer) add(t Task) int32 {
	w.tasks = append(w.tasks, t)
	return int32(len(w.tasks) - 1)
}

// ask adds an interactive task: a prompt with its context, and an answer of some lines.
func (w *writer) ask(model int32, after int32, at, delay time.Duration, prompt, answer float64) int32 {
	return w.add(Task{Model: model, After: after, At: at, Delay: delay, Prompt: w.length(prompt, 12000), Answer: w.length(answer, 1500)})
}

// job adds a batch of n tasks that a tool sends, so many at a time.
func (w *writer) job(model int32, at time.Duration, n, together int, prompt, answer float64) {
	last := make([]int32, together)
	for i := range n {
		lane := i % together
		t := Task{Model: model, Batch: true, After: -1, At: at + w.pause(50*time.Millisecond), Prompt: w.length(prompt, 12000)}
		if i >= together {
			t.After, t.Delay = last[lane], w.pause(100*time.Millisecond)
		}
		if answer > 0 {
			t.Answer = w.length(answer, 1500)
		}
		last[lane] = w.add(t)
	}
}

// agent works in bursts from one time to another. A burst is one thing that the person wants done: sometimes a plan by the large model, and then steps.
// Each step reads the answer of the step before and runs a tool. After a burst the person looks at the result.
func (w *writer) agent(model int32, from, to time.Duration, plans float64, steps int) {
	last, at := int32(-1), from+time.Duration(w.r.Float64()*float64(10*time.Minute))
	for at < to {
		if w.r.Float64() < plans {
			last = w.ask(coder32b, last, at, 5*time.Second, 3000, 500)
		}
		n := 1 + int(w.normal(float64(steps), 0.6, 40))
		for range n {
			m := model
			last = w.ask(m, last, at, w.pause(4*time.Second), 1800, 140)
		}
		at += time.Duration(n)*9*time.Second + w.pause(4*time.Minute)
	}
}

// chat adds a person who asks the general model now and then.
func (w *writer) chat(from, to time.Duration) {
	last, at := int32(-1), from
	for at < to {
		at += w.pause(12 * time.Minute)
		for range 1 + w.r.IntN(5) {
			last = w.ask(general8b, last, at, w.pause(25*time.Second), 700, 250)
		}
	}
}

// Day returns a day's load of a small household on the reference box, from midnight on. By day there are coding agents and chats, and the jobs that these
// leave behind. Jobs that start at a full hour come from timers.
func Day(seed uint64) []Task {
	w := &writer{r: rand.New(rand.NewPCG(seed, 0))}
	hour := func(h float64) time.Duration { return time.Duration(h * float64(time.Hour)) }
	w.agent(coder7b, hour(8), hour(12.5), 0.3, 8)
	w.agent(coder7b, hour(13.5), hour(19), 0.3, 8)
	w.agent(coder7b, hour(10), hour(22), 0.2, 12)
	w.agent(coder14b, hour(9), hour(18), 0.3, 6)
	w.agent(coder14b, hour(20), hour(23.5), 0.3, 6)
	w.chat(hour(7), hour(23))
	w.chat(hour(16), hour(23))
	for _, h := range []float64{8.6, 9.4, 10.3, 11.2, 12.1, 14.1, 15.4, 16.3, 17.2, 18.1, 19.3, 21.2} { // write tests for what changed
		w.job(coder7b, hour(h), 150+w.r.IntN(300), 4, 1500, 220)
	}
	for _, h := range []float64{9.8, 11.7, 13.6, 15.2, 17.6, 20.4} { // look over what is to be merged
		w.job(coder14b, hour(h), 80+w.r.IntN(120), 3, 2500, 250)
	}
	for h := 7.0; h < 24; h++ { // the index of the code, kept fresh
		w.job(embedder, hour(h), 200+w.r.IntN(400), 8, 500, 0)
	}
	for _, h := range []float64{8, 10, 13, 17, 20, 22} { // summaries of mail, issues and logs
		w.job(general8b, hour(h), 200+w.r.IntN(300), 4, 3000, 200)
	}
	for _, h := range []float64{10.7, 12.6, 14.8, 16.9, 18.6} { // the careful look at what was merged
		w.job(coder32b, hour(h), 60+w.r.IntN(60), 2, 3000, 500)
	}
	// The night's work starts when the day's work is about done. The day ends when it is done.
	w.job(coder32b, hour(22.5), 150, 2, 3000, 500)
	w.job(coder7b, hour(23), 1200, 4, 1500, 220)
	w.job(coder14b, hour(23), 300, 4, 2500, 250)
	w.job(general8b, hour(23), 800, 4, 3000, 200)
	return w.tasks
}

// Stream returns n tasks for a rack with the given number of replicas. They come at random times, at a share of what the rack can do. A fifth of them is
// interactive.
func Stream(seed uint64, box *Box, n int, share float64) []Task {
	w := &writer{r: rand.New(rand.NewPCG(seed, 0)), tasks: make([]Task, 0, n)}
	const prompt, answer = 500, 100
	capacity := 0.0 // tasks a second
	for _, at := range box.Models[0].Pinned {
		work := box.Models[0].Rates[box.Cards[at].Class].Work(prompt, answer)
		capacity += 1 / (1.278 * work.Seconds()) // 1.278: the mean of such a log-normal distribution, divided by its median
	}
	at := time.Duration(0)
	for range n {
		at += time.Duration(w.r.ExpFloat64() / (capacity * share) * float64(time.Second))
		w.add(Task{At: at, After: -1, Batch: w.r.IntN(5) > 0, Prompt: w.length(prompt, 12000), Answer: w.length(answer, 1500)})
	}
	return w.tasks
}
