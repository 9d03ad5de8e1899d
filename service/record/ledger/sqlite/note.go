// SPDX-License-Identifier: GPL-3.0-or-later

package sqlite

import (
	"slices"
	"time"

	"github.com/llama-orch/llama-orch/service/task"
)

// How long a note waits. A checkpoint is written with the next commit, or in a commit of its own after checkpointAfter. A start
// is held back for startAfter: if the task ends before, the start need not be written.
const (
	checkpointAfter = time.Second
	startAfter      = 100 * time.Millisecond
)

// maxNotes is how many tasks' notes of a kind may wait; beyond that they are dropped.
const maxNotes = 4096

// start is a dispatch that is to be written.
type start struct {
	task.Dispatch

	place int64     // in the order of starts
	at    time.Time // when it was noted
	stale bool      // what is being written makes it needless
}

// notes are what is to be written, but no caller waits for. The ledger's mu guards them.
type notes struct {
	starts      []*start // the oldest first
	startOf     map[string]*start
	checkpoints map[string]task.Checkpoint
	oldest      time.Time // of the checkpoints
}

func newNotes() notes {
	return notes{startOf: map[string]*start{}, checkpoints: map[string]task.Checkpoint{}}
}

// start notes a dispatch. It returns true if it is the only start that waits: the writer then has to set its timer.
func (n *notes) start(d task.Dispatch, place int64, now time.Time) bool {
	if s := n.startOf[d.ID]; s != nil {
		s.ReplicaID, s.Fingerprint = d.ReplicaID, d.Fingerprint
		return false
	}
	if len(n.starts) >= maxNotes {
		return false
	}
	n.add(&start{Dispatch: d, place: place, at: now})
	return len(n.starts) == 1
}

func (n *notes) add(s *start) {
	n.starts = append(n.starts, s)
	n.startOf[s.ID] = s
}

// checkpoint notes a checkpoint. It returns true if it is the only checkpoint that waits.
func (n *notes) checkpoint(id string, c task.Checkpoint, now time.Time) bool {
	known, waits := n.checkpoints[id]
	if !waits && len(n.checkpoints) >= maxNotes || waits && known.Event >= c.Event {
		return false
	}
	if len(n.checkpoints) == 0 {
		n.oldest = now
	}
	n.checkpoints[id] = c
	return len(n.checkpoints) == 1
}

// drop drops the start of a task whose dispatch or outcome is being written, and returns it; nil: none waits.
func (n *notes) drop(id string) *start {
	s := n.startOf[id]
	if s != nil {
		s.stale = true
		delete(n.startOf, id)
	}
	return s
}

// take removes and returns the notes that are to be written now. Set with if there is a commit anyway, and all to take every note.
func (n *notes) take(now time.Time, with, all bool) (starts []*start, checkpoints map[string]task.Checkpoint) {
	i := 0
	for ; i < len(n.starts); i++ {
		s := n.starts[i]
		if s.stale {
			continue
		}
		if !all && now.Sub(s.at) < startAfter {
			break
		}
		starts = append(starts, s)
		delete(n.startOf, s.ID)
	}
	n.starts = slices.Delete(n.starts, 0, i)
	if len(n.checkpoints) > 0 && (with || all || len(starts) > 0 || now.Sub(n.oldest) >= checkpointAfter) {
		checkpoints, n.checkpoints = n.checkpoints, map[string]task.Checkpoint{}
	}
	return starts, checkpoints
}

// due is when the next note has to be written; zero if none waits.
func (n *notes) due() (at time.Time) {
	if len(n.checkpoints) > 0 {
		at = n.oldest.Add(checkpointAfter)
	}
	for _, s := range n.starts {
		if own := s.at.Add(startAfter); !s.stale && (at.IsZero() || own.Before(at)) {
			return own
		}
	}
	return at
}

// back notes a start again. It, or what made it needless, could not be written.
func (n *notes) back(s *start, now time.Time) {
	if n.startOf[s.ID] == nil {
		n.add(&start{Dispatch: s.Dispatch, place: s.place, at: now})
	}
}
