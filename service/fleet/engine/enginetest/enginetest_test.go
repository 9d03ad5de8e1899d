// SPDX-License-Identifier: GPL-3.0-or-later

package enginetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/task"
)

// small is the smallest engine there can be: it has no faces, and a token is a word.
type small struct {
	ctx  int
	dead atomic.Bool
}

var errDead = errors.New("the engine was killed")

func (s *small) reset() error { return task.Errorf(task.WorkerReset, "%s", errDead).Retry(0) }

func (s *small) Health(context.Context) error {
	if s.dead.Load() {
		return s.reset()
	}
	return nil
}

func (s *small) Props(context.Context) (engine.Props, error) {
	return engine.Props{Build: "small", Ctx: s.ctx, Slots: 1}, nil
}

func (s *small) Generate(ctx context.Context, job engine.Job, emit func(task.Piece) error) (engine.Result, error) {
	r := engine.Result{TokensIn: len(strings.Fields(job.Prompt)), Finish: task.FinishLength}
	room := s.ctx - r.TokensIn
	if room <= 0 {
		return r, task.Errorf(task.InvalidParams, "the prompt is too long")
	}
	if job.MaxTokens > 0 {
		room = min(room, job.MaxTokens)
	}
	text, sent := "", 0
	for i := range room {
		text += fmt.Sprintf("w%d-%d-%d ", job.Seed, len(job.Prompt), i)
		r.TokensOut++
		for _, stop := range job.Sampling.Stop {
			if before, _, found := strings.Cut(text, stop); found {
				r.Finish = task.FinishStop
				if before = before[min(sent, len(before)):]; before != "" {
					return r, emit(task.TextPiece(before))
				}
				return r, nil
			}
		}
		held := len(text) // with stop strings nothing goes out before the end: it might be the beginning of one
		if len(job.Sampling.Stop) > 0 {
			held = sent
		}
		if held > sent {
			if err := emit(task.TextPiece(text[sent:held])); err != nil {
				return r, err
			}
			sent = held
		}
		if s.dead.Load() {
			return r, s.reset()
		}
		if ctx.Err() != nil {
			return r, context.Cause(ctx)
		}
	}
	if sent < len(text) {
		return r, emit(task.TextPiece(text[sent:]))
	}
	return r, nil
}

// An engine needs no faces to keep its promises.
//
// ORCH-3054
func TestTheSmallestEnginePasses(t *testing.T) {
	Run(t, Options{Ctx: 64, Launch: func(testing.TB, task.Workload, bool) Replica {
		e := &small{ctx: 64}
		return Replica{Engine: e, Kill: func() error { e.dead.Store(true); return nil }}
	}})
}
