// SPDX-License-Identifier: GPL-3.0-or-later

// Package awake measures how long this process ran. It is for watchdogs: a program that was stopped (Ctrl-Z, `docker pause`, a laptop that
// sleeps) has not waited for anybody meanwhile, although its clock went on (LO-836).
//
// Time is counted in pieces. A piece whose timer comes far too late does not count, because the process did not run for a part of it.
package awake

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	pieces   = 8                // of the time that a Timer counts
	shortest = time.Millisecond // piece
	longest  = 5 * time.Second  // piece; and so much of the time is lost at most when the process is stopped
	// late is how much a timer may be late on a busy machine.
	late = 250 * time.Millisecond
	// lookEvery is the time between two looks of At.
	lookEvery = 15 * time.Second
)

// Late reports whether a timer came so late that the process cannot have run all the time.
func Late(waited, planned time.Duration) bool { return waited > planned+late }

// Timer calls a function when the process has run for some time.
type Timer struct {
	f func()

	mu    sync.Mutex  // guards what follows
	turn  *time.Timer // of this piece
	left  time.Duration
	piece time.Duration // this one; 0: the timer is stopped
	begun time.Time     // when this piece began
}

// AfterFunc calls f in a goroutine of its own when the process has run for d.
func AfterFunc(d time.Duration, f func()) *Timer {
	t := &Timer{f: f}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.begin(d)
	return t
}

// Reset begins anew. A call that has begun already goes on.
func (t *Timer) Reset(d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.begin(d)
}

// Stop ends the timer. A call that has begun already goes on.
func (t *Timer) Stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.piece = 0
	t.turn.Stop()
}

// begin begins to count d. The caller holds mu.
func (t *Timer) begin(d time.Duration) {
	t.left = max(d, 0)
	t.next(min(max(d/pieces, shortest), longest))
}

// next begins a piece. The caller holds mu.
func (t *Timer) next(piece time.Duration) {
	t.piece, t.begun = max(min(piece, t.left), 1), time.Now()
	if t.turn == nil {
		t.turn = time.AfterFunc(t.piece, t.tick)
	} else {
		t.turn.Reset(t.piece)
	}
}

func (t *Timer) tick() {
	t.mu.Lock()
	waited := time.Since(t.begun)
	if t.piece == 0 || waited < t.piece { // it was stopped or began anew while this call was on its way
		t.mu.Unlock()
		return
	}
	piece := t.piece
	if !Late(waited, piece) {
		t.left -= piece
	}
	over := t.left <= 0
	if over {
		t.piece = 0
	} else {
		t.next(piece)
	}
	t.mu.Unlock()
	if over {
		t.f()
	}
}

// WithTimeout is context.WithTimeout for time in which the process runs. The context's cause is context.DeadlineExceeded then.
func WithTimeout(parent context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return WithTimeoutCause(parent, d, context.DeadlineExceeded)
}

// WithTimeoutCause is the same, with a cause. The context has no deadline, and its error is context.Canceled in any case.
func WithTimeoutCause(parent context.Context, d time.Duration, cause error) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(parent)
	t := AfterFunc(d, func() { cancel(cause) })
	return ctx, func() {
		t.Stop()
		cancel(context.Canceled)
	}
}

// At calls f in a goroutine of its own when d has passed, whether the process ran or the machine slept. Timers of the standard library
// stand still while the machine sleeps.
func At(d time.Duration, f func()) (stop func()) { return at(d, f, uptime) }

// at takes the time since the machine's start, sleep included, from uptime.
func at(d time.Duration, f func(), uptime func() time.Duration) (stop func()) {
	var mu sync.Mutex
	var turn *time.Timer // guarded by mu, as is over
	over := false
	begun, slept := time.Now(), uptime()
	look := func() {
		mu.Lock()
		passed := max(time.Since(begun), uptime()-slept)
		if over || passed < d {
			if !over {
				turn.Reset(min(d-passed, lookEvery))
			}
			mu.Unlock()
			return
		}
		over = true
		mu.Unlock()
		f()
	}
	mu.Lock()
	defer mu.Unlock()
	turn = time.AfterFunc(min(d, lookEvery), look)
	return func() {
		mu.Lock()
		defer mu.Unlock()
		over = true
		turn.Stop()
	}
}

// uptime is the time since the machine's start, sleep included.
func uptime() time.Duration {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) != nil {
		return 0 // then the time that the machine sleeps does not count
	}
	return time.Duration(t.Nano())
}
