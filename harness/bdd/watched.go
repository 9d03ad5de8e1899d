// SPDX-License-Identifier: GPL-3.0-or-later

package bdd

import (
	"fmt"
	"sync"
	"time"
)

// patience bounds every wait. It is long, because a busy machine is no failure: waits end with what they wait for.
const patience = 30 * time.Second

// watched is state that one goroutine changes and others wait for.
type watched struct {
	mu      sync.Mutex
	changed chan struct{} // closed and replaced at every change; nil until somebody waits
}

func (w *watched) update(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
	if w.changed != nil {
		close(w.changed)
		w.changed = nil
	}
}

// look reads the state under its lock.
func (w *watched) look(read func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	read()
}

// await returns once ok, called under the lock, holds. What is for the error.
func (w *watched) await(what string, ok func() bool) error {
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		w.mu.Lock()
		if ok() {
			w.mu.Unlock()
			return nil
		}
		if w.changed == nil {
			w.changed = make(chan struct{})
		}
		changed := w.changed
		w.mu.Unlock()
		select {
		case <-changed:
		case <-timeout.C:
			return fmt.Errorf("waited %s in vain for %s", patience, what)
		}
	}
}

// poll asks until try succeeds; for what can only be asked. The last error is the reason when it never does.
func poll(what string, try func() error) error {
	deadline := time.Now().Add(patience)
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waited %s in vain for %s: %w", patience, what, err)
		}
		<-ticker.C
	}
}
