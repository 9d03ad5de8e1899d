// SPDX-License-Identifier: GPL-3.0-or-later

package llm

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/llama-orch/llama-orch/sdk"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// script answers each request with events, or with an error behind some.
type script func(ctx context.Context, r *sdk.TaskRequest) []any

func (s script) Run(ctx context.Context, r *sdk.TaskRequest) iter.Seq2[sdk.Event, error] {
	return func(yield func(sdk.Event, error) bool) {
		for _, each := range s(ctx, r) {
			switch e := each.(type) {
			case error:
				yield(nil, e)
				return
			case sdk.Event:
				if !yield(e, nil) {
					return
				}
			}
		}
	}
}

func whole(context.Context, *sdk.TaskRequest) []any {
	calls := []sdk.Call{{ID: "c", Name: "look", Arguments: "{}"}}
	return []any{
		sdk.Started{TaskID: "t", Seed: 7},
		sdk.Reasoning{Text: "h"},
		sdk.Metrics{},
		sdk.Reasoning{Text: "m"},
		sdk.Token{Text: "so"},
		sdk.Token{Text: "ft"},
		sdk.ToolCall{CallID: "c", Name: "look", Arguments: "{}"},
		sdk.End{TokensIn: 3, TokensOut: 5, FinishReason: sdk.FinishReasonToolCalls, ToolCalls: calls, Receipt: sdk.Receipt{Seed: 7, Fingerprint: "f"}},
	}
}

// LO-914
func TestAnAnswerIsWhole(t *testing.T) {
	t.Parallel()
	var seen []string
	a, err := Stream(t.Context(), script(whole), &sdk.TaskRequest{}, func(e sdk.Event) error {
		seen = append(seen, strings.TrimPrefix(fmt.Sprintf("%T", e), "sdk."))
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, &Answer{
		TaskID: "t", Text: "soft", Reasoning: "hm", Calls: []sdk.Call{{ID: "c", Name: "look", Arguments: "{}"}}, Finish: sdk.FinishReasonToolCalls,
		TokensIn: 3, TokensOut: 5, Seed: 7, Receipt: sdk.Receipt{Seed: 7, Fingerprint: "f"},
	}, a)
	require.Equal(t, []string{"Started", "Reasoning", "Metrics", "Reasoning", "Token", "Token", "ToolCall", "End"}, seen)
	require.Equal(t, sdk.Said("soft", "hm", a.Calls), a.Message())
}

// A task that ends without an answer, a stream that breaks, one that is cut, and a reader that has enough: each is told as it is.
//
// LO-914
func TestWhatIsNoAnswerIsTold(t *testing.T) {
	t.Parallel()
	failed, broken, enough := &sdk.Error{Code: sdk.ErrorCodeDecodeTimeout}, errors.New("broken"), errors.New("enough")
	for want, said := range map[error][]any{
		failed: {sdk.Started{}, sdk.Token{Text: "a"}, sdk.ErrorEvent{Err: failed}},
		broken: {sdk.Started{}, sdk.Token{Text: "a"}, broken},
		ErrCut: {sdk.Started{}, sdk.Token{Text: "a"}},
	} {
		a, err := Invoke(t.Context(), script(func(context.Context, *sdk.TaskRequest) []any { return said }), &sdk.TaskRequest{})
		require.ErrorIs(t, err, want)
		require.Nil(t, a)
	}
	_, err := Stream(t.Context(), script(whole), &sdk.TaskRequest{}, func(e sdk.Event) error {
		if _, ok := e.(sdk.Token); ok {
			return enough
		}
		return nil
	})
	require.ErrorIs(t, err, enough)
}

// Many run at once, but no more than the bound; the answers come in the order of the requests, and one that fails leaves the others alone.
//
// LO-914
func TestManyKeepOrderAndBound(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var running, most atomic.Int64
		refused := &sdk.Error{Code: sdk.ErrorCodeModelNotFound}
		caller := script(func(ctx context.Context, r *sdk.TaskRequest) []any {
			if now := running.Add(1); now > most.Load() {
				most.Store(now)
			}
			defer running.Add(-1)
			select {
			case <-time.After(time.Duration(100-r.MaxTokens) * time.Second): // the later ones are quicker
			case <-ctx.Done():
				return []any{ctx.Err()}
			}
			if r.MaxTokens == 3 {
				return []any{refused}
			}
			return []any{sdk.Token{Text: r.Prompt}, sdk.End{}}
		})
		var requests []*sdk.TaskRequest
		for i := range 10 {
			requests = append(requests, &sdk.TaskRequest{Prompt: fmt.Sprint(i), MaxTokens: i})
		}
		answers, err := Many(t.Context(), caller, 4, requests)
		var part *PartError
		require.ErrorAs(t, err, &part)
		require.Equal(t, 3, part.Index)
		require.ErrorIs(t, err, refused)
		require.EqualValues(t, 4, most.Load())
		for i, a := range answers {
			if i == 3 {
				require.Nil(t, a)
				continue
			}
			require.Equal(t, fmt.Sprint(i), a.Text)
		}

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = Many(ctx, caller, 0, requests)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.EqualValues(t, DefaultBound, most.Load())
		answers, err = Many(t.Context(), caller, 4, nil)
		require.NoError(t, err)
		require.Empty(t, answers)
	})
}

// A task that is refused for now is sent again, with one id; what has begun, or is refused for good, is not.
//
// LO-914, LO-904
func TestPatientTriesAgain(t *testing.T) {
	t.Parallel()
	full := &sdk.Error{Status: 429, Code: sdk.ErrorCodeAdmissionReject, Retriable: true, RetryAfter: time.Second}
	unknown := &sdk.Error{Status: 404, Code: sdk.ErrorCodeModelNotFound}
	for name, test := range map[string]struct {
		says  [][]any // a run each
		calls int
		want  error
	}{
		"taken the third time": {[][]any{{full}, {full}, {sdk.Token{Text: "a"}, sdk.End{}}}, 3, nil},
		"refused for good":     {[][]any{{full}, {unknown}}, 2, unknown},
		"begun":                {[][]any{{sdk.Started{}, full}}, 1, full},
		"never taken":          {[][]any{{full}, {full}, {full}}, 3, full},
	} {
		synctest.Test(t, func(t *testing.T) {
			var ids []string
			caller := script(func(_ context.Context, r *sdk.TaskRequest) []any {
				ids = append(ids, r.TaskID)
				return test.says[len(ids)-1]
			})
			request := &sdk.TaskRequest{Prompt: "p"}
			a, err := Invoke(t.Context(), Patient(caller, sdk.Patience{Tries: 3}), request)
			require.Empty(t, request.TaskID)
			require.Len(t, ids, test.calls, name)
			require.NotEmpty(t, ids[0])
			for _, id := range ids {
				require.Equal(t, ids[0], id, "one task, whatever became of its answer")
			}
			require.ErrorIs(t, err, test.want, name)
			if test.want == nil {
				require.NoError(t, err)
				require.Equal(t, "a", a.Text)
			}
		})
	}
}
