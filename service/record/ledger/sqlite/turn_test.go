// SPDX-License-Identifier: GPL-3.0-or-later

package sqlite

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// LO-635: a writer that hangs is found; one that cannot write, or has nothing to do, comes round.
func TestAWriterThatHangsIsFound(t *testing.T) {
	l := open(t, Options{})
	size := l.bytes()
	for range 3 {
		require.NoError(t, l.Turns(t.Context()))
	}
	require.InDelta(t, size, l.bytes(), 0, "nothing is written for it")
	full := errors.New("the disk is full")
	require.ErrorIs(t, l.submit(t.Context(), &op{kind: opProbe, run: func(*writer) error { return full }}), full)
	require.NoError(t, l.Turns(t.Context()))

	hangs, began, done := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() {
		done <- l.submit(t.Context(), &op{kind: opProbe, run: func(*writer) error { close(began); <-hangs; return nil }})
	}()
	<-began
	ctx, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer stop()
	require.ErrorContains(t, l.Turns(ctx), "the ledger does not turn")
	close(hangs)
	require.NoError(t, <-done)
	require.NoError(t, l.Turns(t.Context()))
	require.NoError(t, l.Close())
	require.NoError(t, l.Turns(t.Context()), "nothing has to turn any more")
}
