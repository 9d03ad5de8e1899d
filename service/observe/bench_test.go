// SPDX-License-Identifier: GPL-3.0-or-later

package observe_test

import (
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/observe"
	"github.com/llama-orch/llama-orch/service/task"
)

// BenchmarkNarration is what the log costs a task: the four lines of one that completes.
// ORCH-3300
func BenchmarkNarration(b *testing.B) {
	log, err := observe.NewLogger(observe.Options{Out: io.Discard, Redactor: observe.NewRedactor("the-right-token-1234")})
	require.NoError(b, err)
	n, j := observe.NewNarrator(log.Named("scheduler")), aJob
	b.ReportAllocs()
	for b.Loop() {
		n.Admitted(j)
		n.Placed(j, 2*time.Millisecond, 2)
		n.StreamStarted(j, 12*time.Millisecond)
		n.StreamEnded(j, "")
	}
}

// BenchmarkNarrationOff is the same where the log's level keeps the lines out.
// ORCH-3300
func BenchmarkNarrationOff(b *testing.B) {
	log, err := observe.NewLogger(observe.Options{Out: io.Discard, Level: "warn"})
	require.NoError(b, err)
	n, j := observe.NewNarrator(log), aJob
	b.ReportAllocs()
	for b.Loop() {
		n.Admitted(j)
		n.StreamEnded(j, "")
	}
}

// BenchmarkLine is one line of the log, without what a narrator adds.
func BenchmarkLine(b *testing.B) {
	log, err := observe.NewLogger(observe.Options{Out: io.Discard, Redactor: observe.NewRedactor("the-right-token-1234")})
	require.NoError(b, err)
	fields := append(aJob.Fields(), zap.String("code", string(task.Canceled)))
	b.ReportAllocs()
	for b.Loop() {
		log.Info("a line about a task", fields...)
	}
}
