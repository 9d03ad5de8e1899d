// SPDX-License-Identifier: GPL-3.0-or-later

package delivery

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/front/gate"
)

// single is a front that has one stream.
type single struct {
	streams *Streams
	stream  Stream
}

func (single) Route(*http.Request) gate.Route { return gate.Route{Operation: "stream"} }

func (single) Refuse(w http.ResponseWriter, _ *http.Request, err error) {
	w.WriteHeader(gate.Refuse(err).Status)
}

func (s single) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := s.streams.Deliver(w, r, s.stream, words{}); err != nil {
		s.Refuse(w, r, err)
	}
}

// LO-604: a stream that a browser's session opened ends with the session. Others go on.
func TestAStreamEndsWithItsSession(t *testing.T) {
	for _, cookies := range []bool{true, false} {
		auth, err := gate.NewAuth(gate.AuthOptions{Token: "a token of the lab"})
		require.NoError(t, err)
		login := httptest.NewRequest(http.MethodPost, "http://box/", nil)
		login.Header.Set("Origin", "http://box")
		cookie, err := auth.Login(login, "a token of the lab")
		require.NoError(t, err)
		tick := make(chan time.Time)
		streams := New(Options{Ticker: func() (<-chan time.Time, func()) { return tick, func() {} }})
		require.NoError(t, streams.Start(t.Context()))
		s := newFakeStream(io.EOF, startedFrame, "", "", endFrame)
		g, err := gate.New(gate.Options{Auth: auth, Fronts: map[string]gate.Front{"/": single{streams, s}}})
		require.NoError(t, err)
		server := httptest.NewServer(g)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
		require.NoError(t, err)
		if cookies {
			req.AddCookie(cookie)
		} else {
			req.Header.Set("Authorization", "Bearer a token of the lab")
		}
		res, err := server.Client().Do(req)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, res.StatusCode)
		tick <- time.Now()
		login.AddCookie(cookie)
		_, err = auth.Logout(login)
		require.NoError(t, err)
		select {
		case tick <- time.Now():
		case <-s.closed: // the first tick was looked at behind the logout
		}
		body, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		if cookies {
			require.Contains(t, string(body), "error MISSING_TOKEN")
			require.NotContains(t, string(body), "event: end")
		} else {
			require.Contains(t, string(body), "event: end")
		}
		require.NoError(t, res.Body.Close())
		<-s.closed
		server.Close()
		require.NoError(t, streams.Stop(context.Background()))
	}
}
