// SPDX-License-Identifier: GPL-3.0-or-later

// Package lifecycle gives every long-lived type the same Start and Stop, safe in any order.
package lifecycle

import (
	"context"
	"sync"
)

// Service is what runs from Start to Stop. Both may be called more than once, in any order and from several goroutines:
// only the first Start counts, a Stop before it makes it do nothing, and each Stop returns once everything has ended.
type Service interface {
	// Start sets the service going and returns. ctx bounds the start alone.
	Start(ctx context.Context) error
	// Stop ends what Start set going and joins it. ctx bounds how long it waits.
	Stop(ctx context.Context) error
}

// Life is one run of a Service, to be embedded in it or held by it. Its zero value is ready for use.
type Life struct {
	mu      sync.Mutex
	ctx     context.Context // ends with Stop; nil before Begin
	cancel  context.CancelCauseFunc
	stopped bool
	joined  chan struct{} // closed when nothing runs any more; nil before the first Stop
	running sync.WaitGroup
}

// Begin reports whether the caller is the one who starts: it is false for a second start, and after a Stop.
func (l *Life) Begin() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ctx != nil || l.stopped {
		return false
	}
	l.ctx, l.cancel = context.WithCancelCause(context.Background())
	return true
}

// Go runs f until it returns, and Stop joins it. The context that f gets ends with Stop. Go returns false, and runs
// nothing, before Begin and once the service is being stopped.
func (l *Life) Go(f func(context.Context)) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ctx == nil || l.stopped {
		return false
	}
	ctx := l.ctx
	l.running.Go(func() { f(ctx) })
	return true
}

// End ends the context of what runs, with a cause, and waits for all of it until ctx ends. It returns the context's cause
// when something still runs by then. Every call waits.
func (l *Life) End(ctx context.Context, cause error) error {
	select {
	case <-l.ended(cause):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Stopping reports whether End was called.
func (l *Life) Stopping() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stopped
}

func (l *Life) ended(cause error) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopped = true
	if l.cancel != nil {
		l.cancel(cause)
	}
	if l.joined == nil {
		joined := make(chan struct{})
		l.joined = joined
		go func() { // joined by whoever reads the channel
			l.running.Wait()
			close(joined)
		}()
	}
	return l.joined
}
