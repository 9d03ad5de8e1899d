// SPDX-License-Identifier: GPL-3.0-or-later

package sqlite

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/record/bundle"
	"github.com/llama-orch/llama-orch/service/task"
)

// BenchmarkTask is a short task's whole record, where a slot is free: an accept with its start, and an end, by callers that share commits. The disk's
// fsync is left out, so that what is seen is the processor's time.
func BenchmarkTask(b *testing.B) {
	tokens := strings.SplitAfter(strings.Repeat("four ", 64), " ")
	for _, callers := range []int{1, 8} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			l := open(b, Options{offhand: true, Bundles: &bundle.Keep{}})
			var last atomic.Uint64
			b.ReportAllocs()
			b.SetParallelism(max(callers/2, 1))
			begun := processorTime(b)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					r := ended(sample(last.Add(1)), task.Completed, tokens...)
					err := l.AcceptRunning(context.Background(), r.Task, dispatched(r.Task))
					if err = errors.Join(err, l.Finish(context.Background(), r)); err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.ReportMetric(float64((processorTime(b)-begun).Microseconds())/float64(b.N), "cpu-µs/op")
			b.ReportMetric(float64(b.N)/testutil.ToFloat64(l.metrics.Commits), "tasks/commit")
		})
	}
}

// processorTime is what this process has used so far. On a machine that does other things as well it says more than the clock.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
