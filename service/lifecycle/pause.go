// SPDX-License-Identifier: GPL-3.0-or-later

package lifecycle

import (
	"context"
	"time"
)

// Pause waits for d, or until ctx ends. It reports whether the whole time passed.
func Pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
