// SPDX-License-Identifier: GPL-3.0-or-later

package pool

import "time"

// Clock is where the time comes from.
type Clock interface {
	Now() time.Time
	// After returns a channel that yields once so much time has passed, and what gives the wait up.
	After(d time.Duration) (<-chan time.Time, func())
}

// systemClock is the machine's own.
type systemClock struct{}

func (systemClock) Now() time.Time { return time.Now() }

func (systemClock) After(d time.Duration) (<-chan time.Time, func()) {
	t := time.NewTimer(d)
	return t.C, func() { t.Stop() }
}
