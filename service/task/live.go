// SPDX-License-Identifier: GPL-3.0-or-later

package task

import "time"

// Live is a task that has not ended, for somebody who looks at all of them now and then.
type Live struct {
	Status

	Phase     Phase
	StartsAt  time.Time     // as predicted now; zero once it runs
	Deadline  time.Duration // from AcceptedAt; 0: there is none
	OnTime    float64       // the chance that it ends before its deadline; 1 where there is none
	Front     string        // the dialect by which it came; empty: the native API
	SessionID string
	Tail      string // the end of what it has said so far
}

// Swap is a load of an on-demand pool's model, or its way out of the memory.
type Swap struct {
	At     time.Time
	PoolID string
	In     bool
	Why    string // a sentence for people
}

// Outlook is how far predictions have come true since the start.
type Outlook struct {
	Starts  int           // tasks that started, whose start had been predicted
	Near    int           // of them those that started within a second of it, or within a quarter of the wait
	Off     time.Duration // how far the others were off, together
	Chances [5]Chance     // of deadlines, by the chance that was told at admission: below 20 %, below 40 %, and so on
}

// Chance is the tasks with a deadline that were told a chance within one fifth.
type Chance struct {
	Tasks int
	Told  float64 // the sum of the chances
	Kept  int     // that ended before their deadline
}
