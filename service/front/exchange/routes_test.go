// SPDX-License-Identifier: GPL-3.0-or-later

package exchange

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

// LO-403: paths, what lies under them, and methods.
func TestRoutes(t *testing.T) {
	served := ""
	operation := func(name string) Operation {
		return Operation{Name: name, Serve: func(_ http.ResponseWriter, r *http.Request) error {
			served = name + " " + Under(r, "/m/")
			return nil
		}}
	}
	routes := Routes{
		"/m":  {http.MethodGet: operation("list")},
		"/m/": {http.MethodGet: operation("one"), http.MethodDelete: operation("delete")},
		"/c":  {http.MethodPost: operation("chat")},
	}
	require.Equal(t, []string{"/c", "/m"}, routes.Paths())
	routes["/"] = map[string]Operation{http.MethodGet: operation("root")} // which is no way to what lies under it
	for request, c := range map[*http.Request]struct {
		served string
		code   task.Code
		allow  string
	}{
		httptest.NewRequest(http.MethodGet, "/", http.NoBody):           {served: "root /"},
		httptest.NewRequest(http.MethodGet, "/m", http.NoBody):          {served: "list /m"},
		httptest.NewRequest(http.MethodGet, "/m/a/b", http.NoBody):      {served: "one a/b"},
		httptest.NewRequest(http.MethodDelete, "/m/a", http.NoBody):     {served: "delete a"},
		httptest.NewRequest(http.MethodGet, "/c", http.NoBody):          {code: task.MethodNotAllowed, allow: "POST"},
		httptest.NewRequest(http.MethodPost, "/m/a", http.NoBody):       {code: task.MethodNotAllowed, allow: "DELETE, GET"},
		httptest.NewRequest(http.MethodPost, "/c/more", http.NoBody):    {code: task.NotFound},
		httptest.NewRequest(http.MethodPost, "/other", http.NoBody):     {code: task.NotFound},
		httptest.NewRequest(http.MethodOptions, "/m/a", http.NoBody):    {code: task.MethodNotAllowed, allow: "DELETE, GET"},
		httptest.NewRequest(http.MethodGet, "/m/a%2Fb", http.NoBody):    {served: "one a/b"},
		httptest.NewRequest(http.MethodGet, "/m/a?b=c", http.NoBody):    {served: "one a"},
		httptest.NewRequest(http.MethodGet, "/m/a:latest", http.NoBody): {served: "one a:latest"},
	} {
		served = ""
		w := httptest.NewRecorder()
		err := routes.Serve(w, request)
		require.Equal(t, c.served, served, request.URL)
		require.Equal(t, c.code == "", err == nil, "%s: %v", request.URL, err)
		require.True(t, c.code == "" || task.HasCode(err, c.code), "%s: %v", request.URL, err)
		require.Equal(t, c.allow, w.Header().Get("Allow"))
		require.NotEqual(t, c.code == task.NotFound, len(routes.Route(request).Methods) > 0)
	}
	require.Equal(t, "delete", routes.Route(httptest.NewRequest(http.MethodDelete, "/m/a", http.NoBody)).Operation)
}
