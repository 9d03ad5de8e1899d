// SPDX-License-Identifier: GPL-3.0-or-later

package task

import (
	"encoding/json"
	"fmt"
	"time"
)

// File is a file that a client uploaded for batches (LO-435). Its bytes are an artifact.
type File struct {
	ID        string    `json:"id"`
	Artifact  string    `json:"artifact"`
	Name      string    `json:"name"`
	Bytes     int64     `json:"bytes"`
	CreatedAt time.Time `json:"created_at"`
}

// BatchRecord is what is known of many requests that were handed over at once (LO-436). Times are zero until what they are of has happened.
type BatchRecord struct {
	ID          string            `json:"id"`
	Dialect     string            `json:"dialect"`
	Endpoint    string            `json:"endpoint"`          // the path to which its requests would have been sent
	FileID      string            `json:"file_id,omitempty"` // empty: the requests came with the batch
	Artifact    string            `json:"artifact"`          // that has a request a line
	Window      string            `json:"window"`            // as the client said it
	Metadata    map[string]string `json:"metadata,omitempty"`
	Actor       string            `json:"actor"`
	Total       int               `json:"total"` // of its lines; 0: nobody has counted them yet
	CreatedAt   time.Time         `json:"created_at"`
	ExpiresAt   time.Time         `json:"expires_at"`
	BegunAt     time.Time         `json:"begun_at,omitzero"`     // its lines are all known
	CancelAt    time.Time         `json:"cancel_at,omitzero"`    // its client wants no more of it
	ExpiredAt   time.Time         `json:"expired_at,omitzero"`   // its window was over before all had started
	FinalAt     time.Time         `json:"final_at,omitzero"`     // all lines have ended
	EndedAt     time.Time         `json:"ended_at,omitzero"`     // and so has the batch
	Faults      []BatchFault      `json:"faults,omitempty"`      // why none of it was run
	OutputBytes int64             `json:"output_bytes,omitzero"` // of the results that its client sees in a file, once it has ended
	ErrorBytes  int64             `json:"error_bytes,omitzero"`
	Counts      LineCounts        `json:"counts"`
}

// BatchFault is something wrong with the input of a batch.
type BatchFault struct {
	Line    int    `json:"line,omitempty"` // from 1; 0: it is about all of them
	Code    string `json:"code"`
	Message string `json:"message"`
}

// LineState says how far a line of a batch is.
type LineState string

// The states of a line. The last four are final.
const (
	LineWaits     LineState = "waiting" // in the ledger
	LineFed       LineState = "fed"     // its task is accepted
	LineCompleted LineState = "completed"
	LineFailed    LineState = "failed"
	LineCanceled  LineState = "canceled"
	LineExpired   LineState = "expired"
)

// LineStates lists every state.
func LineStates() []LineState {
	return []LineState{LineWaits, LineFed, LineCompleted, LineFailed, LineCanceled, LineExpired}
}

// Final reports whether a line in this state has ended.
func (s LineState) Final() bool { return s != LineWaits && s != LineFed }

// Line is one request of a batch.
type Line struct {
	Batch    string // its id
	N        int    // from 1
	CustomID string // what its client calls it; empty: it has no such name
	At       int64  // where it begins in the batch's artifact
	Bytes    int64  // without its end
	State    LineState
	Tries    int             // tasks of the line that ended with an error which a new try helps
	Status   int             // of what its client would have got in place of a task; 0: there is a task, or there will be one
	Refusal  json.RawMessage // the body of that; nil: the line was no request at all, and Fault says why
	Fault    *BatchFault
}

// TaskID is the id of the line's task.
func (l Line) TaskID() string {
	if l.Tries == 0 {
		return fmt.Sprintf("%s-%d", l.Batch, l.N)
	}
	return fmt.Sprintf("%s-%d-%d", l.Batch, l.N, l.Tries+1)
}

// maxTries is how many tasks a line may have (LO-437).
const maxTries = 3

// After is the line as the end of its task leaves it. A task that ended with an error which a new try helps is followed by another one.
func (l Line) After(r Record) Line {
	switch {
	case r.State == Completed:
		l.State = LineCompleted
	case r.State == StateCanceled:
		l.State = LineCanceled
	case r.Err != nil && r.Err.Envelope().Retriable && l.Tries+1 < maxTries:
		l.State = LineWaits
		l.Tries++
	default:
		l.State = LineFailed
	}
	return l
}

// LineCounts counts the lines of a batch by their states.
type LineCounts struct {
	Waiting   int `json:"waiting,omitempty"`
	Fed       int `json:"fed,omitempty"`
	Completed int `json:"completed,omitempty"`
	Failed    int `json:"failed,omitempty"`
	Canceled  int `json:"canceled,omitempty"`
	Expired   int `json:"expired,omitempty"`
}

// Of is the count of a state.
func (c *LineCounts) Of(s LineState) *int {
	switch s {
	case LineWaits:
		return &c.Waiting
	case LineFed:
		return &c.Fed
	case LineCompleted:
		return &c.Completed
	case LineFailed:
		return &c.Failed
	case LineCanceled:
		return &c.Canceled
	case LineExpired:
	}
	return &c.Expired
}

// Open is how many lines have not ended.
func (c LineCounts) Open() int { return c.Waiting + c.Fed }

// BatchFilter chooses batches, the newest first. An empty field takes all.
type BatchFilter struct {
	Dialect string
	Live    bool // only those that have not ended
	Own     bool // only those that were sent to this host, where several share the ledger: the others have the bytes of theirs
	// EndedBefore takes only those that ended before that time; zero: all.
	EndedBefore time.Time
	// After and Before are ids of batches, of which the one comes right before those that are wanted, and the other right behind them.
	After, Before string
	Limit         int
}

// Listed is an entry in a list of files: one that a client sent, or a batch that has ended, whose results are files. Batch is nil for the first.
type Listed struct {
	File  File
	Batch *BatchRecord
}

// ID is that of the file, or of the batch.
func (l *Listed) ID() string {
	if l.Batch != nil {
		return l.Batch.ID
	}
	return l.File.ID
}

// FileFilter chooses files and batches that have ended, the last first that came or ended.
type FileFilter struct {
	Sent    bool   // files that clients sent
	Own     bool   // only those that were sent to this host, where several share the ledger: the others have the bytes of theirs
	Results string // the dialect of the batches that are wanted; empty: none
	After   string // the id of the file or the batch right before those that are wanted
	Oldest  bool   // the first come first
	Limit   int    // 0: no limit
}

// LineFilter chooses lines of a batch.
type LineFilter struct {
	After int  // the number of the last one that is not wanted
	Open  bool // only those that have not ended
	Limit int  // 0: no limit
}
