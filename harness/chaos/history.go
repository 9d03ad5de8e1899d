// SPDX-License-Identifier: GPL-3.0-or-later

package chaos

import (
	"time"

	"github.com/llama-orch/llama-orch/harness/client"
)

// history is what a run's clients saw, and what was done to the daemon meanwhile.
type history struct {
	lives  []life
	faults []fault
	tasks  []*taskRecord
	after  aftermath
	// stall is the longest that this machine kept a goroutine of the harness waiting: what no time is judged below.
	stall time.Duration
}

// life is one process of the daemon.
type life struct {
	serving time.Time
	over    time.Time // zero: it is still there
}

// fault is one that was done. Kinds are those of the schedule.
type fault struct {
	kind faultKind
	at   time.Time
	pool string   // of a worker
	hits []string // the tasks that were within their stream, as their clients saw it
}

// taskRecord is all that its clients know of a task.
type taskRecord struct {
	plan    taskPlan
	submits []submit
	views   []*view
	cancels []cancelCall
	unknown bool           // GET says at the end that there is no such task
	final   *status        // as GET says at the end
	log     []client.Event // its whole stream, read at the end
	calm    *calm          // of a strict task that sent tokens
}

// submit is one POST.
type submit struct {
	sent, answered time.Time
	admission      *client.Admission
	code           string // of a refusal; empty with no admission: the answer was lost
}

// view is what one reader holds: the events of its connections, joined. One that cannot be continued is discarded, and the
// reader begins another.
type view struct {
	reader    int
	slow      bool
	seen      []seen
	discarded string // why, where it was
	at        time.Time
	conns     []conn
	failover  int // the largest that a metrics frame told
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
	code           string // of a refusal; empty with no answer: it was lost
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

// calm is a task's run on a daemon that nobody disturbs.
type calm struct {
	tokens  []string
	finish  string
	receipt client.Receipt
}

// aftermath is what is left of the daemon and its workers.
type aftermath struct {
	idleFDs, lastFDs               int // of the daemon without tasks: before the first, and after the last
	idleGoroutines, lastGoroutines int
	orphans                        []string // processes that outlived their daemon
	files                          []string // in the data folder after the last stop, that nobody needs
	stopped                        bool     // the last SIGTERM ended it with code 0
}

// accepted is the first 202, nil if there was none.
func (t *taskRecord) accepted() *submit {
	for i := range t.submits {
		if t.submits[i].admission != nil {
			return &t.submits[i]
		}
	}
	return nil
}

// known reports whether the daemon has the task: its 202 may have been lost on the way.
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

// lifeAt is the number of the life that a time falls in, -1 for none.
func (h *history) lifeAt(at time.Time) int {
	for i, l := range h.lives {
		if !at.Before(l.serving.Add(-startUp)) && (l.over.IsZero() || !at.After(l.over)) && (i == 0 || at.After(h.lives[i-1].over)) {
			return i
		}
	}
	return -1
}

// startUp is how long before its "serving" a daemon may already run what it recovered.
const startUp = 30 * time.Second

// count is the number of faults of some kinds between two times.
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
