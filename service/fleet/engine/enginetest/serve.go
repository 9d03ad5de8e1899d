// SPDX-License-Identifier: GPL-3.0-or-later

package enginetest

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/task"
)

// Serve has a conformance server at an address until the test ends.
func Serve(t testing.TB, h http.Handler) *httptest.Server {
	t.Helper()
	at := httptest.NewServer(h)
	t.Cleanup(at.Close)
	return at
}

// Behind is the replica of an engine that speaks to a server. What kills it closes the server's connections, and lets it take no other.
func Behind(e engine.Engine, at *httptest.Server) Replica {
	return Replica{Engine: e, Kill: func() error {
		_ = at.Listener.Close()
		at.CloseClientConnections()
		return nil
	}}
}

// Say runs a job, and returns its text.
func Say(t testing.TB, e engine.Engine, j engine.Job) (string, engine.Result, error) {
	t.Helper()
	var b strings.Builder
	r, err := e.Generate(t.Context(), j, func(p task.Piece) error {
		b.WriteString(p.Text)
		return nil
	})
	return b.String(), r, err
}
