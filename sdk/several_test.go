// SPDX-License-Identifier: GPL-3.0-or-later

package sdk

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
)

// LO-719: a client that knows several servers goes on with the next one where one takes no connection, and stays there. Where none does, it says so.
func TestTheNextServerIsTaken(t *testing.T) {
	gone := httptest.NewServer(nil)
	gone.Close()
	there := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"hosts":[{"id":"a","name":"attic","version":"1","here":true,"up":true,"since":"2026-12-01T08:00:00.000Z","seen_at":"2026-12-01T08:00:00.000Z","pools":[]}]}`))
	}))
	defer there.Close()
	c, err := New(Options{Addr: gone.URL, Others: []string{there.URL + "/"}})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	for range 2 {
		hosts, err := c.Hosts(t.Context())
		require.NoError(t, err)
		require.Len(t, hosts, 1)
	}
	require.EqualValues(t, 1, c.now.Load())
	there.Close()
	_, err = c.Hosts(t.Context())
	var lost *UnreachableError
	require.ErrorAs(t, err, &lost)
	_, err = New(Options{Addr: gone.URL, Others: []string{"ftp://x"}})
	require.ErrorContains(t, err, `"ftp://x" needs a scheme`)
}
