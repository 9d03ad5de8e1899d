// SPDX-License-Identifier: GPL-3.0-or-later

package sdk

import (
	"context"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-faster/yaml"
	"github.com/stretchr/testify/require"
)

// forWorkers are the operations that no client uses: a worker registers itself with a daemon.
var forWorkers = []string{"registerWorker"}

// Each operation of the document has a method that calls it.
//
// LO-902
func TestEveryOperationHasAMethod(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var asked string
	c, _ := setup(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		asked = strings.ToLower(r.Method) + " " + r.URL.Path
	}), func(o *Options) { o.Reconnects = -1 })
	artifact, fingerprint, ctx := "sha256-"+strings.Repeat("0", 64), "fp-fd61a03af4f77d87", t.Context()
	calls := map[string]func(){
		"createTask":         func() { _, _ = c.Submit(ctx, &TaskRequest{ModelRef: "m", Prompt: "p"}) },
		"listTasks":          func() { _, _ = c.List(ctx, "", 0) },
		"getTask":            func() { _, _ = c.Get(ctx, "ID") },
		"deleteTask":         func() { _ = c.Delete(ctx, "ID") },
		"streamTask":         func() { ended(c.Stream(ctx, "ID", "")) },
		"cancelTask":         func() { _, _ = c.Cancel(ctx, "ID") },
		"createSession":      func() { _, _ = c.CreateSession(ctx, &SessionRequest{}) },
		"getSession":         func() { _, _ = c.Session(ctx, sessionID) },
		"deleteSession":      func() { _ = c.DeleteSession(ctx, sessionID) },
		"getCapabilities":    func() { _, _ = c.Capabilities(ctx) },
		"listPools":          func() { _, _ = c.Pools(ctx) },
		"getPoolHealth":      func() { _, _ = c.PoolHealth(ctx, "ID") },
		"getFingerprint":     func() { _, _ = c.Fingerprint(ctx, fingerprint) },
		"drainPool":          func() { _, _ = c.Drain(ctx, "ID", time.Second) },
		"resumePool":         func() { _, _ = c.Resume(ctx, "ID") },
		"loadPool":           func() { _, _ = c.Load(ctx, "ID") },
		"unloadPool":         func() { _, _ = c.Unload(ctx, "ID") },
		"reloadPool":         func() { _, _ = c.Reload(ctx, "ID", "m") },
		"listGpus":           func() { _, _ = c.GPUs(ctx) },
		"listHosts":          func() { _, _ = c.Hosts(ctx) },
		"explainPlacement":   func() { _, _ = c.Explain(ctx, &ExplainRequest{ModelRef: "m"}) },
		"reloadConfig":       func() { _, _ = c.ReloadConfig(ctx) },
		"streamLogs":         func() { _ = firstOf(c.Logs(ctx, LogFilter{})) },
		"createModel":        func() { _, _ = c.AddModel(ctx, &ModelRequest{Ref: "m"}) },
		"listModels":         func() { _, _ = c.Models(ctx, "") },
		"getModel":           func() { _, _ = c.Model(ctx, "ID") },
		"deleteModel":        func() { _ = c.DeleteModel(ctx, "ID") },
		"verifyModel":        func() { _, _ = c.VerifyModel(ctx, "ID") },
		"setModelState":      func() { _, _ = c.ActivateModel(ctx, "ID") },
		"listEngines":        func() { _, _ = c.Engines(ctx) },
		"createArtifact":     func() { _, _ = c.PutArtifact(ctx, &ArtifactRequest{Kind: "plan"}) },
		"listArtifacts":      func() { _, _ = c.Artifacts(ctx, ArtifactFilter{}) },
		"getArtifact":        func() { _, _ = c.Artifact(ctx, artifact) },
		"getArtifactContent": func() { _, _ = c.send(ctx, contentOf(artifact)) },
		"getLiveness":        func() { _, _ = c.Alive(ctx) },
		"getReadiness":       func() { _, _ = c.Health(ctx) },
		"getMetrics":         func() { _, _ = c.Figures(ctx) },
	}
	text, err := os.ReadFile("../contracts/openapi/openapi.yaml")
	require.NoError(t, err)
	var document struct {
		Paths map[string]map[string]yaml.Node
	}
	require.NoError(t, yaml.Unmarshal(text, &document))
	found := 0
	for path, methods := range document.Paths {
		for method, node := range methods {
			var operation struct {
				ID string `yaml:"operationId"`
			}
			if method == "parameters" {
				continue
			}
			require.NoError(t, node.Decode(&operation))
			if slices.Contains(forWorkers, operation.ID) {
				continue
			}
			found++
			call := calls[operation.ID]
			require.NotNil(t, call, "the SDK has no method for %s", operation.ID)
			call()
			mu.Lock()
			got := asked
			mu.Unlock()
			for _, id := range []string{artifact, fingerprint, sessionID, "ID"} {
				got = strings.Replace(got, "/"+id, "/{id}", 1)
			}
			require.Equal(t, method+" "+path, got, operation.ID)
		}
	}
	require.Len(t, calls, found, "the document has no other operations")
}

// firstOf is the error of the first line, if it is one.
func firstOf(lines func(func(LogLine, error) bool)) (first error) {
	for _, err := range lines {
		return err
	}
	return nil
}

func ended(events func(func(Event, error) bool)) {
	for _, err := range events {
		if err != nil {
			return
		}
	}
}

// The server's metrics come as they are, and what is no Prometheus text is none.
//
// LO-902
func TestFigures(t *testing.T) {
	t.Parallel()
	kind := "text/plain; version=0.0.4"
	c, _ := setup(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		_, _ = w.Write([]byte("up 1\n"))
	}))
	text, err := c.Figures(t.Context())
	require.NoError(t, err)
	require.Equal(t, "up 1\n", string(text))
	kind = "text/html"
	_, err = c.Figures(t.Context())
	var strange *ProtocolError
	require.ErrorAs(t, err, &strange)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = c.Figures(ctx)
	require.ErrorIs(t, err, context.Canceled)
}
