// SPDX-License-Identifier: GPL-3.0-or-later

package dialect

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
)

// LO-419: an answer is checked once, whole, and so is a refusal that nobody reads. Half an answer is not.
func TestAnswersAreChecked(t *testing.T) {
	var bodies []string
	c := &Checked{Next: http.DefaultTransport, Check: func(path string, status int, _ string, body []byte) error {
		bodies = append(bodies, path+" "+string(body))
		if status != http.StatusOK {
			return errors.New("wrong")
		}
		return nil
	}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/refused" {
			w.WriteHeader(http.StatusBadRequest)
		}
		_, _ = io.WriteString(w, "answer")
	}))
	defer server.Close()
	defer c.CloseIdleConnections()
	client := http.Client{Transport: c}
	for _, path := range []string{"/read", "/refused", "/left"} {
		res, err := client.Get(server.URL + path)
		require.NoError(t, err)
		if path == "/read" {
			_, err = io.ReadAll(res.Body)
			require.NoError(t, err)
		}
		require.NoError(t, res.Body.Close())
	}
	require.Equal(t, []string{"/read answer", "/refused answer"}, bodies)
	seen, err := c.Result()
	require.Equal(t, 2, seen)
	require.ErrorContains(t, err, "/refused answered 400: wrong")
}
