// SPDX-License-Identifier: GPL-3.0-or-later

package fronts_test

import (
	"bufio"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/daemon"
	"github.com/llama-orch/llama-orch/harness/dialect"
	"github.com/llama-orch/llama-orch/harness/process"
	"github.com/llama-orch/llama-orch/harness/watch"
)

// frames reads whole frames of a stream that have a number, until enough says so of one, or until the stream ends.
func (b box) frames(res *http.Response, enough func(n int, frame string) bool) string {
	b.Helper()
	in := bufio.NewReader(res.Body)
	var all, frame strings.Builder
	for n := 0; ; {
		line, err := in.ReadString('\n')
		if err != nil {
			require.ErrorIs(b, err, io.EOF)
			return all.String()
		}
		frame.WriteString(line)
		if line != "\n" {
			continue
		}
		if text := frame.String(); !strings.HasPrefix(text, ":") && !strings.Contains(text, `"keepalive"`) {
			all.WriteString(text)
			if n++; enough != nil && enough(n, text) {
				return all.String()
			}
		}
		frame.Reset()
	}
}

// call asks for something, with no body.
func (b box) call(method, path string) (int, string) {
	b.Helper()
	res := b.open(method, path)
	data, err := io.ReadAll(res.Body)
	require.NoError(b, err)
	return res.StatusCode, string(data)
}

func (b box) open(method, path string) *http.Response {
	b.Helper()
	r, err := http.NewRequestWithContext(b.Context(), method, b.d.URL+path, http.NoBody)
	require.NoError(b, err)
	res, err := http.DefaultClient.Do(r)
	require.NoError(b, err)
	b.Cleanup(func() { _ = res.Body.Close() })
	return res
}

// ended polls a response until it has ended.
func (b box) ended(id string) (last response) {
	b.Helper()
	require.NoError(b, watch.Poll(b.Context(), "the response to end", func() error {
		_, body := b.call(http.MethodGet, "/v1/responses/"+id)
		last = response{}
		if err := json.Unmarshal([]byte(body), &last); err != nil || last.Status == "queued" || last.Status == "in_progress" {
			return fmt.Errorf("it says %s", body)
		}
		return nil
	}))
	return last
}

// A daemon that is killed in the middle of responses: their streams go on byte for byte, with the numbers they had.
//
// LO-430, LO-431, LO-432, LO-434, LO-202
func TestResponsesOutliveTheDaemon(t *testing.T) {
	document, err := dialect.LoadOpenAI()
	require.NoError(t, err)
	held(t, document.Check)
	lab, err := daemon.NewLab(t.Context(), t.TempDir(), "../..")
	require.NoError(t, err)
	t.Cleanup(lab.Close)
	file := filepath.Join(lab.Dir, "c.yaml")
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, config, lab.Model), 0o600))
	start := func() box {
		d, err := lab.Serve(t.Context(), daemon.Options{Config: file, Options: process.Options{Args: []string{"--no-self-test"}, Env: lab.Env(lab.Dir, nil)}})
		require.NoError(t, err)
		b := box{t, d}
		b.idle()
		return b
	}
	b := start()
	ask := `{"model":"slow-haiku","input":"` + question + `","seed":7,"temperature":0.8,"background":true,"metadata":{"a":"b"}`
	undisturbed := b.responded(ask+`,"stream":true}`, nil).Response
	var polled response // waits in line behind the one that is streamed
	streaming := b.ask(t.Context(), "/v1/responses", ask+`,"stream":true}`)
	id := "resp_" + streaming.Header.Get("X-Task-Id")
	require.Equal(t, http.StatusOK, b.whole("/v1/responses", ask+`}`, &polled).StatusCode)
	require.Equal(t, "queued", polled.Status)
	seen := 0
	before := b.frames(streaming, func(n int, _ string) bool { seen = n; return n == 14 })
	b.d.Kill()

	b = start()
	status, body := b.call(http.MethodGet, "/v1/responses/"+id)
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, body, `"metadata":{"a":"b"}`)
	rest := b.frames(b.open(http.MethodGet, fmt.Sprintf("/v1/responses/%s?stream=true&starting_after=%d", id, seen-1)), nil)
	whole := b.frames(b.open(http.MethodGet, "/v1/responses/"+id+"?stream=true"), nil)
	require.Equal(t, sha256.Sum256([]byte(whole)), sha256.Sum256([]byte(before+rest)), "before %s\nrest %s\nwhole %s", before, rest, whole)
	require.Contains(t, rest, "response.completed")
	require.Equal(t, undisturbed.Output[0].Content, b.ended(id).Output[0].Content)
	require.Equal(t, undisturbed.Output[0].Content, b.ended(polled.ID).Output[0].Content)
	t.Logf("%d events before the kill, %d bytes in all, SHA-256 %x", seen, len(whole), sha256.Sum256([]byte(whole)))

	b.d.Kill()
	b = start()
	require.Equal(t, whole, b.frames(b.open(http.MethodGet, "/v1/responses/"+id+"?stream=true"), nil), "from the record alone")
	status, body = b.call(http.MethodDelete, "/v1/responses/"+id)
	require.Equal(t, http.StatusOK, status, body)
	status, _ = b.call(http.MethodGet, "/v1/responses/"+id)
	require.Equal(t, http.StatusNotFound, status)
	_, err = b.d.Client.Get(t.Context(), "/v1/tasks/"+strings.TrimPrefix(id, "resp_"))
	require.ErrorContains(t, err, "DELETED")
	b.d.Kill()
}
