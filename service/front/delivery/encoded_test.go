// SPDX-License-Identifier: GPL-3.0-or-later

package delivery_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/front/delivery"
	"github.com/llama-orch/llama-orch/service/task"
)

// waits is a task that waits in line, whose reader is sent away.
type waits struct{ err error }

func (w waits) NextEvents(context.Context, <-chan time.Time) (task.Events, bool, error) {
	return task.Events{}, false, w.err
}
func (waits) DirectEvents(func(task.Events) bool) {}
func (waits) Written()                            {}
func (waits) Last() bool                          { return false }
func (waits) Metrics() (task.Metrics, bool) {
	return task.Metrics{Phase: task.PhaseQueued, QueuePosition: 3}, true
}
func (waits) Close() {}

// plain is a dialect, and its encoder.
type plain struct{}

func (plain) ContentType() string                              { return "text/plain" }
func (plain) Metrics(b []byte, _ task.Metrics) ([]byte, error) { return append(b, "figures\n"...), nil }

func (plain) Error(b []byte, e *task.Error) ([]byte, error) { return append(b, e.Message...), nil }
func (plain) KeepAlive(b []byte) []byte                     { return append(b, "alive\n"...) }
func (plain) Every() int                                    { return 1 }
func (plain) Append(b []byte, e task.Event) []byte          { return append(append(b, e.Err.Error()...), '\n') }

// LO-407: an error event is the last that a client gets, although its task still waits and has figures.
func TestNothingComesBehindAnErrorEvent(t *testing.T) {
	streams := delivery.New(delivery.Options{})
	require.NoError(t, streams.Start(t.Context()))
	whole := make(chan bool, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		stream := delivery.Encoded(waits{errors.New("the orchestrator stops")}, plain{}, nil, func(sent bool) { whole <- sent })
		if err := streams.Deliver(w, r, stream, plain{}); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	}))
	defer server.Close()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, http.NoBody)
	require.NoError(t, err)
	res, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer func() { require.NoError(t, res.Body.Close()) }()
	got, err := io.ReadAll(bufio.NewReader(res.Body))
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.Equal(t, "SHUTTING_DOWN: the stream broke off: send the request again: the orchestrator stops\n", string(got))
	require.False(t, <-whole)
	require.NoError(t, streams.Stop(t.Context()))
}

// LO-404: what a client is told where its events ended before their end.
func TestBrokenOff(t *testing.T) {
	ended, gone := task.Errorf(task.Canceled, "canceled"), errors.New("the reader was too slow")
	require.Equal(t, error(ended), delivery.BrokenOff(t.Context(), ended))
	require.True(t, task.HasCode(delivery.BrokenOff(t.Context(), gone), task.ShuttingDown))
	ctx, leave := context.WithCancel(t.Context())
	leave()
	require.Equal(t, context.Canceled, delivery.BrokenOff(ctx, context.Canceled))
}

// numbered is an encoder that says what it is given.
type numbered struct{ plain }

func (numbered) Append(b []byte, e task.Event) []byte {
	return fmt.Appendf(b, "%d %d %s\n", e.Index, e.Kind, e.Text)
}

// LO-432: the events of a record come at once, and then the stream is over. LO-431: an error that ends a stream alone is none of its task's.
func TestRecorded(t *testing.T) {
	r := task.Record{Task: task.Task{ID: "a"}, State: task.Completed, Transcript: task.Transcript{Text: "ab", Ends: []int{1, 2}}, End: &task.End{}}
	sent := false
	s := delivery.Encoded(delivery.Recorded(r.Events()), numbered{}, nil, func(whole bool) { sent = whole })
	require.False(t, s.Last())
	got, err := s.Next(t.Context(), nil)
	require.NoError(t, err)
	require.Equal(t, "0 0 \n1 1 a\n2 1 b\n3 4 \n", string(got))
	require.True(t, s.Last())
	s.Written()
	_, going := s.Metrics()
	require.False(t, going)
	_, err = s.Next(t.Context(), nil)
	require.ErrorIs(t, err, io.EOF)
	s.Close()
	require.True(t, sent)

	s = delivery.Encoded(waits{errors.New("the orchestrator stops")}, numbered{}, nil, func(bool) {})
	got, err = s.Next(t.Context(), nil)
	require.NoError(t, err)
	require.Equal(t, "-1 5 \n", string(got))
}

// LO-432: events that are sent anew end cleanly, also behind an error. What ends the stream alone still breaks it.
func TestAgain(t *testing.T) {
	r := task.Record{State: task.Failed, Err: task.Errorf(task.WorkerReset, "gone")}
	for _, again := range []bool{true, false} {
		s := delivery.Encoded(delivery.Recorded(r.Events()), numbered{}, nil, func(bool) {})
		if again {
			s = delivery.Again(delivery.Recorded(r.Events()), numbered{})
		}
		got, err := s.Next(t.Context(), nil)
		require.NoError(t, err)
		require.Equal(t, "0 0 \n1 5 \n", string(got))
		require.Equal(t, again, s.Last())
		_, err = s.Next(t.Context(), nil)
		require.Error(t, err)
		require.Equal(t, again, errors.Is(err, io.EOF))
		s.Close()
	}
	s := delivery.Again(waits{errors.New("the orchestrator stops")}, numbered{})
	_, err := s.Next(t.Context(), nil)
	require.NoError(t, err)
	require.False(t, s.Last())
	_, err = s.Next(t.Context(), nil)
	require.Error(t, err)
	require.NotErrorIs(t, err, io.EOF)
}
