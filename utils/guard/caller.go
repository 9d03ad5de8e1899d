// SPDX-License-Identifier: GPL-3.0-or-later

package guard

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/llama-orch/llama-orch/sdk"
	"github.com/llama-orch/llama-orch/utils/llm"
)

// Caller holds a caller to the guard's budgets. A task that passes the budget of tokens or of time is canceled in the middle.
func (g *Guard) Caller(caller llm.Caller) llm.Caller { return guarded{guard: g, caller: caller} }

type guarded struct {
	guard  *Guard
	caller llm.Caller
}

// Run implements llm.Caller.
func (c guarded) Run(ctx context.Context, request *sdk.TaskRequest) iter.Seq2[sdk.Event, error] {
	return func(yield func(sdk.Event, error) bool) {
		g := c.guard
		if err := g.Call(); err != nil {
			yield(nil, err)
			return
		}
		within, stop := g.within(ctx)
		defer stop()
		var counted int64
		for event, err := range c.caller.Run(within, request) {
			if err == nil {
				var more int64
				switch e := event.(type) {
				case sdk.Token, sdk.Reasoning, sdk.ToolCall:
					more = 1
				case sdk.End:
					more = int64(e.TokensIn) + max(0, int64(e.TokensOut)-counted)
					if e.EnergyJ != nil {
						g.Burn(*e.EnergyJ)
					}
				}
				counted += more
				if over := g.Spend(more); over != nil {
					if _, ended := event.(sdk.End); !ended { // an answer that is there is given; the next call is refused
						err = over
					}
				}
			} else if ruled, ok := errors.AsType[*Error](context.Cause(within)); ok && errors.Is(err, context.DeadlineExceeded) {
				err = ruled
			}
			if err != nil {
				yield(nil, err)
				return
			}
			if !yield(event, nil) {
				return
			}
		}
	}
}

// within gives a context that ends with the budget of time.
func (g *Guard) within(ctx context.Context) (context.Context, context.CancelFunc) {
	if g.ends.IsZero() {
		return ctx, func() {}
	}
	return context.WithTimeoutCause(ctx, time.Until(g.ends), g.late())
}

// Checked asks, and holds the answer to checks. If one fails, the model is asked once more and told what was wrong; if one fails again, that is the error.
func Checked(ctx context.Context, caller llm.Caller, request *sdk.TaskRequest, checks ...func(*llm.Answer) error) (*llm.Answer, error) {
	own := *request
	for try := 1; ; try++ {
		turn := own
		answer, err := llm.Invoke(ctx, caller, &turn)
		if err != nil {
			return answer, err
		}
		var wrong error
		for _, check := range checks {
			wrong = errors.Join(wrong, check(answer))
		}
		if wrong == nil {
			return answer, nil
		}
		if try == 2 {
			return answer, &Error{Rule: Answer, Problem: "the answer fails its checks, also when the model was told why", Err: wrong}
		}
		complaint := fmt.Sprintf("That will not do: %v. Answer again.", wrong)
		own.TaskID = "" // another task
		if own.Prompt != "" {
			own.Prompt += answer.Text + "\n\n" + complaint + "\n\n"
		} else {
			own.Messages = append(slices.Clip(own.Messages), answer.Message(), sdk.Say(sdk.RoleUser, complaint))
		}
	}
}
