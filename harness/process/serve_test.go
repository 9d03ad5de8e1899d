// SPDX-License-Identifier: GPL-3.0-or-later

package process_test

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/process"
)

// ORCH-3058: a stand-in says where it listens, and ends with its standard input.
func TestServeEndsWithItsInput(t *testing.T) {
	in, leave := io.Pipe()
	said, out := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- process.Serve("127.0.0.1:0", http.NotFoundHandler(), in, out) }()
	line, err := bufio.NewReader(said).ReadBytes('\n')
	require.NoError(t, err)
	var hello struct{ Listening string }
	require.NoError(t, json.Unmarshal(line, &hello))
	get := func() (*http.Response, error) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+hello.Listening, http.NoBody)
		require.NoError(t, err)
		return http.DefaultTransport.RoundTrip(req)
	}
	res, err := get()
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.Equal(t, http.StatusNotFound, res.StatusCode)
	require.NoError(t, leave.Close())
	require.NoError(t, <-ended)
	_, err = get()
	require.Error(t, err)
	require.Error(t, process.Serve("nowhere", http.NotFoundHandler(), in, out))
}
