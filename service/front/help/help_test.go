// SPDX-License-Identifier: GPL-3.0-or-later

package help_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/front/help"
	"github.com/llama-orch/llama-orch/service/task"
)

// native refuses as the native API does.
type native struct{ gate.Front }

func (native) Refuse(w http.ResponseWriter, _ *http.Request, err error) {
	r := gate.Refuse(err)
	r.SetHeaders(w.Header())
	w.WriteHeader(r.Status)
}

func get(t *testing.T, method string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	help.New(native{}).ServeHTTP(w, httptest.NewRequest(method, gate.HelpPath, nil))
	return w
}

// LO-643: the refusal of each code links to its own section of the page, once.
func TestEachRefusalLeadsToItsSection(t *testing.T) {
	page := get(t, http.MethodGet)
	require.Equal(t, http.StatusOK, page.Code)
	for _, code := range task.Codes() {
		h := http.Header{}
		gate.Refuse(task.Errorf(code, "x")).SetHeaders(h)
		target, ok := strings.CutPrefix(h.Get("Link"), "<"+gate.HelpPath+"#")
		require.True(t, ok, h.Get("Link"))
		anchor, ok := strings.CutSuffix(target, `>; rel="help"`)
		require.True(t, ok, h.Get("Link"))
		require.Equal(t, string(code), anchor)
		require.Equal(t, 1, strings.Count(page.Body.String(), `<h2 id="`+anchor+`">`), code)
	}
}

// LO-643: nothing of the Markdown is left, and nothing on the page runs or is fetched.
func TestThePageIsPlain(t *testing.T) {
	w := get(t, http.MethodGet)
	body := w.Body.String()
	for _, not := range []string{"`", "](", "<script", "http://", "https://"} {
		require.NotContains(t, body, not)
	}
	require.Contains(t, body, "<code>llama-orch pools</code>")
	require.Contains(t, w.Header().Get("Content-Security-Policy"), "default-src 'none'")
	require.Equal(t, "text/html; charset=utf-8", w.Header().Get("Content-Type"))
}

// LO-643
func TestThePageIsOnlyRead(t *testing.T) {
	w := get(t, http.MethodPost)
	require.Equal(t, http.StatusMethodNotAllowed, w.Code)
	require.Equal(t, "GET, HEAD", w.Header().Get("Allow"))
	f := help.New(native{})
	require.Equal(t, gate.Anybody, f.Route(nil).Access)
}
