// SPDX-License-Identifier: GPL-3.0-or-later

package contain

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/llama-orch/llama-orch/service/task"
)

func logged() (*zap.Logger, *observer.ObservedLogs) {
	core, logs := observer.New(zapcore.DebugLevel)
	return zap.New(core), logs
}

func stumble() { panic("a stone: " + strings.Repeat("x", 2*maxText)) }

// LO-803: a panic becomes one line, with what it said and where it was, and an error of the kind INTERNAL.
func TestAPanicIsLoggedAndTyped(t *testing.T) {
	log, logs := logged()
	err := Do(log, "the walk panicked", stumble, zap.String("pool_id", "p"))
	require.True(t, task.HasCode(err, task.Internal))
	caught, ok := errors.AsType[*PanicError](err)
	require.True(t, ok)
	require.Contains(t, caught.Error(), "a stone")
	require.NotContains(t, task.AsError(err).Message, "stone", "that is for the log")
	require.Equal(t, 1, logs.Len())
	line := logs.All()[0]
	require.Equal(t, "the walk panicked", line.Message)
	require.Equal(t, "p", line.ContextMap()["pool_id"])
	require.Contains(t, line.ContextMap()["panic"], "a stone")
	require.Len(t, line.ContextMap()["panic"], maxText)
	require.Contains(t, line.ContextMap()["stack"], "contain.stumble")

	require.NoError(t, Do(log, "the walk panicked", func() {}))
	require.Equal(t, 1, logs.Len())
}

// LO-803: a panic that one goroutine passes on to another is logged with the stack of the first.
func TestAPanicIsPassedOnWithItsStack(t *testing.T) {
	_, err := Try(func() (int, error) { stumble(); return 1, nil })
	var caught *PanicError
	require.ErrorAs(t, err, &caught)
	log, logs := logged()
	require.Error(t, Do(log, "the walk panicked", func() { panic(fmt.Errorf("read: %w", err)) }))
	require.Contains(t, logs.All()[0].ContextMap()["stack"], "contain.stumble")
	require.Contains(t, logs.All()[0].ContextMap()["panic"], "a stone")

	n, err := Try(func() (int, error) { return 1, errStop })
	require.Equal(t, 1, n)
	require.ErrorIs(t, err, errStop)
}

var errStop = errors.New("stop")

// LO-803: a loop that panics begins anew, after waits that grow, and ends with its context.
func TestALoopBeginsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, logs := logged()
		begun, runs := time.Now(), 0
		Loop(t.Context(), log, "the loop panicked", func(context.Context) {
			if runs++; runs < 4 {
				panic("again")
			}
		})
		require.Equal(t, 4, runs)
		require.Equal(t, 3, logs.Len())
		require.Equal(t, 7*firstWait, time.Since(begun), "1 + 2 + 4 waits")

		runs, begun = 0, time.Now()
		Loop(t.Context(), log, "the loop panicked", func(context.Context) {
			if runs++; runs < 3 {
				time.Sleep(longRun)
				panic("once in a while")
			}
		})
		require.Equal(t, 2*(longRun+firstWait), time.Since(begun), "it ran well meanwhile")

		ctx, stop := context.WithCancelCause(t.Context())
		runs = 0
		Loop(ctx, log, "the loop panicked", func(context.Context) {
			if runs++; runs == 20 {
				stop(errStop)
			}
			panic("always")
		})
		require.Equal(t, 20, runs)
	})
}
