// SPDX-License-Identifier: GPL-3.0-or-later

package sdk

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/http"
	"time"
)

// The defaults of Patience.
const (
	defaultTries = 10
	defaultTime  = 5 * time.Minute
)

// The waits of Backoff where the server has no figure.
const (
	firstWait = 250 * time.Millisecond
	longWait  = 30 * time.Second
)

// Patience bounds Backoff. Its zero value has the defaults.
type Patience struct {
	Tries int           // calls at most. Default 10
	Time  time.Duration // waits at most, all together. Default 5 min
	// Repeatable says that the call may be made twice without harm, as a Submit with a TaskID may: it is also made again where its answer was lost.
	Repeatable bool
	// OnWait, if set, is called before each wait.
	OnWait func(cause error, wait time.Duration)
}

// Backoff makes a call until the server takes it (LO-904). It waits as long as the server says (Retry-After), and where it does not say, twice as long each time. It
// tries again what was refused for now, with 429 or 503, and what never reached the server. The last error is returned as it came: when it is another one, when the
// tries are used up, or at once when the wait would pass the bound on time.
func Backoff[T any](ctx context.Context, p Patience, call func(context.Context) (T, error)) (T, error) {
	if p.Tries <= 0 {
		p.Tries = defaultTries
	}
	if p.Time <= 0 {
		p.Time = defaultTime
	}
	waits := delays{mean: firstWait, most: longWait}
	for try := 1; ; try++ {
		out, err := call(ctx)
		if err == nil {
			return out, nil
		}
		wait, again := refusedForNow(err, p.Repeatable)
		if !again || try == p.Tries || ctx.Err() != nil {
			return out, err
		}
		if wait == 0 {
			wait = waits.next()
		}
		if p.Time -= wait; p.Time < 0 {
			return out, err
		}
		if p.OnWait != nil {
			p.OnWait(err, wait)
		}
		if sleep(ctx, wait) != nil {
			return out, err
		}
	}
}

// delays are waits that double, with jitter: each is between a half and one and a half of its mean.
type delays struct{ mean, most time.Duration }

func (d *delays) next() time.Duration {
	wait := d.mean/2 + rand.N(d.mean+1) //nolint:gosec // clients are to spread, and not to surprise
	d.mean = min(2*d.mean, d.most)
	return wait
}

// refusedForNow reports whether a call may be made again, and after which wait; 0: the server did not say.
func refusedForNow(err error, repeatable bool) (time.Duration, bool) {
	if repeatable {
		return passing(err)
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.RetryAfter, e.Retriable && (e.Status == http.StatusTooManyRequests || e.Status == http.StatusServiceUnavailable)
	}
	// A connection that was not made carried nothing.
	_, unreachable := errors.AsType[*UnreachableError](err)
	dial, ok := errors.AsType[*net.OpError](err)
	return 0, unreachable && ok && dial.Op == "dial"
}
