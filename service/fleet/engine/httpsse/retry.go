// SPDX-License-Identifier: GPL-3.0-or-later

package httpsse

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Retry says how often a request is sent again that the engine has not taken: it answered 429 or 503, or refused the connection. Nothing
// of an answer has come by then (LO-455). The zero value has the defaults.
type Retry struct {
	Tries int           // all together; default 3
	Wait  time.Duration // before the second one; it doubles from try to try; default 100 ms
	// Most is the longest wait, default 2 s. An engine that asks for a longer one is not asked again: another replica may be faster.
	Most time.Duration
	// Sleep waits; nil: by the clock.
	Sleep func(ctx context.Context, d time.Duration) error
}

const (
	defaultTries = 3
	defaultWait  = 100 * time.Millisecond
	defaultMost  = 2 * time.Second
)

// next is how long to wait behind try number n, which failed with err, and false where there is no other try.
func (r *Retry) next(n int, err error) (wait time.Duration, again bool) {
	if r == nil || err == nil || n >= cmp.Or(r.Tries, defaultTries) {
		return 0, false
	}
	most := cmp.Or(r.Most, defaultMost)
	wait = min(cmp.Or(r.Wait, defaultWait)<<(n-1), most)
	wait = wait/2 + rand.N(wait/2+1) //nolint:gosec // clients that were refused together must not come back together
	status, answered := errors.AsType[*StatusError](err)
	switch {
	case !answered:
		return wait, errors.Is(err, syscall.ECONNREFUSED)
	case status.Status != http.StatusTooManyRequests && status.Status != http.StatusServiceUnavailable:
		return 0, false
	}
	return max(wait, status.After), status.After <= most
}

func (r *Retry) sleep(ctx context.Context, d time.Duration) error {
	if r.Sleep != nil {
		return r.Sleep(ctx, d)
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// longestAfter bounds what an engine may ask for.
const longestAfter = time.Hour

// retryAfter reads the header: seconds, or a date.
func retryAfter(h http.Header) time.Duration {
	text := strings.TrimSpace(h.Get("Retry-After"))
	var after time.Duration
	if seconds, err := strconv.ParseFloat(text, 64); err == nil && seconds > 0 {
		after = time.Duration(min(seconds, longestAfter.Seconds()) * float64(time.Second))
	} else if at, err := http.ParseTime(text); err == nil {
		after = time.Until(at)
	}
	return min(max(after, 0), longestAfter)
}
