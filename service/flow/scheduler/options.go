// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"cmp"
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/flow/placement"
	"github.com/llama-orch/llama-orch/service/flow/queue"
	"github.com/llama-orch/llama-orch/service/observe"
	"github.com/llama-orch/llama-orch/service/task"
	"github.com/llama-orch/llama-orch/service/tracing"
)

// Replicas is what the scheduler asks of the pools.
type Replicas interface {
	// Snapshot appends the pool's replicas to into.
	Snapshot(poolID string, into []placement.Replica) []placement.Replica
	// Lease takes a slot of a Ready replica, or fails typed.
	Lease(replicaID string) (Lease, error)
	// EngineVersion is the version of the pool's engines. It is empty until a replica was Ready.
	EngineVersion(poolID string) string
}

// Lease is one slot of one replica, held for one task.
type Lease interface {
	Engine() engine.Engine
	Replica() Replica
	// Lost is closed when the replica's worker is gone.
	Lost() <-chan struct{}
	// Intact returns nil if what the worker has generated is that of its fingerprint. Otherwise somebody has changed the files that it was
	// loaded from, and the error is a WORKER_RESET (LO-808).
	Intact(ctx context.Context) error
	// Others counts the other leases of the same worker.
	Others() int
	// KeepWarm asks that for a while only tasks overwrite the replica's KV cache.
	KeepWarm()
	// Replace kills the worker and starts another.
	Replace(reason string)
	// Release gives the slot back; only the first call counts.
	Release()
}

// Replica is what a receipt and the logs say of a replica.
type Replica struct {
	ID            string
	EngineVersion string
	ModelDigest   string
	Fingerprint   string
	Slots         int // of its engine
	ReadyAt       time.Time
	LoadTime      time.Duration // until then; 0: not known
	Piece         int           // tokens of a whole piece of prompt that strict tasks may reuse; 0: they start cold
	Cards         []int         // that its worker computes on; empty: none, or nobody knows
}

// Meter tells what the cards take for tasks (LO-504).
type Meter interface {
	// Begin says that a slot of a worker on these cards is busy from now on. It returns at once; nil: it is on none.
	Begin(cards []int, now time.Time) Use
}

// Use is the time in which a slot is busy.
type Use interface {
	// End says that the slot is idle. Only the first call counts.
	End(now time.Time)
	// Taken is what the cards took, once the use has ended; false: they do not tell. It may wait for a moment.
	Taken() (task.Energy, bool)
}

// noMeter stands in if there are no cards.
type noMeter struct{}

func (noMeter) Begin([]int, time.Time) Use { return nil }

// Ledger is the record of accepted tasks. Each call returns when what it was told is as durable as the ledger makes it.
type Ledger interface {
	Accept(ctx context.Context, t task.Task) error
	// Render records the prompt that a run has made of a task's messages.
	Render(ctx context.Context, t task.Task) error
	// AcceptRunning is Accept and Dispatch at once.
	AcceptRunning(ctx context.Context, t task.Task, d task.Dispatch) error
	Dispatch(ctx context.Context, d task.Dispatch) error
	// Started and Checkpoint take a note and return at once. A crash may lose it.
	Started(d task.Dispatch)
	Checkpoint(id string, c task.Checkpoint)
	Finish(ctx context.Context, r task.Record) error
	// Delete removes what an ended task was asked and answered, and returns once it is gone.
	Delete(ctx context.Context, id string, at time.Time) error
	// Expire deletes the texts whose time is over, and returns their tasks' ids, and when the next is due (zero: there is none).
	Expire(ctx context.Context, at time.Time) (ids []string, next time.Time, err error)
	Get(ctx context.Context, id string) (task.Record, bool, error)
	// List returns finished tasks, the last accepted first.
	List(ctx context.Context, state task.State, limit int) ([]task.Record, error)
	// NextSeq hands out the next number of a task. It is greater than all before, those of earlier processes included.
	NextSeq() (uint64, error)
}

// Sessions keeps the turns, the budgets and the KV of sessions. Its calls return at once, and none is made with a lock held.
type Sessions interface {
	// Admit takes a task's turn and its part of the budgets, or refuses it. Each Admit is followed by a Withdraw, for a task that
	// was not accepted, or a Settle.
	Admit(t *task.Task) error
	Withdraw(t task.Task)
	// Recover takes up a task that an earlier process admitted.
	Recover(t task.Task)
	// Charge is what a task's end costs. Decode is how long it decoded, where the record has no End; energy is what the cards took for it, nil if that
	// is not known.
	Charge(r task.Record, decode time.Duration, energy *task.Energy) *task.Charge
	// Settle ends the turn of a task whose record, with its charge, is in the ledger.
	Settle(r task.Record)
	// Rests are what is left of the budgets.
	Rests(sessionID, actor string) task.Budgets
	// Warm is the replica that should hold a session's KV, or empty.
	Warm(sessionID string) string
	// Began and Kept say who has a slot's KV. Began returns whether it should be that of the task's session.
	Began(t task.Task, replicaID string, slots int) (warm bool)
	Kept(t task.Task, replicaID string, lost <-chan struct{}, kv task.KV)
	// Take hands out what a worker with that fingerprint saved of a session's KV before it ended. Done is called when nobody reads it any more.
	Take(sessionID, fingerprint string) (s engine.Saved, done func(), ok bool)
	// Forget gives that up, because a task of the session was deleted.
	Forget(sessionID string)
}

// Residency is what the scheduler asks about the models of on-demand pools (LO-503).
type Residency interface {
	// Wake says that the tasks or the replicas of an on-demand pool changed.
	Wake()
	// Wait predicts how long a pool's model needs until it is in memory.
	Wait(poolID string, now time.Time) time.Duration
	// Loading reports whether a pool's model is on its way into memory, and how far it is, from 0 to 1.
	Loading(poolID string, now time.Time) (progress float64, loading bool)
}

// noResidency stands in if the scheduler has no on-demand pools.
type noResidency struct{}

func (noResidency) Wake()                                     {}
func (noResidency) Wait(string, time.Time) time.Duration      { return 0 }
func (noResidency) Loading(string, time.Time) (float64, bool) { return 0, false }

// Pool is what the scheduler must know of a pool.
type Pool struct {
	ID       string
	Engine   string
	Capacity int
	Policy   queue.Policy
	Wall     time.Duration // longest run of a task
	Prefill  time.Duration // longest wait for the first token, or for a sign that the engine is nearer to it; 0: as Idle
	Idle     time.Duration // longest wait for the next token
	OnDemand bool          // loaded when a task needs it (LO-503)
}

// Options are what a Scheduler is made from.
type Options struct {
	Pools     []Pool
	Replicas  Replicas
	Residency Residency // nil: no pool is on demand
	// Refusal says why no task of a pool is taken here, although the pool could run it: its queue is another daemon's (LO-711). It returns nil for one that
	// is this daemon's. It is called with no lock held. Nil: all are.
	Refusal func(poolID string) error
	// Taken reports whether the ledger refused a task since another one has its id (LO-716). Nil: none can.
	Taken func(err error) bool
	// MaySend reports whether a client may be told more of a pool's tasks now: not while another daemon may have taken the pool's queue (LO-718). Nil: always.
	MaySend func(poolID string) bool
	Ledger  Ledger
	// Live are the live tasks of all daemons that share the ledger, as it has them. Nil: there are no others.
	Live     func(ctx context.Context) ([]task.Record, error)
	Sessions Sessions // nil: tasks have no sessions and no budgets
	Energy   Meter    // nil: nobody knows what tasks take
	Narrator *observe.Narrator
	Metrics  *Metrics
	Tracer   *tracing.Tracer // nil: nothing is traced
	Log      *zap.Logger
	Now      func() time.Time
	// FlushWithin bounds how long a cancel waits for subscribers to take the tokens they are owed. 0: 250 ms.
	FlushWithin time.Duration
	// IdleWithin is how long a canceled slot may stay busy before its worker is replaced. 0: 2 s (ORCH-3026).
	IdleWithin time.Duration
	// MoveWithin is how long a task whose replica died, or that an earlier process ran, waits for a replica that gives
	// the same bytes. 0: 1 min.
	MoveWithin time.Duration
	// ReturnWithin is how long a task that ends with its client waits for that client to come back. 0: 5 s.
	ReturnWithin time.Duration
	// StuckAfter is how long a queue may stand still before that is an alarm (LO-601). 0: 2 min. The queue of an on-demand pool
	// may stand still for SwapWithin longer, because other models may have the memory.
	StuckAfter, SwapWithin time.Duration
	// MicroBatch joins the writes of tokens that come within it. 0: none.
	MicroBatch time.Duration
	// RecordEvery is the time between tries to record an outcome while the ledger cannot. 0: 1 s.
	RecordEvery time.Duration
	// MeasuredFile is where what was measured of the pools is kept over a restart; empty: nowhere.
	MeasuredFile string
}

func (o Options) withDefaults() Options {
	o.FlushWithin = cmp.Or(o.FlushWithin, 250*time.Millisecond)
	o.IdleWithin = cmp.Or(o.IdleWithin, 2*time.Second)
	o.MoveWithin = cmp.Or(o.MoveWithin, time.Minute)
	o.ReturnWithin = cmp.Or(o.ReturnWithin, 5*time.Second)
	o.StuckAfter = cmp.Or(o.StuckAfter, 2*time.Minute)
	o.RecordEvery = cmp.Or(o.RecordEvery, time.Second)
	if o.Sessions == nil {
		o.Sessions = noSessions{}
	}
	if o.Refusal == nil {
		o.Refusal = func(string) error { return nil }
	}
	if o.Taken == nil {
		o.Taken = func(error) bool { return false }
	}
	if o.MaySend == nil {
		o.MaySend = func(string) bool { return true }
	}
	if o.Energy == nil {
		o.Energy = noMeter{}
	}
	if o.Residency == nil {
		o.Residency = noResidency{}
	}
	return o
}
