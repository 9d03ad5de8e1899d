// SPDX-License-Identifier: GPL-3.0-or-later

package chaos

import (
	"time"

	"github.com/llama-orch/llama-orch/harness/client"
)

// history says what a run's clients saw, and what happened to the daemon meanwhile.
type history struct {
	lives  []life
	faults []fault
	tasks  []*taskRecord
	frontHistory
	after aftermath
	// stall is the longest time that this machine kept a goroutine of the harness waiting. No shorter time is judged.
	stall time.Duration
}

// life is one process of the daemon.
type life struct {
	serving time.Time
	over    time.Time // zero: it still lives
}

// fault is one that happened. Its kinds are those of the schedule.
type fault struct {
	kind faultKind
	at   time.Time
	pool string   // of a worker
	hits []string // the tasks that were in mid-stream, as their clients saw it
}

// taskRecord is everything that clients know about a task.
type taskRecord struct {
	plan    taskPlan
	submits []submit
	views   []*view
	cancels []cancelCall
	unknown bool           // GET says at the end that there is no such task
	final   *status        // as GET says at the end
	log     []client.Event // its whole stream, read at the end
	calm    *calm          // only for a strict task that sent tokens
}

// submit is one POST.
type submit struct {
	sent, answered time.Time
	admission      *client.Admission
	code           string // the code of a refusal; empty without an admission: the answer was lost
}

// view is what one reader holds: the joined events of its connections. If a view cannot be continued, it is discarded, and the reader begins
// another one.
type view struct {
	reader    int
	slow      bool
	seen      []seen
	discarded string // why it was discarded; empty: it was not
	at        time.Time
	conns     []conn
	failover  int // the largest figure in a metrics frame
}

type conn struct {
	opened, closed time.Time
	life           int
	resumed        bool
}

type seen struct {
	client.Event
	at   time.Time
	conn int
}

// cancelCall is one POST of a cancel.
type cancelCall struct {
	sent, returned time.Time
	answer         *client.Canceled
	code           string // the code of a refusal; empty without an answer: it was lost
}

// status is the part of GET /v1/tasks/{id} that is judged.
type status struct {
	State     string          `json:"state"`
	PoolID    string          `json:"pool_id"`
	ReplicaID string          `json:"replica_id"`
	StartedAt time.Time       `json:"started_at"`
	Finished  time.Time       `json:"finished_at"`
	TokensOut int             `json:"tokens_out"`
	LastEvent string          `json:"last_event_id"`
	End       *client.End     `json:"end"`
	Error     *client.Failure `json:"error"`
}

// calm is a task's run on an undisturbed daemon.
type calm struct {
	tokens  []string
	finish  string
	receipt client.Receipt
}

// aftermath is what the daemon and its workers leave behind.
type aftermath struct {
	idleFDs, lastFDs               int // of the idle daemon: before the first task, and after the last
	idleGoroutines, lastGoroutines int
	orphans                        []string // processes that outlived their daemon
	files                          []string // files in the data folder after the last stop that nobody needs
	stopped                        bool     // the last SIGTERM ended it with code 0
}

// accepted returns the first 202, or nil if there was none.
func (t *taskRecord) accepted() *submit {
	for i := range t.submits {
		if t.submits[i].admission != nil {
			return &t.submits[i]
		}
	}
	return nil
}

// known reports whether the daemon has the task, even if its 202 was lost on the way.
func (t *taskRecord) known() bool { return t.accepted() != nil || t.final != nil }

func (v *view) over() bool { return len(v.seen) > 0 && v.seen[len(v.seen)-1].Terminal() }

func (v *view) tokens() (n int) {
	for _, e := range v.seen {
		if e.Name == "token" {
			n++
		}
	}
	return n
}

// lifeAt returns the number of the life at a time, or -1 if there was none.
func (h *history) lifeAt(at time.Time) int {
	for i, l := range h.lives {
		if !at.Before(l.serving.Add(-startUp)) && (l.over.IsZero() || !at.After(l.over)) && (i == 0 || at.After(h.lives[i-1].over)) {
			return i
		}
	}
	return -1
}

// startUp is how long a daemon may already run recovered tasks before it logs that it serves.
const startUp = 30 * time.Second

// count returns the number of faults of some kinds between two times.
func (h *history) count(from, to time.Time, kinds ...faultKind) (n int) {
	for _, f := range h.faults {
		for _, k := range kinds {
			if f.kind == k && !f.at.Before(from) && !f.at.After(to) {
				n++
			}
		}
	}
	return n
}
