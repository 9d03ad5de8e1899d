// SPDX-License-Identifier: GPL-3.0-or-later

package chaos

import (
	"strings"
	"time"
)

// frontHistory says what the clients of fronts saw.
type frontHistory struct {
	chats     []*chatRecord
	responses []*responseRecord
	batches   []*batchRecord
	frontsAtEnd
}

// frontsAtEnd is what clients are told when all is over.
type frontsAtEnd struct {
	states map[string]*status // of every task whose id a front told; nil: the daemon does not know it
	files  []string           // the ids of those that clients sent, as they are listed
}

// heard is what came of one request on a front.
type heard struct {
	client   int
	sent, at time.Time // at: when it was over
	status   int       // 0: the connection broke before an answer began
	task     string    // X-Task-Id
	again    bool      // of a refusal: it does not say that a repeat does not help
	wait     string    // Retry-After
	streamed bool
	frames   []string // of a stream, without what says that somebody is there
	body     string   // of what was sent as a whole
	receipt  string   // its headers with the receipt
	whole    bool     // HTTP says that nothing is missing
	garbled  string   // why it is no stream
	left     bool     // the client hung up
}

// answers reports whether it is an answer, and no refusal.
func (h *heard) answers() bool { return h.status == 200 }

// said reads it.
func (h *heard) said(kind string) said {
	switch d := dialects[kind]; {
	case h.streamed:
		return d.read(h.frames)
	case h.whole:
		s := d.readWhole(h.body)
		s.proves(h.receipt)
		return s
	default:
		return said{}
	}
}

// bytes are those that all who have this answer must have.
func (h *heard) bytes() string {
	if h.streamed {
		return strings.Join(h.frames, "")
	}
	return h.receipt + h.body
}

// chatRecord is everything that is known of a request that is answered by a text.
type chatRecord struct {
	plan  chatPlan
	heard []*heard
	calm  *string  // the text of its undisturbed run
	other []*heard // what was answered to another body under its key
}

// responseRecord is everything that is known of a response in the background.
type responseRecord struct {
	plan     responsePlan
	asked    []*heard // what came of the requests that create it, and of those that join it
	id       string   // empty: nobody was told it
	views    []*holding
	polls    []poll
	cancels  []poll // what its cancels answered
	last     string // as GET has it at the end
	stream   *heard // its whole stream, read at the end
	calm     *string
	next     []*heard // what came of the request that goes on from it
	calmNext *string  // the text of that one's undisturbed run
}

// holding is what one reader holds: the joined events of its connections.
type holding struct {
	reader    int
	frames    []string
	at        []time.Time // when each came
	lives     []int       // which life of the daemon sent it
	breaks    int         // connections after the first one
	over      bool        // the last event came
	clean     bool        // a connection ended, as if nothing was missing, before the last event
	discarded string      // why it could not be continued
}

// poll is a look at something, or a call.
type poll struct {
	sent, at time.Time
	status   int // 0: the answer was lost
	body     string
}

// batchRecord is everything that is known of a batch.
type batchRecord struct {
	plan    batchPlan
	file    string // the ids; empty: nobody was told
	id      string
	asked   []poll // what the upload, and the requests that create it, were answered
	polls   []poll // each with the batch as it was
	cancels []poll
	results map[string]string // by the id of the file: as it was when the batch had ended
	again   map[string]string // the same at the end, when the input was gone
	content string            // of the input, read at the end
	unknown bool              // the batch is not there
	calm    map[string]string // the texts of undisturbed runs, by custom_id
}

// batchView is what is judged of a batch.
type batchView struct {
	ID         string `json:"id"`
	Status     string `json:"status"`
	OutputFile string `json:"output_file_id"`
	ErrorFile  string `json:"error_file_id"`
	Counts     struct {
		Total     int `json:"total"`
		Completed int `json:"completed"`
		Failed    int `json:"failed"`
	} `json:"request_counts"`
	Metadata map[string]string `json:"metadata"`
}

// batchOver reports whether a batch with this status has ended.
func batchOver(status string) bool {
	switch status {
	case statusCompleted, statusCancelled, statusFailed, "expired":
		return true
	}
	return false
}
