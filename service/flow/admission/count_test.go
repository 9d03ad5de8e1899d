// SPDX-License-Identifier: GPL-3.0-or-later

package admission

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

func counted() task.Request {
	req := request()
	req.Prompt, req.Messages, req.MaxTokens = "", []task.Message{{Role: "user", Content: "two words"}}, 5
	return req
}

// LO-422: a count is of the prompt that the task would have, and makes no task.
func TestCount(t *testing.T) {
	d := &desk{pools: []Pool{facts().Pool}, ready: true}
	s, _ := open(d)
	n, err := NewCounter(s).Count(t.Context(), counted())
	require.NoError(t, err)
	require.Equal(t, 2, n, "of <user>two words, although so short a prompt with so short an answer fits in any case")
	require.Empty(t, d.enqueued)
}

// LO-422: what cannot be counted is refused with what to do.
func TestCountRefuses(t *testing.T) {
	other := counted()
	other.ModelRef = "other"
	long := counted()
	long.Messages = make([]task.Message, limits.Inputs+1)
	idle := facts().Pool
	idle.OnDemand, idle.Ready = true, false
	blind := facts().Pool
	blind.Faces.CountsTokens = false
	for name, c := range map[string]struct {
		pool Pool
		req  task.Request
		code task.Code
		says string
	}{
		"an unknown model":           {facts().Pool, other, task.ModelNotFound, "other"},
		"too many messages":          {facts().Pool, long, task.TooLarge, "messages"},
		"a model that is not loaded": {idle, counted(), task.PoolUnready, "is not loaded"},
		"an engine that cannot":      {blind, counted(), task.InvalidParams, "cannot count"},
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := open(&desk{pools: []Pool{c.pool}, ready: c.pool.Ready})
			_, err := NewCounter(s).Count(t.Context(), c.req)
			require.True(t, task.HasCode(err, c.code), "%v", err)
			require.ErrorContains(t, err, c.says)
			if c.code == task.PoolUnready {
				require.Equal(t, loadedSoon, task.AsError(err).RetryAfter)
			}
		})
	}
}

// slow is a line whose engine answers when it is let, and sees how many ask at once.
type slow struct {
	*desk
	let  chan struct{}
	mu   sync.Mutex
	open int // calls
	most int // that were open at once
}

func (s *slow) opens(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open += n
	s.most = max(s.most, s.open)
}

func (s *slow) Tokenizer(string) (Tokenizer, bool) { return s, true }

func (s *slow) ApplyTemplate(context.Context, []task.Message, *task.Chat) (string, error) {
	s.opens(1)
	<-s.let
	s.opens(-1)
	return "one two three", nil
}

func (s *slow) CountTokens(context.Context, string) (int, error) { return 3, nil }

// LO-422: dozens of counts at once ask the engine a few at a time, and one whose client goes lets go.
func TestABurstOfCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &slow{desk: &desk{pools: []Pool{facts().Pool}}, let: make(chan struct{})}
		s, _ := open(p.desk)
		s.o.Pools = p
		c := NewCounter(s)
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				n, err := c.Count(t.Context(), counted())
				if err != nil || n != 3 {
					t.Errorf("%d: %v", n, err)
				}
			})
		}
		synctest.Wait()
		p.mu.Lock()
		require.Equal(t, countsAtOnce, p.open)
		p.mu.Unlock()
		gone, leave := context.WithCancel(t.Context())
		leave()
		_, err := c.Count(gone, counted())
		require.ErrorIs(t, err, context.Canceled)
		close(p.let)
		all.Wait()
		require.Equal(t, countsAtOnce, p.most)
	})
}
