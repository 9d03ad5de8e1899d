// SPDX-License-Identifier: GPL-3.0-or-later

package delivery

import (
	"io"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/lifecycle"
)

var _ lifecycle.Service = (*Streams)(nil)

// LO-201
func TestStreamsStopInAnyOrder(t *testing.T) {
	s := New(Options{})
	require.NoError(t, s.Stop(t.Context()), "before the start")
	require.NoError(t, s.Start(t.Context()))
	require.NoError(t, s.Stop(t.Context()))

	stream := newFakeStream(io.EOF, startedFrame)
	r := serve(t, []Stream{stream})
	require.NoError(t, r.streams.Start(t.Context()), "a second start changes nothing")
	require.NoError(t, r.streams.Stop(t.Context()))
	require.NoError(t, r.streams.Stop(t.Context()))
	res, _ := r.get(t)
	require.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
	<-stream.closed
}

// A stream that the server did not start to send is closed, and its client sees that it got nothing.
//
// LO-201
func TestAStreamBeforeTheStartIsClosed(t *testing.T) {
	stream := newFakeStream(io.EOF, startedFrame)
	r := serve(t, []Stream{stream})
	require.NoError(t, r.streams.Stop(t.Context()))
	r.streams = New(Options{})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.URL, nil)
	require.NoError(t, err)
	res, err := r.Client().Do(req)
	if err == nil {
		_ = res.Body.Close()
	}
	require.Error(t, err)
	<-stream.closed
	require.Empty(t, r.streams.open)
}

// ORCH-2002: where no server takes connections back, each ends with its stream.
func TestAConnectionThatNobodyTakesBackEndsWithItsStream(t *testing.T) {
	r := serve(t, []Stream{newFakeStream(io.EOF, startedFrame)})
	r.streams.next.heard.Store(false)
	res, body := r.get(t)
	require.True(t, res.Close)
	require.Equal(t, startedFrame, body)
}
