// SPDX-License-Identifier: GPL-3.0-or-later

package api

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/gen"
	"github.com/llama-orch/llama-orch/service/front/delivery"
	"github.com/llama-orch/llama-orch/service/task"
)

// plain are services that know nothing, and refuse nothing.
func plain(f *fixture) {
	f.tasks.err = task.Errorf(task.NotFound, "there is no such task")
	f.control.err = task.Errorf(task.NotFound, "there is no such pool")
	f.sessions.err = task.Errorf(task.NotFound, "there is no such session")
	f.tasks.subscribe = func(string, string) (delivery.Stream, error) { return nil, f.tasks.err }
}

// FuzzParameters: whatever stands in the path, the query, the headers and the body of any operation, the answer is the contract's, and nothing fails here.
//
// OC-CTRL-2030, LO-861
func FuzzParameters(f *testing.F) {
	c, err := loadContract()
	require.NoError(f, err)
	for i := range c.operations {
		f.Add(uint(i), "t1", "limit=1&state=queued&after=0-00000000&level=info&last=3", "0-00000000", []byte(`{}`))
	}
	f.Add(uint(0), "..", "limit=%zz", "x", []byte("["))
	f.Add(uint(1), "a/b\xff", "limit=1&limit=2&;", "", []byte(`{"kind":"other","media_type":"text/plain","content":"AA=="}`))
	f.Add(uint(2), "a?b#c%2f", "kind=log&task_id=\x00&follow=true", "99999999999999999999-00000000", []byte(`{"state":"retired","deadline_ms":1e9}`))
	fix := setup(f)
	plain(fix)
	f.Fuzz(func(t *testing.T, n uint, id, query, last string, body []byte) {
		o := c.operations[n%uint(len(c.operations))]
		r := httptest.NewRequestWithContext(t.Context(), o.method, "/", strings.NewReader(string(body)))
		r.RemoteAddr, r.Host = "127.0.0.1:5000", "127.0.0.1:8080"
		path := strings.ReplaceAll(o.path, "{id}", url.PathEscape(id))
		at, err := url.ParseRequestURI(path)
		require.NoError(t, err)
		r.URL.Path, r.URL.RawPath, r.URL.RawQuery, r.RequestURI = at.Path, at.RawPath, query, path+"?"+query
		r.Header.Set("Content-Type", "application/json")
		if last != "" {
			r.Header.Set("Last-Event-ID", last)
			r.Header.Set("X-Correlation-Id", last)
		}
		w := httptest.NewRecorder()
		fix.handler.ServeHTTP(w, r)
		res := w.Result()
		if res.StatusCode < http.StatusBadRequest {
			_, err := io.Copy(io.Discard, res.Body)
			require.NoError(t, err)
			return
		}
		require.NotEqual(t, gen.ErrorCodeINTERNAL, envelope(t, res).Code, "%s %s", o.method, r.RequestURI)
	})
}
