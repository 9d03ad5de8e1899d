// SPDX-License-Identifier: GPL-3.0-or-later

// Package watch waits for states. A wait ends when its state is there, and is bounded by Patience.
package watch

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Patience bounds every wait. It is long, because a busy machine is no failure.
const Patience = time.Minute

// State is state that one goroutine changes and others wait for. Embed it beside what it guards.
type State struct {
	mu      sync.Mutex
	changed chan struct{} // closed and replaced at every change; nil until somebody waits
}

// Update changes the state.
func (s *State) Update(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

// Look reads the state.
func (s *State) Look(read func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	read()
}

// Until returns once ok, which may read the state, holds, or with the cause of ctx's end.
func (s *State) Until(ctx context.Context, ok func() bool) error {
	for {
		changed := s.next(ok)
		if changed == nil {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// next is closed with the next change; nil: ok holds already.
func (s *State) next(ok func() bool) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ok() {
		return nil
	}
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return s.changed
}

// Await returns once ok, which may read the state, holds. The error names what was waited for.
func (s *State) Await(what string, ok func() bool) error {
	return s.await(what, ok, Patience)
}

func (s *State) await(what string, ok func() bool, patience time.Duration) error {
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		changed := s.next(ok)
		if changed == nil {
			return nil
		}
		select {
		case <-changed:
		case <-timeout.C:
			return fmt.Errorf("waited %s in vain for %s", patience, what)
		}
	}
}

// Every is how often Poll tries.
const Every = 5 * time.Millisecond

// Poll tries until try succeeds. It is for what tells nobody of its changes. When try never succeeds, the error has try's last
// reason. Patience bounds it, and so does ctx.
func Poll(ctx context.Context, what string, try func() error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, Patience, fmt.Errorf("waited %s in vain", Patience))
	defer cancel()
	return Until(ctx, what, try)
}

// neverError is a reason for which more tries are in vain.
type neverError struct{ error }

// Never makes an error of try the end of the wait.
func Never(err error) error { return neverError{err} }

// Until is Poll for what may take longer: ctx alone bounds it.
func Until(ctx context.Context, what string, try func() error) error {
	ticker := time.NewTicker(Every)
	defer ticker.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		if never, ok := errors.AsType[neverError](err); ok {
			return never.error
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("%w for %s: %w", context.Cause(ctx), what, err)
		}
	}
}
