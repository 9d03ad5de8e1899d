// SPDX-License-Identifier: GPL-3.0-or-later

package queue_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/llama-orch/llama-orch/service/flow/queue"
	"github.com/llama-orch/llama-orch/service/task"
)

// The benchmarks keep a queue at the depth in their name: every operation measured is undone by its counterpart, so each
// figure is that of a pair. Pairs, because stopping the clock between two calls costs more than the calls do.
var depths = []int{10, 1_000, 100_000, 1_000_000}

type held struct {
	ticket   queue.Ticket
	priority task.Priority
}

func atDepth(b *testing.B, pair func(q *queue.Queue[int], items []held, i int)) {
	for _, depth := range depths {
		b.Run(fmt.Sprintf("depth=%d", depth), func(b *testing.B) {
			q := queue.New[int](depth+1, queue.Reject)
			items := make([]held, depth)
			for i := range items {
				items[i] = held{priority: task.Interactive}
				if i%2 == 1 {
					items[i].priority = task.Batch
				}
				items[i].ticket = must(q.Push(items[i].priority, i, time.Time{})).Ticket
			}
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				pair(q, items, i%depth)
			}
		})
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// BenchmarkPush pushes at the end and cancels that newcomer.
func BenchmarkPush(b *testing.B) {
	atDepth(b, func(q *queue.Queue[int], items []held, i int) {
		q.Cancel(must(q.Push(items[i].priority, i, time.Time{})).Ticket)
	})
}

// BenchmarkPop pops the oldest and pushes a newcomer of the same priority.
func BenchmarkPop(b *testing.B) {
	atDepth(b, func(q *queue.Queue[int], items []held, i int) {
		q.Pop()
		_ = must(q.Push(task.Interactive, i, time.Time{}))
	})
}

// BenchmarkCancel cancels in order of arrival and pushes a newcomer in the place of each.
func BenchmarkCancel(b *testing.B) {
	atDepth(b, func(q *queue.Queue[int], items []held, i int) {
		q.Cancel(items[i].ticket)
		items[i].ticket = must(q.Push(items[i].priority, i, time.Time{})).Ticket
	})
}

// BenchmarkCancelAnywhere cancels at random places, so beyond the depth that the processor's caches hold it measures them.
func BenchmarkCancelAnywhere(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	atDepth(b, func(q *queue.Queue[int], items []held, _ int) {
		i := r.IntN(len(items))
		q.Cancel(items[i].ticket)
		items[i].ticket = must(q.Push(items[i].priority, i, time.Time{})).Ticket
	})
}

// BenchmarkPosition asks for positions at random places.
func BenchmarkPosition(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	atDepth(b, func(q *queue.Queue[int], items []held, _ int) {
		q.Position(items[r.IntN(len(items))].ticket)
	})
}
