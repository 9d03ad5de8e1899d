// SPDX-License-Identifier: GPL-3.0-or-later

package delivery

import (
	"context"
	"time"

	"github.com/llama-orch/llama-orch/service/task"
)

// fakeStream plays steps: frames, or nil to wait for a tick.
type fakeStream struct {
	steps   [][]byte
	end     error // after the steps; nil: wait for the context
	metrics task.Metrics
	ended   bool
	last    bool // say so where the last step ends the stream
	written int
	closed  chan struct{}
}

func newFakeStream(end error, steps ...string) *fakeStream {
	s := &fakeStream{end: end, closed: make(chan struct{})}
	for _, step := range steps {
		s.steps = append(s.steps, []byte(step))
	}
	return s
}

func (s *fakeStream) Next(ctx context.Context, tick <-chan time.Time) ([]byte, error) {
	if len(s.steps) == 0 && s.end != nil {
		return nil, s.end
	}
	if len(s.steps) > 0 && len(s.steps[0]) > 0 {
		frames := s.steps[0]
		s.steps = s.steps[1:]
		return frames, nil
	}
	select {
	case <-tick:
		if tick != passed && len(s.steps) > 0 {
			s.steps = s.steps[1:]
		}
		return nil, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
func (s *fakeStream) Direct(func([]byte) bool)      {}
func (s *fakeStream) Written()                      { s.written++ }
func (s *fakeStream) Last() bool                    { return s.last && len(s.steps) == 0 }
func (s *fakeStream) Metrics() (task.Metrics, bool) { return s.metrics, !s.ended }
func (s *fakeStream) Close()                        { close(s.closed) }
