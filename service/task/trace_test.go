// SPDX-License-Identifier: GPL-3.0-or-later

package task_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

const traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

// LO-629: a header is read as W3C Trace Context says, and what is none is ignored.
func TestTraceparent(t *testing.T) {
	at, ok := task.ParseTraceparent(traceparent)
	require.True(t, ok)
	require.True(t, at.Sampled)
	require.Equal(t, traceparent, at.String())
	at, ok = task.ParseTraceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-02")
	require.True(t, ok)
	require.False(t, at.Sampled)
	_, ok = task.ParseTraceparent("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-will-be")
	require.True(t, ok, "a version of tomorrow may have more fields")
	for _, none := range []string{
		"", "00", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
		"ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
		"00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
		"00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01", "0x-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
	} {
		_, ok := task.ParseTraceparent(none)
		require.False(t, ok, none)
	}
}

// LO-628: a process that takes a task up finds its span again, by what the ledger has of the task.
func TestATasksTrace(t *testing.T) {
	of := task.Task{ID: "t", AcceptedAt: time.UnixMilli(1_800_000_000_123)}
	own, parent := of.Trace()
	require.Zero(t, parent)
	again := task.Task{ID: "t", AcceptedAt: time.UnixMilli(1_800_000_000_123).UTC()}
	same, _ := again.Trace()
	require.Equal(t, own, same)
	other := task.Task{ID: "t", AcceptedAt: time.UnixMilli(1_800_000_000_124)}
	differs, _ := other.Trace()
	require.NotEqual(t, own.TraceID, differs.TraceID, "an id may come again once its task is forgotten")

	of.Request.Traceparent = traceparent
	theirs, parent := of.Trace()
	want, _ := task.ParseTraceparent(traceparent)
	require.Equal(t, want.TraceID, theirs.TraceID)
	require.Equal(t, want.SpanID, parent)
	require.Equal(t, own.SpanID, theirs.SpanID)
}

func FuzzTraceparent(f *testing.F) {
	f.Add(traceparent)
	f.Fuzz(func(t *testing.T, text string) {
		if at, ok := task.ParseTraceparent(text); ok {
			again, ok := task.ParseTraceparent(at.String())
			require.True(t, ok)
			require.Equal(t, at, again)
		}
	})
}
