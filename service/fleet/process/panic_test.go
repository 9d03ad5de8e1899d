// SPDX-License-Identifier: GPL-3.0-or-later

package process

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// LO-803: where whoever is told of a process's end panics, the process is reaped all the same, and how it died is known.
func TestAPanicOfWhoIsToldOfTheEnd(t *testing.T) {
	core, logs := observer.New(zap.ErrorLevel)
	l := started(t, t.TempDir())
	p, err := l.Spawn(shell("exit 3"), func() { panic("index out of range") }, zap.New(core))
	require.NoError(t, err)
	p.Settle(time.Hour)
	p.End(t.Context(), 0)
	require.Equal(t, 3, p.Death().ExitCode)
	require.True(t, p.gone)
	require.Equal(t, 1, logs.FilterMessageSnippet("the end of a worker's process panicked").Len())
	require.Contains(t, logs.All()[0].ContextMap()["panic"], "index out of range")
}

// wrong is a log that cannot take a line of a worker that says this.
type wrong struct {
	zapcore.Core
	word string
}

func (w wrong) Check(e zapcore.Entry, c *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	return c.AddCore(e, w)
}

func (w wrong) Write(e zapcore.Entry, fields []zapcore.Field) error {
	if slices.ContainsFunc(fields, func(f zapcore.Field) bool { return f.Key == "line" && strings.Contains(f.String, w.word) }) {
		panic("the line is wrong")
	}
	return w.Core.Write(e, fields)
}

// LO-803: a panic in the reading of a line costs that line alone.
func TestAPanicInTheReadingOfALine(t *testing.T) {
	core, logs := observer.New(zap.DebugLevel)
	l := started(t, t.TempDir())
	p, err := l.Spawn(shell("echo good; echo bad; echo better"), func() {}, zap.New(wrong{core, "bad"}))
	require.NoError(t, err)
	p.Settle(time.Hour)
	p.End(t.Context(), 0)
	require.Contains(t, p.Tail(), "better")
	require.Equal(t, 2, logs.FilterMessage("worker output").Len())
	require.Equal(t, 1, logs.FilterMessageSnippet("reading a line of a worker panicked").Len())
}

// LO-803: a start that panics fails. The thread that starts processes stays, and with it those that run.
func TestAPanicOfAStart(t *testing.T) {
	core, logs := observer.New(zap.ErrorLevel)
	l := New(Options{Log: zap.New(core)})
	require.NoError(t, l.Start(t.Context()))
	t.Cleanup(func() { require.NoError(t, l.Stop(context.Background())) })
	runs, err := l.Spawn(shell("echo '{\"listening\":\"here\"}'; read line; exit 7"), func() {}, zap.NewNop())
	require.NoError(t, err)
	require.Equal(t, "here", <-runs.Announced())
	require.ErrorContains(t, l.start(nil), "INTERNAL")
	require.Equal(t, 1, logs.FilterMessage(stumbled).Len())
	more, err := l.Spawn(shell("exit 0"), func() {}, zap.NewNop())
	require.NoError(t, err)
	more.Settle(time.Hour)
	more.End(t.Context(), 0)
	require.NoError(t, runs.stdin.Close())
	runs.Settle(time.Hour)
	runs.End(t.Context(), 0)
	require.Equal(t, 7, runs.Death().ExitCode, "nobody killed it")
}
