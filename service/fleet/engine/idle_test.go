// SPDX-License-Identifier: GPL-3.0-or-later

package engine_test

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
)

// held is a slot of an engine, beside another one that somebody else holds.
type held struct {
	e    engine.Engine
	lost chan struct{}
}

func (h held) Engine() engine.Engine { return h.e }
func (h held) Others() int           { return 1 }
func (h held) Lost() <-chan struct{} { return h.lost }

// counting is an engine that answers by the time that has passed.
type counting struct {
	engine.Engine
	began time.Time
	busy  func(since time.Duration) (int, error)
}

func (c counting) Busy(context.Context) (int, error) { return c.busy(time.Since(c.began)) }

// ORCH-3026, LO-839: the slot is idle, or the worker is gone, or nobody could ask; else the worker is to be replaced.
func TestAwaitIdle(t *testing.T) {
	const within = 2 * time.Second
	short := fmt.Errorf("dial: %w", syscall.EMFILE)
	for name, c := range map[string]struct {
		busy  func(since time.Duration) (int, error)
		lost  time.Duration // 0: it is not
		idle  bool
		after time.Duration
	}{
		"idle":            {busy: func(time.Duration) (int, error) { return 1, nil }, idle: true},
		"soon":            {busy: func(since time.Duration) (int, error) { return 2 - int(since/time.Second), nil }, idle: true, after: time.Second},
		"stuck":           {busy: func(time.Duration) (int, error) { return 2, nil }, after: within},
		"silent":          {busy: func(time.Duration) (int, error) { return 0, errors.New("reset") }, after: within},
		"gone":            {busy: func(time.Duration) (int, error) { return 2, nil }, lost: time.Second, idle: true, after: time.Second},
		"never asked":     {busy: func(time.Duration) (int, error) { return 0, short }, idle: true, after: within},
		"asked at last":   {busy: func(since time.Duration) (int, error) { return 2, map[bool]error{true: short}[since < time.Second] }, after: within},
		"asked no longer": {busy: func(since time.Duration) (int, error) { return 2, map[bool]error{true: short}[since > time.Second] }, idle: true, after: within},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := held{counting{began: time.Now(), busy: c.busy}, make(chan struct{})}
				if c.lost > 0 {
					time.AfterFunc(c.lost, func() { close(h.lost) })
				}
				began := time.Now()
				require.Equal(t, c.idle, engine.AwaitIdle(h, within))
				require.InDelta(t, c.after, time.Since(began), float64(10*time.Millisecond))
			})
		})
	}
	synctest.Test(t, func(t *testing.T) { // somebody may wait for the slot
		began := time.Now()
		next := counting{began: began, busy: func(since time.Duration) (int, error) {
			return map[bool]int{true: 2, false: 1}[since < time.Millisecond], nil
		}}
		require.True(t, engine.AwaitIdle(held{next, make(chan struct{})}, within))
		require.Equal(t, time.Millisecond, time.Since(began), "an engine that notices at its next token is not asked long after")
	})
	require.True(t, engine.AwaitIdle(held{}, within), "it stops when its connection is closed")
}

// answering is an engine that is healthy by the time that has passed.
type answering struct {
	engine.Engine
	began  time.Time
	health func(ctx context.Context, since time.Duration) error
}

func (a answering) Health(ctx context.Context) error { return a.health(ctx, time.Since(a.began)) }

// LO-203: the wait ends when the engine answers, or is gone, or nobody wants to know any more; a question that is not answered is asked anew.
func TestAwaitAnswer(t *testing.T) {
	errDown := errors.New("connection refused")
	up := func(at time.Duration) func(context.Context, time.Duration) error {
		return func(_ context.Context, since time.Duration) error { return map[bool]error{false: errDown}[since >= at] }
	}
	for name, c := range map[string]struct {
		health     func(context.Context, time.Duration) error
		lost, over time.Duration // 0: never
		after      time.Duration
	}{
		"at once":  {health: up(0)},
		"soon":     {health: up(time.Minute), after: time.Minute},
		"gone":     {health: up(time.Hour), lost: time.Minute, after: time.Minute},
		"stopped":  {health: up(time.Hour), over: time.Minute, after: time.Minute},
		"it hangs": {health: hangs(3 * time.Second), after: 4 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := held{answering{began: time.Now(), health: c.health}, make(chan struct{})}
				ctx, stop := context.WithCancel(t.Context())
				defer stop()
				if c.lost > 0 {
					time.AfterFunc(c.lost, func() { close(h.lost) })
				}
				if c.over > 0 {
					time.AfterFunc(c.over, stop)
				}
				began := time.Now()
				engine.AwaitAnswer(ctx, h, 2*time.Second)
				require.InDelta(t, c.after, time.Since(began), float64(100*time.Millisecond))
			})
		})
	}
}

// hangs is an engine that lets a question wait until a time has passed.
func hangs(until time.Duration) func(context.Context, time.Duration) error {
	return func(ctx context.Context, since time.Duration) error {
		if since >= until {
			return nil
		}
		<-ctx.Done()
		return context.Cause(ctx)
	}
}
