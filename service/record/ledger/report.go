// SPDX-License-Identifier: GPL-3.0-or-later

package ledger

import "github.com/llama-orch/llama-orch/service/task"

// Report is what a check found.
type Report struct {
	Schema   int
	States   map[task.State]int
	Verified int      // transcripts that are what their receipts say
	Problems []string // none: the ledger is whole
	Losses   []string // what was recorded and was missing at a start since
}

// maxProblems bounds the list of a report: nobody reads more.
const maxProblems = 50

// Problem adds what is wrong to the list, if that is not full.
func (r *Report) Problem(what string) {
	if len(r.Problems) < maxProblems {
		r.Problems = append(r.Problems, what)
	}
}
