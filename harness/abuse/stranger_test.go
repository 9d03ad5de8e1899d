// SPDX-License-Identifier: GPL-3.0-or-later

package abuse_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/watch"
	"github.com/llama-orch/llama-orch/sdk"
)

// What may answer at the address of an engine without being one. The pool says what it is not, and nobody is asked to send a task again because of it.
//
// LO-847
func TestWhatAnswersIsNoEngine(t *testing.T) {
	pages := map[string]string{}
	answers := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}
	}
	pools := ""
	for name, handler := range map[string]http.HandlerFunc{
		"a page for everything":            answers(http.StatusOK, "<html>Welcome</html>"),
		"no such path":                     answers(http.StatusNotFound, "404 page not found"),
		"another engine's empty health":    answers(http.StatusOK, ""),
		"a login elsewhere":                http.RedirectHandler("https://login.example/", http.StatusFound).ServeHTTP,
		"JSON that is no engine's":         answers(http.StatusOK, `{"status":"ok"}`),
		"a list where an object should be": answers(http.StatusOK, `[]`),
	} {
		id := fmt.Sprintf("p%d", len(pages))
		pages[id] = name
		server := httptest.NewServer(handler)
		t.Cleanup(server.Close)
		pools += fmt.Sprintf("\n  - {id: %[1]s, model: {id: %[1]s, ref: x}, provisioning: {mode: external, urls: [\"%[2]s\"]}}", id, server.URL)
	}
	_, c := serveWith(t, built(t), pools+"\n", nil)
	for id, name := range pages {
		require.NoError(t, watch.Poll(t.Context(), "the reason", func() error {
			health, err := c.PoolHealth(t.Context(), id)
			if err != nil {
				return watch.Never(err)
			}
			r := health.Replicas[0]
			if said := r.LastError; r.State != sdk.ReplicaStateFailed || !strings.Contains(said, "is no llama-server") || strings.Contains(said, "again") {
				return fmt.Errorf("%s: replica is %s: %s", name, r.State, said)
			}
			return nil
		}))
		_, err := c.Submit(t.Context(), &sdk.TaskRequest{ModelRef: id, Prompt: "x"})
		var refused *sdk.Error
		require.ErrorAs(t, err, &refused, name)
		require.NotContains(t, refused.Message, "send the task again", name)
	}
}
