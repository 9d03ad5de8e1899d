// SPDX-License-Identifier: GPL-3.0-or-later

// Package ledger is the durable record of accepted tasks: what was accepted, dispatched, and how it ended, with the
// transcript (LO-202). Ledger is the interface, sqlite the implementation, and ledgertest holds every implementation to
// what is promised here.
package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/llama-orch/llama-orch/service/task"
)

// Ledger is a record that is open. Its methods may be called from several goroutines.
//
// A call that writes returns once what it wrote survives a crash, but for Started and Checkpoint, which only take a note.
// When its context ends before the write has begun, nothing is written; after that the call returns what became of it.
// A write may be repeated: the same accept or the same outcome again changes nothing.
//
// Several daemons may share one store. Each has it open for itself, and what it writes about a task carries the number of
// the claim that it holds. Once another daemon has claimed the task, such a write changes nothing and is ErrFenced.
type Ledger interface {
	// Claim makes the caller the owner of the queues of the pools that it is to hold, as far as nobody holds them, and of every live task of those that nobody holds. It returns
	// the tasks: those that were running first, in the order they were started, then the queued ones, in the order of their sequence numbers. It renews what
	// the caller holds. Tasks that it accepts later are its own. An owner names one daemon at a time: its next life, which has the same id, takes at
	// once what the one before held.
	//
	// A caller without pools takes the tasks of all. Where one daemon alone can have the store, so does each. A task of a pool that no daemon has announced
	// goes to whoever claims next.
	Claim(ctx context.Context, by task.Host) (Claim, error)
	// NextSeq hands out a sequence number, and returns at once. The number is greater than every one that this ledger handed
	// out since it was opened, and than that of every task that was ever accepted.
	NextSeq() (uint64, error)

	// Accept records a task as queued, and its turn if it is in a session. If the task was accepted before, nothing changes.
	// ErrTaken.
	Accept(ctx context.Context, t task.Task) error
	// Render records the prompt that a run has made of a live task's messages, with all that came of it: t is the task as it is now. ErrUnknown, ErrEnded.
	Render(ctx context.Context, t task.Task) error
	// AcceptRunning records a task that a replica is about to run. It is an accept and a first dispatch at once, of which a crash leaves both or
	// none. ErrTaken.
	AcceptRunning(ctx context.Context, t task.Task, d task.Dispatch) error
	// Dispatch records that a replica is about to run a task. The task keeps the time of its first dispatch, and its place
	// in the order of starts. ErrUnknown, ErrEnded.
	Dispatch(ctx context.Context, d task.Dispatch) error
	// Started notes a dispatch. It returns at once; the note is written within about a second, unless the task ends first.
	// A crash may lose it.
	Started(d task.Dispatch)
	// Checkpoint notes a point of a running task's log. It returns at once; the note is written within about a second,
	// unless the task ends first. A crash may lose it. A task's checkpoint never goes back.
	Checkpoint(id string, c task.Checkpoint)
	// Finish records how a task ended, with its charge. A task that was never accepted is recorded all the same: one may be
	// dropped from its queue before its accept is through. ErrEnded for a second, other outcome.
	Finish(ctx context.Context, r task.Record) error

	// Delete removes what an ended task was asked and answered, with all digests of it, and leaves what task.Record.Erased says. It returns
	// once nothing of that is in the store's files any more, or, where those are a database server's, once no query finds it. A task that was deleted before keeps the time of that. ErrUnknown,
	// ErrLive.
	Delete(ctx context.Context, id string, at time.Time) error
	// Expire does what Delete does, for each ended task whose request said how long its text is kept (KeepText), once that is over. It
	// returns their ids, and when the next one is due: zero if there is none.
	Expire(ctx context.Context, at time.Time) (ids []string, next time.Time, err error)

	// Get returns what is recorded of a task, whatever its state. ErrDamaged.
	Get(ctx context.Context, id string) (task.Record, bool, error)
	// Deleted returns those of the ids whose tasks were deleted, in their order. What is forgotten is not among them.
	Deleted(ctx context.Context, ids []string) ([]string, error)
	// List returns at most limit finished tasks, the last to be accepted first (by sequence number, since clocks are set), without the text and the
	// marks of their transcripts. An empty
	// state means all three.
	List(ctx context.Context, state task.State, limit int) ([]task.Record, error)
	// Live returns the tasks without an outcome, whoever holds them, in the order of Claim. In Live, List and Claim a damaged task has an Err that
	// says so, and little else.
	Live(ctx context.Context) ([]task.Record, error)
	// Proven returns the task whose proof bundle has this SHA-256.
	Proven(ctx context.Context, sum [32]byte) (task.Record, bool, error)

	// KeepSession records a session that has had no turn yet. Each turn is recorded with the accept of its task.
	KeepSession(ctx context.Context, s task.Session) error
	// DropSessions forgets sessions, but not others that were given their ids later.
	DropSessions(ctx context.Context, sessions []task.Session) error
	// Sessions returns those that are recorded, the oldest first.
	Sessions(ctx context.Context) ([]task.Session, error)
	// Spent returns what each account has spent in the budget window that began at this time.
	Spent(ctx context.Context, window time.Time) (map[string]task.Amount, error)

	Batches

	// Close writes what waits, gives up the claim, and closes the store. Writes fail with ErrClosed afterwards.
	Close() error
}

// Claim is what a daemon holds.
type Claim struct {
	Owner    string
	Fence    uint64            // greater than that of every claim before it
	Tasks    []task.Record     // that came with this claim
	Sessions []task.Session    // whose last turns were in pools that came with it
	Pools    []string          // that the caller named and holds now
	Others   map[string]string // those that it named and others hold, with their holders' ids
}

// Shared is what a ledger has that several daemons use at a time.
type Shared interface {
	// Hosts returns the daemons that have announced themselves with a claim, those that have gone too, until they are forgotten.
	Hosts(ctx context.Context) ([]task.Host, error)
	// Holder returns the id of the daemon that holds a live task; empty: the task is not live, or nobody holds it.
	Holder(ctx context.Context, id string) (string, error)
	// Holds reports whether the caller's lease runs for sure, by a clock that nobody sets.
	Holds() bool
}

// What a call fails with.
var (
	// ErrUnavailable: the store did not take the write (full, read-only, broken, out of reach). Nothing of it is recorded, and
	// the same call may be made again: the ledger goes on by itself once it can write.
	ErrUnavailable = errors.New("the ledger cannot write")
	// ErrTaken: another task has the id or the sequence number.
	ErrTaken = errors.New("the ledger has another task of this id or sequence number")
	// ErrUnknown: no task of this id was accepted.
	ErrUnknown = errors.New("the ledger has no task of this id")
	// ErrEnded: the task has another outcome already.
	ErrEnded = errors.New("the ledger has another outcome of this task")
	// ErrLive: the task has no outcome yet.
	ErrLive = errors.New("the ledger has no outcome of this task yet")
	// ErrDamaged: what is recorded of the task is not what was recorded. Such an error is a *task.Error, INTERNAL, that says what to do.
	ErrDamaged = errors.New("the ledger's entry is damaged")
	// ErrFenced: another daemon has claimed the task since.
	ErrFenced = errors.New("another orchestrator has claimed this task")
	// ErrClosed: the ledger is closed.
	ErrClosed = errors.New("the ledger is closed")
)

// CheckTask says what keeps a task from being accepted.
func CheckTask(t task.Task) error {
	if t.Seq == 0 || t.ID == "" || t.AcceptedAt.IsZero() {
		return errors.New("it needs an id, a sequence number and a time")
	}
	return nil
}

// CheckOutcome says what keeps a record from being that of a task that ended.
func CheckOutcome(r task.Record) error {
	if !r.State.Final() || r.FinishedAt.IsZero() {
		return fmt.Errorf("state %q and time %v are not those of an outcome", r.State, r.FinishedAt)
	}
	return CheckTask(r.Task)
}
