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

// BenchmarkNarration is what the log costs a task: the four lines of one that completes. A line for a person costs no more than one of JSON; the tail of the
// lines is part of both.
//
// ORCH-3300, LO-620
func BenchmarkNarration(b *testing.B) {
	for name, style := range map[string]observe.Style{"json": {}, "console": {Console: true, Colour: true}} {
		b.Run(name, func(b *testing.B) {
			out := &counted{}
			log, err := observe.NewLogger(observe.Options{Out: out, Style: style, Redactor: observe.NewRedactor("the-right-token-1234"), Tail: observe.NewTail()})
			require.NoError(b, err)
			n, j := observe.NewNarrator(log.Named("scheduler")), aJob
			b.ReportAllocs()
			for b.Loop() {
				n.Admitted(j)
				n.Placed(j, 2*time.Millisecond, 2)
				n.StreamStarted(j, 12*time.Millisecond)
				n.StreamEnded(j, "")
			}
			b.ReportMetric(float64(out.bytes)/float64(b.N), "bytes/task")
		})
	}
}

type counted struct{ bytes int }

func (c *counted) Write(p []byte) (int, error) {
	c.bytes += len(p)
	return len(p), nil
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
