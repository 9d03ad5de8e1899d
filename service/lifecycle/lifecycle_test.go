// SPDX-License-Identifier: GPL-3.0-or-later

package lifecycle

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errTest = errors.New("the test is over")

func TestStopJoinsWhatRuns(t *testing.T) {
	var l Life
	require.True(t, l.Begin())
	var cause error
	require.True(t, l.Go(func(ctx context.Context) {
		<-ctx.Done()
		cause = context.Cause(ctx)
	}))
	require.False(t, l.Stopping())
	require.NoError(t, l.End(t.Context(), errTest))
	require.ErrorIs(t, cause, errTest, "the end has its cause, and was joined")
	require.True(t, l.Stopping())
	require.NoError(t, l.End(t.Context(), nil), "a second stop returns, too")
}

func TestOnlyTheFirstStartCounts(t *testing.T) {
	var l Life
	require.True(t, l.Begin())
	require.False(t, l.Begin())
	require.NoError(t, l.End(t.Context(), nil))
	require.False(t, l.Begin())
}

func TestAStopBeforeTheStart(t *testing.T) {
	var l Life
	require.False(t, l.Go(func(context.Context) { t.Error("it was never started") }))
	require.NoError(t, l.End(t.Context(), nil))
	require.False(t, l.Begin(), "it is over before it began")
	require.False(t, l.Go(func(context.Context) { t.Error("it was stopped") }))
}

func TestAStopWaitsNoLongerThanItsContext(t *testing.T) {
	var l Life
	require.True(t, l.Begin())
	release := make(chan struct{})
	l.Go(func(context.Context) { <-release })
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errTest)
	require.ErrorIs(t, l.End(ctx, nil), errTest)
	close(release)
	require.NoError(t, l.End(t.Context(), nil), "a later stop waits again")
}

func TestStartsAndStopsInAnyOrder(t *testing.T) {
	for range 200 {
		var l Life
		var begun atomic.Int32
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				if l.Begin() {
					begun.Add(1)
				}
				l.Go(func(ctx context.Context) { <-ctx.Done() })
			})
			all.Go(func() { require.NoError(t, l.End(t.Context(), nil)) })
		}
		all.Wait()
		require.LessOrEqual(t, begun.Load(), int32(1))
	}
}
