// SPDX-License-Identifier: GPL-3.0-or-later

package pool

import "time"

// Clock is where the time comes from.
type Clock interface {
	Now() time.Time
	// Until returns a channel that yields once it is that late, and what gives the wait up.
	Until(at time.Time) (<-chan time.Time, func())
}

// systemClock is the machine's own.
type systemClock struct{}

func (systemClock) Now() time.Time { return time.Now() }

func (systemClock) Until(at time.Time) (<-chan time.Time, func()) {
	t := time.NewTimer(time.Until(at))
	return t.C, func() { t.Stop() }
}
