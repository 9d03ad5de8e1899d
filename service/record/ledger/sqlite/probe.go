// SPDX-License-Identifier: GPL-3.0-or-later

package sqlite

import (
	"context"
	"fmt"
	"time"
)

// How old the last commit may be before Writable tries one, and how long it waits for that.
const (
	probeAfter  = 15 * time.Second
	probeWithin = 2 * time.Second
)

// Writable says whether an accept could be recorded now. Where nothing was written for a while, or the last commit failed, it makes a small
// commit that changes nothing.
func (l *Ledger) Writable(ctx context.Context) error {
	if at := l.wrote.Load(); at != 0 && time.Since(time.Unix(at, 0)) < probeAfter {
		return nil
	}
	ctx, stop := context.WithTimeoutCause(ctx, probeWithin, fmt.Errorf("no commit within %s", probeWithin))
	defer stop()
	return l.submit(ctx, &op{kind: opProbe, run: func(w *writer) error { return w.touch() }})
}

// turnLook is how often Turns looks whether the writing goroutine came round.
const turnLook = 10 * time.Millisecond

// Turns returns once the writing goroutine has come round, whether or not it could write: a full disk is no reason to start anew, and a disk that is slow is
// waited for. It fails when ctx ends before that (LO-635). Nothing is written.
func (l *Ledger) Turns(ctx context.Context) error {
	for before := l.turns.Load(); l.turns.Load() == before; {
		l.nudge()
		select {
		case <-l.halt.Done(): // it is being closed
			return nil
		case <-ctx.Done():
			return fmt.Errorf("the ledger does not turn: %w", context.Cause(ctx))
		case <-time.After(turnLook):
		}
	}
	return nil
}

// touch writes the version that the file has already, which takes a page of the log of writes.
func (w *writer) touch() error {
	var version int
	if err := w.conn.QueryRowContext(context.Background(), "PRAGMA user_version").Scan(&version); err != nil {
		return err
	}
	_, err := w.conn.ExecContext(context.Background(), fmt.Sprintf("PRAGMA user_version = %d", version))
	return err
}
