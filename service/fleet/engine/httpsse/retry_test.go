// SPDX-License-Identifier: GPL-3.0-or-later

package httpsse

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

// retried is a client that sleeps in no time, and how long it was to sleep.
func retried(t *testing.T, fn http.HandlerFunc) (*Client, *[]time.Duration) {
	t.Helper()
	s := httptest.NewServer(fn)
	var slept []time.Duration
	c := New(Options{BaseURL: s.URL, Engine: "test", Retry: &Retry{Sleep: func(_ context.Context, d time.Duration) error {
		slept = append(slept, d)
		return nil
	}}})
	t.Cleanup(func() { c.Close(); s.Close() })
	return c, &slept
}

// LO-455: what was not taken is sent again, after waits that grow and are jittered.
func TestWhatWasNotTakenIsSentAgain(t *testing.T) {
	for _, status := range []int{http.StatusTooManyRequests, http.StatusServiceUnavailable} {
		asked := 0
		c, slept := retried(t, func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil || string(body) != `{"a":1}` {
				w.WriteHeader(http.StatusTeapot)
			} else if asked++; asked < 3 {
				w.WriteHeader(status)
			} else {
				_, _ = io.WriteString(w, `{}`)
			}
		})
		require.NoError(t, c.Post(t.Context(), "/x", map[string]int{"a": 1}, &struct{}{}))
		require.Equal(t, 3, asked)
		require.Len(t, *slept, 2)
		for i, most := range []time.Duration{defaultWait, 2 * defaultWait} {
			require.GreaterOrEqual(t, (*slept)[i], most/2)
			require.LessOrEqual(t, (*slept)[i], most)
		}
	}
}

// LO-455: it is tried three times at most, Retry-After is heeded, and an engine that wants a longer wait is not asked again.
func TestRetriesAreBounded(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		after  string
		asked  int
		sleeps time.Duration // at least, in all
		told   time.Duration // to the caller
	}{
		"no room":      {429, "", 3, defaultWait, 0},
		"soon":         {503, "1", 3, 2 * time.Second, time.Second},
		"much later":   {503, "30", 1, 0, 30 * time.Second},
		"in a century": {429, "3155760000", 1, 0, time.Hour},
		"nonsense":     {429, "soon", 3, 0, 0},
		"below 0":      {429, "-1", 3, 0, 0},
		"a failure":    {500, "1", 1, 0, time.Second},
		"a refusal":    {400, "1", 1, 0, 0},
		"no key":       {401, "", 1, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			asked := 0
			client, slept := retried(t, func(w http.ResponseWriter, _ *http.Request) {
				asked++
				w.Header().Set("Retry-After", c.after)
				w.WriteHeader(c.status)
			})
			_, err := client.Stream(t.Context(), "/x", struct{}{})
			require.Error(t, err)
			require.Equal(t, c.asked, asked)
			require.Equal(t, c.told, task.AsError(err).RetryAfter)
			all := time.Duration(0)
			for _, d := range *slept {
				all += d
			}
			require.GreaterOrEqual(t, all, c.sleeps)
			if c.asked == 1 {
				require.Empty(t, *slept)
			}
		})
	}
}

// LO-455
func TestAfterTheFirstByteNothingIsSentAgain(t *testing.T) {
	asked := 0
	c, slept := retried(t, func(w http.ResponseWriter, _ *http.Request) {
		asked++
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: a\n\n")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	s, err := c.Stream(t.Context(), "/x", struct{}{})
	require.NoError(t, err)
	defer s.Close()
	require.Error(t, s.Each(func(Event) (bool, error) { return true, nil }))
	require.Equal(t, 1, asked)
	require.Empty(t, *slept)
}

// LO-455: a refused connection is tried again, and the end of the caller ends the wait.
func TestARefusedConnectionIsTriedAgain(t *testing.T) {
	slept := 0
	c := New(Options{BaseURL: "http://127.0.0.1:1", Engine: "test", Retry: &Retry{Sleep: func(context.Context, time.Duration) error { slept++; return nil }}})
	defer c.Close()
	_, err := c.Stream(t.Context(), "/x", struct{}{})
	require.True(t, task.HasCode(err, task.WorkerReset))
	require.Equal(t, 2, slept)

	cause := errors.New("the user has gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	waits := New(Options{BaseURL: "http://127.0.0.1:1", Engine: "test", Retry: &Retry{Wait: time.Hour, Most: time.Hour, Sleep: func(ctx context.Context, d time.Duration) error {
		cancel(cause)
		return (&Retry{}).sleep(ctx, d)
	}}})
	defer waits.Close()
	_, err = waits.Stream(ctx, "/x", struct{}{})
	require.ErrorIs(t, err, cause)
}

// LO-458: what is no stream, and says so, is an error.
func TestAPageIsNoStream(t *testing.T) {
	for name, c := range map[string]struct {
		kind, encoding, body string
		code                 task.Code
		says                 string
	}{
		"an error":            {"application/json; charset=utf-8", "", `{"error":{"message":"bad top_p","code":400}}`, task.InvalidParams, "bad top_p"},
		"one without a code":  {"application/json", "", `{"error":"out of luck"}`, task.WorkerReset, "out of luck"},
		"one with a text":     {"application/json", "", `{"error":{"message":"slow down","code":"rate_limit"}}`, task.WorkerReset, "slow down"},
		"a page":              {"text/html", "", `<html>`, task.WorkerReset, "no event stream, but: <html>"},
		"compressed":          {"text/event-stream", "gzip", "\x1f\x8b", task.WorkerReset, "compressed (gzip)"},
		"a compressed answer": {"application/json", "br", "{}", task.WorkerReset, "compressed (br)"},
	} {
		t.Run(name, func(t *testing.T) {
			client := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", c.kind)
				if c.encoding != "" {
					w.Header().Set("Content-Encoding", c.encoding)
				}
				_, _ = io.WriteString(w, c.body)
			})
			_, err := client.Stream(t.Context(), "/x", struct{}{})
			require.True(t, task.HasCode(err, c.code), "%v", err)
			require.ErrorContains(t, err, c.says)
		})
	}
}
