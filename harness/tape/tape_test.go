// SPDX-License-Identifier: GPL-3.0-or-later

package tape

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What was read to its end is whole, and what a client left is not. A token stays out of the record.
//
// LO-845
func TestExchangesAreRecorded(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/none" {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusAccepted)
		_, _ = io.Copy(w, r.Body)
	}))
	t.Cleanup(s.Close)
	dir := t.TempDir()
	file, err := os.CreateTemp(dir, "*.jsonl")
	require.NoError(t, err)
	c := &http.Client{Transport: &transport{RoundTripper: &http.Transport{}, to: &recorder{file: file}}}
	t.Cleanup(c.CloseIdleConnections)
	ask := func(path string, read bool) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+path, strings.NewReader(`{"a":1}`))
		require.NoError(t, err)
		r.Header.Set("Authorization", "Bearer secret")
		r.Header.Set("Content-Type", "application/json")
		res, err := c.Do(r)
		require.NoError(t, err)
		if read {
			_, err = io.ReadAll(res.Body)
			require.NoError(t, err)
		}
		require.NoError(t, res.Body.Close())
	}
	ask("/v1/x?y=1", true)
	ask("/left", false)
	ask("/none", false)
	written, err := os.ReadFile(file.Name())
	require.NoError(t, err)
	require.NotContains(t, string(written), "secret")
	var all []Exchange
	require.NoError(t, Read(dir, func(e Exchange) error {
		all = append(all, e)
		return nil
	}))
	require.Len(t, all, 3)
	require.Equal(t, "/v1/x?y=1", all[0].Target)
	require.Equal(t, http.StatusAccepted, all[0].Status)
	require.JSONEq(t, `{"a":1}`, string(all[0].Request))
	require.JSONEq(t, `{"a":1}`, string(all[0].Body))
	require.Equal(t, "Bearer token", all[0].Asked.Get("Authorization"))
	require.Equal(t, "application/json", all[0].Header.Get("Content-Type"))
	require.Equal(t, []bool{true, false, true}, []bool{all[0].Whole, all[1].Whole, all[2].Whole})
}
