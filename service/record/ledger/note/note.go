// SPDX-License-Identifier: GPL-3.0-or-later

// Package note keeps what a ledger is to write and no caller waits for: starts of tasks, and checkpoints.
package note

import (
	"slices"
	"time"

	"github.com/llama-orch/llama-orch/service/task"
)

// How long a note waits. A checkpoint is written with the next commit, or in a commit of its own after CheckpointAfter. A start
// is held back for StartAfter: if the task ends before, the start need not be written.
const (
	CheckpointAfter = time.Second
	StartAfter      = 100 * time.Millisecond
)

// maxNotes is how many tasks' notes of a kind may wait; beyond that they are dropped.
const maxNotes = 4096

// Start is a dispatch that is to be written.
type Start struct {
	task.Dispatch

	Place int64     // in the order of starts
	at    time.Time // when it was noted
	stale bool      // what is being written makes it needless
}

// Notes are what is to be written. The ledger that has them guards them by its own lock.
type Notes struct {
	starts      []*Start // the oldest first
	startOf     map[string]*Start
	checkpoints map[string]task.Checkpoint
	oldest      time.Time // of the checkpoints
}

// New returns no notes.
func New() Notes {
	return Notes{startOf: map[string]*Start{}, checkpoints: map[string]task.Checkpoint{}}
}

// Start notes a dispatch. It returns true if it is the only start that waits: the writer then has to set its timer.
func (n *Notes) Start(d task.Dispatch, place int64, now time.Time) bool {
	if s := n.startOf[d.ID]; s != nil {
		s.ReplicaID, s.Fingerprint = d.ReplicaID, d.Fingerprint
		return false
	}
	if len(n.starts) >= maxNotes {
		return false
	}
	n.add(&Start{Dispatch: d, Place: place, at: now})
	return len(n.starts) == 1
}

func (n *Notes) add(s *Start) {
	n.starts = append(n.starts, s)
	n.startOf[s.ID] = s
}

// Checkpoint notes a checkpoint. It returns true if it is the only checkpoint that waits.
func (n *Notes) Checkpoint(id string, c task.Checkpoint, now time.Time) bool {
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

// Drop drops the start of a task whose dispatch or outcome is being written, and returns it; nil: none waits.
func (n *Notes) Drop(id string) *Start {
	s := n.startOf[id]
	if s != nil {
		s.stale = true
		delete(n.startOf, id)
	}
	return s
}

// Ripen makes all that waits due at once, as where the ledger is closed.
func (n *Notes) Ripen() {
	for _, s := range n.starts {
		s.at = time.Time{}
	}
	n.oldest = time.Time{}
}

// Of returns the start of a task that waits; nil: none does.
func (n *Notes) Of(id string) *Start { return n.startOf[id] }

// Unmark drops the checkpoint of a task whose outcome is being written.
func (n *Notes) Unmark(id string) { delete(n.checkpoints, id) }

// Empty reports whether nothing waits.
func (n *Notes) Empty() bool { return len(n.starts) == 0 && len(n.checkpoints) == 0 }

// Take removes and returns the notes that are to be written now. Set with if there is a commit anyway.
func (n *Notes) Take(now time.Time, with bool) (starts []*Start, checkpoints map[string]task.Checkpoint) {
	i := 0
	for ; i < len(n.starts); i++ {
		s := n.starts[i]
		if s.stale {
			continue
		}
		if now.Sub(s.at) < StartAfter {
			break
		}
		starts = append(starts, s)
		delete(n.startOf, s.ID)
	}
	n.starts = slices.Delete(n.starts, 0, i)
	if len(n.checkpoints) > 0 && (with || len(starts) > 0 || now.Sub(n.oldest) >= CheckpointAfter) {
		checkpoints, n.checkpoints = n.checkpoints, map[string]task.Checkpoint{}
	}
	return starts, checkpoints
}

// Due is when the next note has to be written; zero if none waits.
func (n *Notes) Due() (at time.Time) {
	if len(n.checkpoints) > 0 {
		at = n.oldest.Add(CheckpointAfter)
	}
	for _, s := range n.starts {
		if own := s.at.Add(StartAfter); !s.stale && (at.IsZero() || own.Before(at)) {
			return own
		}
	}
	return at
}

// Back notes a start again. It, or what made it needless, could not be written.
func (n *Notes) Back(s *Start, now time.Time) {
	if n.startOf[s.ID] == nil {
		n.add(&Start{Dispatch: s.Dispatch, Place: s.Place, at: now})
	}
}
