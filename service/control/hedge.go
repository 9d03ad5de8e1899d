// SPDX-License-Identifier: GPL-3.0-or-later

package control

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/llama-orch/llama-orch/service/awake"
	"github.com/llama-orch/llama-orch/service/contain"
	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/task"
)

// How long the engines of a pool have to read a prompt (LO-843): one alone, before the next is asked beside it, and all of them together. A slow
// one is asked last for a while; by then the health checks have found out whether it hangs.
const (
	askNextAfter  = 150 * time.Millisecond
	answerWithin  = 2 * time.Second
	slowIsAvoided = 30 * time.Second
	perMegabyte   = time.Second           // more, for each whole megabyte that they have to read
	perTool       = 10 * time.Millisecond // more, for each tool: llama-server makes a parser of them (2 to 3 ms each, measured with up to 1,000)
)

// asking asks the engines of a pool what only an engine knows. Of several it takes the first answer: replicas of one model read alike.
type asking struct {
	engines []engine.Engine
	slow    *slowness
	now     func() time.Time
}

func (a asking) ApplyTemplate(ctx context.Context, messages []task.Message, chat *task.Chat) (string, error) {
	return firstAnswer(ctx, a, timeFor(sizeOf(messages), chat), func(ctx context.Context, e engine.Templater) (string, error) {
		return e.ApplyTemplate(ctx, messages, chat)
	})
}

func (a asking) CountChat(ctx context.Context, messages []task.Message, chat *task.Chat) (int, error) {
	return firstAnswer(ctx, a, timeFor(sizeOf(messages), chat), func(ctx context.Context, e engine.ChatCounter) (int, error) { return e.CountChat(ctx, messages, chat) })
}

func (a asking) CountTokens(ctx context.Context, prompt string) (int, error) {
	return firstAnswer(ctx, a, timeFor(len(prompt), nil), func(ctx context.Context, e engine.TokenCounter) (int, error) { return e.CountTokens(ctx, prompt) })
}

// sizeOf is how many bytes messages bring.
func sizeOf(messages []task.Message) (bytes int) {
	for _, m := range messages {
		bytes += m.Bytes()
	}
	return bytes
}

// timeFor is how much longer than usual engines may take for so many bytes, and for a chat's tools.
func timeFor(bytes int, chat *task.Chat) time.Duration {
	more := time.Duration(bytes>>20) * perMegabyte
	if chat != nil {
		more += time.Duration(len(chat.Tools)) * perTool
	}
	return more
}

// reply is what one engine answered.
type reply[T any] struct {
	of     engine.Engine
	answer T
	err    error
}

// firstAnswer asks the engines that have the face, one after the other, and the next one beside those that do not answer soon. What is
// left unanswered is cut off. More is how much longer than usual they may take.
func firstAnswer[F, T any](ctx context.Context, a asking, more time.Duration, ask func(context.Context, F) (T, error)) (answer T, err error) {
	engines := a.slow.last(a.engines, a.now())
	engines = slices.DeleteFunc(engines, func(e engine.Engine) bool { _, ok := e.(F); return !ok })
	ctx, stop := awake.WithTimeout(ctx, answerWithin+more)
	replies := make(chan reply[T], len(engines))
	var asked sync.WaitGroup
	defer asked.Wait()
	defer stop() // the calls end with their context
	soon := time.NewTimer(askNextAfter + more)
	defer soon.Stop()
	var open []engine.Engine // were asked and have not answered
	next := func() {
		if len(engines) == 0 {
			return
		}
		e := engines[0]
		engines, open = engines[1:], append(open, e)
		asked.Go(func() {
			answer, err := contain.Try(func() (T, error) { return ask(ctx, e.(F)) }) // those without the face were left out
			replies <- reply[T]{e, answer, err}
		})
		soon.Reset(askNextAfter + more)
	}
	next()
	for len(open) > 0 {
		select {
		case <-soon.C:
			next()
		case r := <-replies:
			open = slices.DeleteFunc(open, func(e engine.Engine) bool { return e == r.of })
			if panicked, ok := errors.AsType[*contain.PanicError](r.err); ok {
				panic(panicked) // the caller is who can tell whose request it was
			}
			if r.err == nil || task.HasCode(r.err, task.InvalidParams) {
				if r.err == nil {
					a.slow.are(open, a.now())
				}
				return r.answer, r.err
			}
			err = r.err
			next()
		case <-ctx.Done():
			if errors.Is(context.Cause(ctx), context.DeadlineExceeded) { // else the client is gone, which tells nothing of the engines
				a.slow.are(open, a.now())
			}
			return answer, unanswered(context.Cause(ctx))
		}
	}
	return answer, unanswered(err)
}

func unanswered(err error) error {
	return task.Errorf(task.WorkerReset, "no engine of the pool answered").Retry(0).Because(err)
}

// slowness remembers engines that let somebody wait.
type slowness struct {
	mu    sync.Mutex
	until map[engine.Engine]time.Time
}

// are notes that the engines have not answered in time.
func (s *slowness) are(engines []engine.Engine, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for e, until := range s.until {
		if !now.Before(until) {
			delete(s.until, e)
		}
	}
	if s.until == nil {
		s.until = map[engine.Engine]time.Time{}
	}
	for _, e := range engines {
		s.until[e] = now.Add(slowIsAvoided)
	}
}

// last returns the engines in their order, but the slow ones behind the others.
func (s *slowness) last(engines []engine.Engine, now time.Time) []engine.Engine {
	s.mu.Lock()
	defer s.mu.Unlock()
	var quick, slow []engine.Engine
	for _, e := range engines {
		if until, known := s.until[e]; known && now.Before(until) {
			slow = append(slow, e)
		} else {
			quick = append(quick, e)
		}
	}
	return append(quick, slow...)
}
