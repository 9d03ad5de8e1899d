// SPDX-License-Identifier: GPL-3.0-or-later

package guard

import (
	"context"
	"errors"
	"iter"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/sdk"
	"github.com/llama-orch/llama-orch/utils/llm"
)

// speaker says its words one after the other, with a wait before each.
type speaker struct {
	words []string
	wait  time.Duration
	asked []*sdk.TaskRequest
	left  bool // somebody stopped listening
	took  *float64
}

func (s *speaker) Run(ctx context.Context, r *sdk.TaskRequest) iter.Seq2[sdk.Event, error] {
	return func(yield func(sdk.Event, error) bool) {
		s.asked = append(s.asked, r)
		if !yield(sdk.Started{TaskID: "t"}, nil) {
			return
		}
		for _, word := range s.words {
			select {
			case <-time.After(s.wait):
			case <-ctx.Done():
				yield(nil, ctx.Err())
				return
			}
			if !yield(sdk.Token{Text: word}, nil) {
				s.left = true
				return
			}
		}
		yield(sdk.End{TokensIn: 5, TokensOut: len(s.words), EnergyJ: s.took}, nil)
	}
}

// LO-919
func TestACallerIsHeldToBudgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &speaker{words: []string{"a", "b", "c"}}
		g := New(Rules{Calls: 2, Tokens: 20})
		guarded := g.Caller(s)
		answer, err := llm.Invoke(t.Context(), guarded, &sdk.TaskRequest{})
		require.NoError(t, err)
		require.Equal(t, "abc", answer.Text)
		_, tokens := g.Used()
		require.EqualValues(t, 8, tokens, "in and out, and none twice")
		s.words = strings.Split(strings.Repeat("x", 30), "")
		_, err = llm.Invoke(t.Context(), guarded, &sdk.TaskRequest{})
		refuses(t, err, Tokens, "21 tokens are used, of 20")
		require.True(t, s.left, "the task was left in the middle, and so canceled")
		_, err = llm.Invoke(t.Context(), guarded, &sdk.TaskRequest{})
		refuses(t, err, Calls, "all 2 calls are used")
		require.Len(t, s.asked, 2, "what is refused is not sent")

		slow := &speaker{words: []string{"a", "b", "c"}, wait: time.Second}
		_, err = llm.Invoke(t.Context(), New(Rules{Time: 2500 * time.Millisecond}).Caller(slow), &sdk.TaskRequest{})
		refuses(t, err, Time, "2.5s is over")
		ctx, stop := context.WithTimeout(t.Context(), time.Second/2)
		defer stop()
		_, err = llm.Invoke(ctx, New(Rules{Time: time.Minute}).Caller(slow), &sdk.TaskRequest{})
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

// LO-627: the call after the one that passes the budget is refused; what the server does not know counts as nothing.
func TestACallerIsHeldToABudgetOfJoules(t *testing.T) {
	took := 60.0
	s := &speaker{words: []string{"a"}, took: &took}
	guarded := New(Rules{Joules: 100}).Caller(s)
	for range 2 {
		_, err := llm.Invoke(t.Context(), guarded, &sdk.TaskRequest{})
		require.NoError(t, err)
	}
	_, err := llm.Invoke(t.Context(), guarded, &sdk.TaskRequest{})
	refuses(t, err, Joules, "120.0 joules are used, of 100")
	s.took = nil
	guarded = New(Rules{Joules: 0.1}).Caller(s)
	for range 3 {
		_, err = llm.Invoke(t.Context(), guarded, &sdk.TaskRequest{})
		require.NoError(t, err)
	}
}

// LO-919
func TestAnAnswerIsCheckedWithOneRetry(t *testing.T) {
	short := func(a *llm.Answer) error {
		if len(a.Text) > 2 {
			return errors.New("it is too long")
		}
		return nil
	}
	s := &speaker{words: []string{"a", "b", "c"}}
	request := &sdk.TaskRequest{Messages: []sdk.Message{sdk.Say(sdk.RoleUser, "x")}}
	_, err := Checked(t.Context(), s, request, short)
	refuses(t, err, Answer, "it is too long")
	require.Len(t, s.asked, 2)
	require.Equal(t, "That will not do: it is too long. Answer again.", s.asked[1].Messages[2].Content.Text)
	require.Len(t, request.Messages, 1)
	s.words = []string{"ok"}
	answer, err := Checked(t.Context(), s, &sdk.TaskRequest{Prompt: "x"}, short)
	require.NoError(t, err)
	require.Equal(t, "ok", answer.Text)
}
