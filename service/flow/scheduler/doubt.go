// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"context"
	"sync"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/flow/placement"
	"github.com/llama-orch/llama-orch/service/spare"
	"github.com/llama-orch/llama-orch/service/task"
)

// doubts are the replicas whose engines broke off runs and have not answered since, and how many runs each of them broke off.
type doubts struct {
	mu   sync.Mutex
	runs map[string]int
}

func (d *doubts) add(replicaID string, n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.runs == nil {
		d.runs = map[string]int{}
	}
	if d.runs[replicaID] += n; d.runs[replicaID] == 0 {
		delete(d.runs, replicaID)
	}
}

// mark says of each replica whether it is in doubt.
func (d *doubts) mark(replicas []placement.Replica) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range replicas {
		replicas[i].InDoubt = d.runs[replicas[i].ID] > 0
	}
}

// brokeOff notes that a run ended with an error. Where that is the engine's fault, the engine is in doubt.
func (l *lane) brokeOff(ctx context.Context, j *job, lease Lease, err error) {
	if ctx.Err() == nil && task.HasCode(err, task.WorkerReset) && !spare.Short(err) {
		l.doubt(j, lease)
	}
}

// doubt keeps tasks from a replica whose engine broke off a run, until the engine answers or its worker is gone. Whoever looks after the worker may need
// seconds to notice that, and a free slot of it would cost a task its tries meanwhile (LO-203).
func (l *lane) doubt(j *job, lease Lease) {
	id := lease.Replica().ID
	l.doubts.add(id, 1)
	over := func() {
		l.doubts.add(id, -1)
		l.wake()
	}
	if asks := l.s.loops.Go(func(ctx context.Context) {
		defer l.s.caught(j.told)
		defer over()
		engine.AwaitAnswer(ctx, lease, l.s.o.IdleWithin)
	}); !asks { // no loop will place a task any more
		over()
	}
}

// Replicas are a pool's replicas as its tasks are placed by them now.
func (s *Scheduler) Replicas(poolID string) []placement.Replica {
	if l := (*s.lanes.Load())[poolID]; l != nil {
		return l.replicas(nil)
	}
	return s.o.Replicas.Snapshot(poolID, nil)
}

// replicas appends the pool's replicas to into.
func (l *lane) replicas(into []placement.Replica) []placement.Replica {
	all := l.s.o.Replicas.Snapshot(l.pool.ID, into)
	l.doubts.mark(all)
	return all
}
