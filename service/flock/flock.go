// SPDX-License-Identifier: GPL-3.0-or-later

// Package flock takes a lock that one process alone can have.
package flock

import (
	"errors"
	"os"
	"syscall"
	"time"
)

const (
	// Patience is how long a lock is waited for. A process that was killed gives its locks back only when the kernel has taken it apart, which a busy
	// machine does later than its killer goes on.
	Patience = 2 * time.Second
	every    = 20 * time.Millisecond
)

// ErrHeld is the error of a lock that another process has.
var ErrHeld error = syscall.EWOULDBLOCK

// Take locks an open file or folder for as long as it is open. It waits for Patience at most, and then fails with ErrHeld.
func Take(f *os.File) error {
	for end := time.Now().Add(Patience); ; time.Sleep(every) {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case errors.Is(err, syscall.EINTR):
		case !errors.Is(err, ErrHeld) || time.Now().After(end):
			return err
		}
	}
}
