// SPDX-License-Identifier: GPL-3.0-or-later

package sdk

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// runs is a server that takes a task and streams a part of its log; then it waits until the stream's client is gone.
type runs struct {
	log  string
	hold bool

	mu       sync.Mutex
	asked    []string // what was asked, in order
	canceled chan struct{}
}

func (r *runs) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	r.mu.Lock()
	r.asked = append(r.asked, q.Method+" "+q.URL.Path)
	r.mu.Unlock()
	switch q.URL.Path {
	case "/v1/tasks":
		w.WriteHeader(http.StatusAccepted)
		envelopeBody(w, `{"task_id":"t","pool_id":"p","queue_position":0,"predicted_start_ms":0,"backoff_ms":0,"seed":7,"determinism":"strict"}`)
	case "/v1/tasks/t/stream":
		sendStream(w, r.log)
		if r.hold {
			<-q.Context().Done()
		}
	case "/v1/tasks/t/cancel":
		envelopeBody(w, `{"task_id":"t","outcome":"canceled","last_event_id":"1-00000000"}`)
		close(r.canceled)
	}
}

func envelopeBody(w http.ResponseWriter, body string) { _, _ = w.Write([]byte(body)) }

// asJSON says that all but streams is JSON.
func asJSON(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		h.ServeHTTP(w, r)
	})
}

// A task belongs to its loop: one that is left, or whose context ends, cancels it; one that comes to its end does not.
//
// LO-905
func TestRunCancelsWhatItLeaves(t *testing.T) {
	t.Parallel()
	whole := newScript().tokens("a", "b").end().String()
	part := newScript().tokens("a").String()
	for name, test := range map[string]struct {
		log     string
		leave   func(cancel func()) bool // at the first token
		want    error
		cancels bool
	}{
		"to the end":       {whole, func(func()) bool { return false }, nil, false},
		"left":             {part, func(func()) bool { return true }, nil, true},
		"the context ends": {part, func(cancel func()) bool { cancel(); return false }, context.Canceled, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := &runs{log: test.log, hold: test.cancels, canceled: make(chan struct{})}
			c, _ := setup(t, asJSON(server))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var last error
			names := []string{}
			for e, err := range c.Run(ctx, &TaskRequest{TaskID: "t", ModelRef: "m", Prompt: "p"}) {
				if last = err; err != nil {
					break
				}
				names = append(names, e.Wire().Name)
				if _, ok := e.(Token); ok && test.leave(cancel) {
					break
				}
			}
			require.ErrorIs(t, last, test.want)
			require.Equal(t, "started", names[0])
			if !test.cancels {
				require.Equal(t, []string{"POST /v1/tasks", "GET /v1/tasks/t/stream"}, server.asked)
				return
			}
			<-server.canceled
			require.Equal(t, "POST /v1/tasks/t/cancel", server.asked[len(server.asked)-1])
		})
	}
}

// A submit whose answer is on its way when the context ends is waited for, and its task is canceled.
//
// LO-905
func TestRunCancelsWhatWasJustTaken(t *testing.T) {
	t.Parallel()
	server := &runs{canceled: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	c, _ := setup(t, asJSON(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		cancel()
		server.ServeHTTP(w, r)
	})))
	for _, err := range c.Run(ctx, &TaskRequest{TaskID: "t", ModelRef: "m", Prompt: "p"}) {
		require.ErrorIs(t, err, context.Canceled)
	}
	<-server.canceled
}

// A task without an id gets one, another for each run, and what is refused or was ended before is told.
//
// LO-905
func TestRunTellsWhatItIsTold(t *testing.T) {
	t.Parallel()
	c, _ := setup(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		envelopeAnswer(w, 404, `{"code":"MODEL_NOT_FOUND","message":"m","retriable":false}`)
	}))
	request := &TaskRequest{ModelRef: "m", Prompt: "p"}
	for _, err := range c.Run(t.Context(), request) {
		var refused *Error
		require.ErrorAs(t, err, &refused)
	}
	require.Empty(t, request.TaskID, "the caller's request stays as it is")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range c.Run(ctx, request) {
		require.ErrorIs(t, err, context.Canceled)
	}
}

// LO-904
func TestBackoffWaitsAsItIsTold(t *testing.T) {
	t.Parallel()
	full := &Error{Status: 429, Code: ErrorCodeAdmissionReject, Retriable: true, RetryAfter: 40 * time.Second}
	unready := &Error{Status: 503, Code: ErrorCodePoolUnready, Retriable: true}
	spent := &Error{Status: 429, Code: ErrorCodeBudgetExceeded}
	dropped := &Error{Code: ErrorCodeQueueFullDropLRU, Retriable: true}
	cut := &UnreachableError{Addr: "a", Err: errors.New("reset")}
	proxy := &ProtocolError{Status: 502, Err: errors.New("a page")}
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	for name, test := range map[string]struct {
		p     Patience
		says  []error // what the calls answer, the last one for ever
		calls int
		waits time.Duration // at least
		want  error
	}{
		"taken at once":           {Patience{}, []error{nil}, 1, 0, nil},
		"full, then taken":        {Patience{}, []error{full, full, nil}, 3, 80 * time.Second, nil},
		"no figure":               {Patience{}, []error{unready, unready, nil}, 3, 0, nil},
		"tries":                   {Patience{Tries: 3}, []error{full}, 3, 80 * time.Second, full},
		"time":                    {Patience{Time: time.Minute}, []error{full}, 2, 40 * time.Second, full},
		"too long a wait at once": {Patience{Time: 39 * time.Second}, []error{full}, 1, 0, full},
		"waiting does not help":   {Patience{Repeatable: true}, []error{spent}, 1, 0, spent},
		"accepted, then dropped":  {Patience{Repeatable: true}, []error{dropped}, 1, 0, dropped},
		"an answer was lost":      {Patience{}, []error{cut}, 1, 0, cut},
		"and may be repeated":     {Patience{Repeatable: true}, []error{cut, proxy, nil}, 3, 0, nil},
		"a proxy's page":          {Patience{}, []error{proxy}, 1, 0, proxy},
		"another error":           {Patience{Repeatable: true}, []error{full, context.Canceled}, 2, 40 * time.Second, context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began, calls, told := time.Now(), 0, time.Duration(0)
				test.p.OnWait = func(_ error, wait time.Duration) { told += wait }
				out, err := Backoff(t.Context(), test.p, func(context.Context) (int, error) {
					said := test.says[min(calls, len(test.says)-1)]
					calls++
					return calls, said
				})
				require.Equal(t, test.want, err)
				require.Equal(t, test.calls, calls)
				require.Equal(t, calls, out)
				require.GreaterOrEqual(t, time.Since(began), test.waits)
				require.Equal(t, told, time.Since(began))
			})
		})
	}

	// What never reached the server may be sent again, whatever it is.
	c, err := New(Options{Addr: gone.URL})
	require.NoError(t, err)
	calls := 0
	_, err = Backoff(t.Context(), Patience{Tries: 2}, func(ctx context.Context) (*Admission, error) {
		calls++
		return c.Submit(ctx, &TaskRequest{ModelRef: "m", Prompt: "p"})
	})
	var unreachable *UnreachableError
	require.ErrorAs(t, err, &unreachable)
	require.Equal(t, 2, calls)

	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		_, err := Backoff(ctx, Patience{}, func(context.Context) (int, error) { return 0, full })
		require.Equal(t, full, err, "the last error, as it came")
		require.Equal(t, time.Second, time.Since(began))
	})
}
