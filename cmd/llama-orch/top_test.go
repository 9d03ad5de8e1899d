// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/gen"
	"github.com/llama-orch/llama-orch/sdk"
)

// watched is the live view of a server, frame by frame.
type watched struct {
	frames chan string
	tick   chan time.Time
	done   chan error
	cancel context.CancelFunc
	server *httptest.Server
}

func watch(t *testing.T, d *daemon, height int) *watched {
	handler, err := gen.NewServer(d, d)
	require.NoError(t, err)
	w := &watched{frames: make(chan string, 8), tick: make(chan time.Time), done: make(chan error, 1), server: httptest.NewServer(handler)}
	t.Cleanup(w.server.Close)
	client, err := sdk.New(sdk.Options{Addr: w.server.URL})
	require.NoError(t, err)
	t.Cleanup(client.Close)
	ctx, cancel := context.WithCancel(t.Context())
	w.cancel = cancel
	a := &app{ctx: ctx, client: client, addr: w.server.URL, out: writerFunc(func(p []byte) (int, error) {
		w.frames <- string(p)
		return len(p), nil
	})}
	first, err := a.look()
	require.NoError(t, err)
	go func() { w.done <- a.watch(first, w.tick, func() int { return height }) }()
	return w
}

// ORCH-3049
func TestTopRedrawsAndLeavesTheTerminalAsItWas(t *testing.T) {
	t.Parallel()
	d := newDaemon()
	w := watch(t, d, 0)
	require.Equal(t, takeScreen, <-w.frames)
	frame := <-w.frames
	require.True(t, strings.HasPrefix(frame, "\x1b[Hhttp://"))
	require.Contains(t, frame, "2 pools")
	require.NotContains(t, strings.ReplaceAll(frame, "\x1b[K\r\n", ""), "\n", "each line clears what was behind it")
	require.True(t, strings.HasSuffix(frame, "\x1b[K\x1b[J"))

	w.tick <- time.Unix(1000, 0)
	require.Contains(t, <-w.frames, time.Unix(1000, 0).Format(timeLayout))

	w.server.Close()
	w.tick <- time.Unix(1001, 0)
	frame = <-w.frames
	require.Contains(t, frame, "what follows is old: no answer from http://")
	require.Contains(t, frame, "2 pools", "the last that is known stays")

	w.cancel()
	require.Equal(t, giveBack, <-w.frames)
	require.NoError(t, <-w.done, "Ctrl-C is how it is left")
}

// ORCH-3049
func TestTopFitsTheTerminal(t *testing.T) {
	t.Parallel()
	w := watch(t, newDaemon(), 3)
	<-w.frames
	require.Equal(t, 2, strings.Count(<-w.frames, "\r\n"))
	w.cancel()
	require.Equal(t, giveBack, <-w.frames)
	require.NoError(t, <-w.done)
}

// ORCH-3049
func TestTopWithoutAServer(t *testing.T) {
	t.Parallel()
	got := call(t.Context(), "http://127.0.0.1:1", "", "top")
	require.Equal(t, exitUnreachable, got.code)
	require.Empty(t, got.out)
}

// The live view undoes each of its terminal settings.
//
// ORCH-3049
func TestTheScreenIsGivenBack(t *testing.T) {
	t.Parallel()
	for _, setting := range []string{"?1049", "?25", "?7"} {
		require.Contains(t, takeScreen, setting)
		require.Contains(t, giveBack, setting)
	}
	a := &app{ctx: t.Context(), out: writerFunc(func([]byte) (int, error) { return 0, errors.New("gone") })}
	require.EqualError(t, a.watch(&load{GPUs: &sdk.GPUList{}}, nil, nil), "gone")
}
