// SPDX-License-Identifier: GPL-3.0-or-later

package control

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/contain"
	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/task"
)

// counter is an engine that counts tokens after a while. Below 0: never.
type counter struct {
	engine.Engine
	takes time.Duration
	err   error

	mu    sync.Mutex
	asked int
}

func (c *counter) CountTokens(ctx context.Context, _ string) (int, error) {
	c.mu.Lock()
	c.asked++
	c.mu.Unlock()
	if c.takes < 0 {
		<-ctx.Done()
		return 0, ctx.Err()
	}
	select {
	case <-time.After(c.takes):
		return 7, c.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// LO-843: what a submit waits for when some of a pool's engines hang. Time is virtual.
func TestASubmitDoesNotWaitForAnEngineThatHangs(t *testing.T) {
	lost := task.Errorf(task.WorkerReset, "it broke off")
	for name, c := range map[string]struct {
		engines []*counter
		took    []time.Duration // of calls one after the other
		says    task.Code       // empty: an answer
	}{
		"all well":                     {[]*counter{{takes: time.Millisecond}, {takes: -1}}, []time.Duration{time.Millisecond, time.Millisecond}, ""},
		"the first hangs":              {[]*counter{{takes: -1}, {takes: time.Millisecond}}, []time.Duration{151 * time.Millisecond, time.Millisecond}, ""},
		"two of three hang":            {[]*counter{{takes: -1}, {takes: -1}, {takes: time.Millisecond}}, []time.Duration{301 * time.Millisecond, time.Millisecond}, ""},
		"all hang":                     {[]*counter{{takes: -1}, {takes: -1}}, []time.Duration{2 * time.Second, 2 * time.Second}, task.WorkerReset},
		"the only one is slow":         {[]*counter{{takes: time.Second}}, []time.Duration{time.Second, time.Second}, ""},
		"one is slow, one hangs":       {[]*counter{{takes: time.Second}, {takes: -1}}, []time.Duration{time.Second, time.Second}, ""},
		"the first is gone":            {[]*counter{{err: lost}, {takes: time.Millisecond}}, []time.Duration{time.Millisecond, time.Millisecond}, ""},
		"all are gone":                 {[]*counter{{err: lost}, {err: lost}}, []time.Duration{0, 0}, task.WorkerReset},
		"a refusal is not asked again": {[]*counter{{err: task.Errorf(task.InvalidParams, "no")}, {}}, []time.Duration{0, 0}, task.InvalidParams},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := asking{slow: &slowness{}, now: time.Now}
				for _, e := range c.engines {
					a.engines = append(a.engines, e)
				}
				for _, took := range c.took {
					began := time.Now()
					n, err := a.CountTokens(t.Context(), "prompt")
					require.Equal(t, took, time.Since(began))
					if c.says != "" {
						require.True(t, task.HasCode(err, c.says), "%v", err)
						continue
					}
					require.NoError(t, err)
					require.Equal(t, 7, n)
				}
			})
		})
	}
}

// CountChat takes as long as CountTokens.
func (c *counter) CountChat(ctx context.Context, _ []task.Message, _ *task.Chat) (int, error) {
	return c.CountTokens(ctx, "")
}

// LO-843: an engine has more time where it has more to read: llama-server makes a parser of each tool.
func TestMuchToReadTakesLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := asking{engines: []engine.Engine{&counter{takes: -1}}, slow: &slowness{}, now: time.Now}
		for _, c := range []struct {
			bytes, tools int
			took         time.Duration
		}{{1, 0, 2 * time.Second}, {3 << 20, 0, 5 * time.Second}, {1, 500, 7 * time.Second}} {
			began := time.Now()
			_, err := a.CountChat(t.Context(), []task.Message{{Role: task.RoleUser, Content: strings.Repeat("x", c.bytes)}}, &task.Chat{Tools: make([]task.Tool, c.tools)})
			require.True(t, task.HasCode(err, task.WorkerReset), "%v", err)
			require.Equal(t, c.took, time.Since(began))
		}
	})
}

// LO-843: an engine that was slow once is asked first again after a while, and a client that goes is noticed at once.
func TestASlowEngineIsForgivenAndAClientMayGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		once, other := &counter{takes: -1}, &counter{}
		a := asking{engines: []engine.Engine{once, other}, slow: &slowness{}, now: time.Now}
		_, err := a.CountTokens(t.Context(), "p")
		require.NoError(t, err)
		once.takes = 0
		_, err = a.CountTokens(t.Context(), "p")
		require.NoError(t, err)
		require.Equal(t, 1, once.asked)
		time.Sleep(slowIsAvoided)
		_, err = a.CountTokens(t.Context(), "p")
		require.NoError(t, err)
		require.Equal(t, 2, once.asked)
		require.Equal(t, 2, other.asked)

		once.takes, other.takes = -1, -1
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(50*time.Millisecond, func() { cancel(errors.New("the client went")) })
		began := time.Now()
		_, err = a.CountTokens(ctx, "p")
		require.ErrorContains(t, err, "the client went")
		require.Equal(t, 50*time.Millisecond, time.Since(began))
	})
}

// LO-803: a panic in what one engine is asked is the caller's, who can tell whose request it was. The others are joined.
func TestAPanicOfAnEngineIsTheCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := asking{engines: []engine.Engine{&counter{takes: -1}, stumbling{}}, slow: &slowness{}, now: time.Now}
		defer func() {
			caught := contain.Caught(recover())
			require.Equal(t, "panic: index out of range", caught.Error())
			require.Contains(t, string(caught.Stack), "stumbling")
		}()
		_, _ = a.CountTokens(t.Context(), "p")
	})
}

type stumbling struct{ engine.Engine }

func (stumbling) CountTokens(context.Context, string) (int, error) { panic("index out of range") }
