// SPDX-License-Identifier: GPL-3.0-or-later

package contract

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/process"
	"github.com/llama-orch/llama-orch/harness/tape"
)

// tools is the folder of the npm packages.
func tools(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("LLORCH_CONTRACT_TOOLS")
	require.NotEmpty(t, dir, "these tests need tools from npm: run `go tool mage contract`")
	return dir
}

// Two linters find nothing in the document.
//
// LO-845
func TestTheDocumentIsValid(t *testing.T) {
	const document = "../../contracts/openapi/openapi.yaml"
	for name, args := range map[string][]string{
		"spectral": {"lint", document, "--ruleset", "../../ci/contract/spectral.yaml", "--fail-severity", "hint"},
		"redocly":  {"lint", document, "--config", "../../ci/contract/redocly.yaml"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			linter := exec.CommandContext(t.Context(), filepath.Join(tools(t), "node_modules", ".bin", name), args...)
			linter.Env = process.Env(t.TempDir(), map[string]string{
				"REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true",
			})
			said, err := linter.CombinedOutput()
			require.NoError(t, err, "%s", said)
		})
	}
}

// excused are answers that do not fit the document, and why they may not. A line that excuses nothing fails too.
var excused = map[string]string{}

// Whatever the daemon sent in the suites is in the document: the status, the media type, the headers, each field, each code, each event.
//
// LO-845
func TestWhatTheSuitesSawIsInTheDocument(t *testing.T) {
	dir := os.Getenv(tape.Env)
	require.NotEmpty(t, dir, "no suite has left its exchanges: run `go tool mage contract`")
	d, err := Load()
	require.NoError(t, err)
	var answers Answers
	require.NoError(t, tape.Read(dir, func(e tape.Exchange) error {
		answers.Take(d, e)
		return nil
	}))
	require.Greater(t, answers.Recorded, 500, "the suites send more than that")
	l := process.NewLauncher()
	defer l.Close()
	found, err := Replay(t.Context(), l, tools(t), t.TempDir(), d, &answers)
	require.NoError(t, err)
	report(t, &answers, found)
	used := map[string]bool{}
	wrong := slices.DeleteFunc(found.Mismatches, func(m string) bool {
		for text := range excused {
			if strings.Contains(m, text) {
				used[text] = true
				return true
			}
		}
		return false
	})
	require.Empty(t, wrong, strings.Join(wrong, "\n"))
	require.Len(t, used, len(excused), "an excuse is for nothing")
	require.Greater(t, answers.Events, 500, "the suites read more than that")
}

// report says the figures, where the one who runs the suite reads them.
func report(t *testing.T, a *Answers, r Report) {
	t.Helper()
	served := 0
	for _, n := range r.Lenient {
		served += n
	}
	text := fmt.Sprintf("contract: %d exchanges recorded, %d different ones replayed through prism (%d broken off by their clients left out): %d mismatches, %d of them excused\n"+
		"contract: %d events of %d streams held against their schemas\n"+
		"contract: %d requests that the document forbids were served\n",
		a.Recorded, r.Replayed, a.Cut, len(r.Mismatches), len(excused), a.Events, a.Streams, served)
	for _, what := range slices.Sorted(maps.Keys(r.Lenient)) {
		text += fmt.Sprintf("  %d × %s\n", r.Lenient[what], what)
	}
	t.Log(text)
	if name := os.Getenv("LLORCH_CONTRACT_REPORT"); name != "" {
		require.NoError(t, os.WriteFile(name, []byte(text), 0o600))
	}
}

// What is wrong is found: each of these answers differs in one thing from one that fits.
//
// LO-845
func TestWhatIsNotInTheDocumentIsFound(t *testing.T) {
	correlated := func(more ...string) http.Header {
		h := http.Header{"X-Correlation-Id": {"c"}, "Content-Type": {"application/json"}}
		for i := 0; i < len(more); i += 2 {
			h.Set(more[i], more[i+1])
		}
		return h
	}
	refusal := func(code string) []byte {
		return fmt.Appendf(nil, `{"code":%q,"message":"it cannot be","retriable":false}`, code)
	}
	const task, log, line = "/v1/tasks/t/stream", "/v1/logs", `{"level":"info","ts":"2026-11-22T20:15:00.125Z","msg":"serving"}`
	started := `{"task_id":"t","queue_position":0,"predicted_start_ms":0,"seed":1,"determinism":"strict"}`
	cases := []struct {
		name     string
		exchange tape.Exchange
		finds    string // empty: it fits
	}{
		{"a health", tape.Exchange{Target: "/healthz", Status: 200, Body: []byte(`{"status":"ok"}`)}, ""},
		{"another status", tape.Exchange{Target: "/healthz", Status: 201, Body: []byte(`{"status":"ok"}`)}, "status code"},
		{"a refusal's status", tape.Exchange{Target: "/healthz", Status: 409, Body: refusal("INVALID_PARAMS")}, "status code"},
		{"a health, asked for with a slash", tape.Exchange{Target: "/healthz/", Status: 200, Body: []byte(`{"status":"ok"}`)}, ""},
		{"a value that is none, asked for with a slash", tape.Exchange{Target: "/healthz/", Status: 200, Body: []byte(`{"status":"so"}`)}, "status"},
		{"a HEAD", tape.Exchange{Method: "HEAD", Target: "/readyz", Status: 200}, ""},
		{"a HEAD with another status", tape.Exchange{Method: "HEAD", Target: "/readyz", Status: 201}, "status 201"},
		{"another value", tape.Exchange{Target: "/healthz", Status: 200, Body: []byte(`{"status":"good"}`)}, "status"},
		{"no field", tape.Exchange{Target: "/healthz", Status: 200, Body: []byte(`{}`)}, "status"},
		{"one field more", tape.Exchange{Target: "/healthz", Status: 200, Body: []byte(`{"status":"ok","more":1}`)}, "more"},
		{"another media type", tape.Exchange{Target: "/healthz", Status: 200, Header: correlated("Content-Type", "text/plain"), Body: []byte(`ok`)}, "media type"},
		{"a refusal", tape.Exchange{Target: "/v1/tasks/t", Status: 404, Body: refusal("NOT_FOUND")}, ""},
		{"a refusal with the code of another status", tape.Exchange{Target: "/v1/tasks/t", Status: 404, Body: refusal("INTERNAL")}, "code"},
		{"a refusal with the code of another operation", tape.Exchange{Target: "/v1/tasks/t", Status: 404, Body: refusal("MODEL_NOT_FOUND")}, "MODEL_NOT_FOUND"},
		{"a refusal without an envelope", tape.Exchange{Target: "/nope", Status: 404, Body: []byte(`not found`)}, "envelope"},
		{"a path that is not there", tape.Exchange{Target: "/nope", Status: 404, Body: refusal("NOT_FOUND")}, ""},
		{"a stream", stream(task, "started", started), ""},
		{"a stream with another event", stream(task, "begun", started), "no such event"},
		{"a stream with another field", stream(task, "started", strings.Replace(started, "seed", "sown", 1)), "seed"},
		{"the log", stream(log, "line", line), ""},
		{"a stream with another stream's event", stream(log, "started", started), "no such event"},
		{"a line of the log that has no time", stream(log, "line", strings.Replace(line, "ts", "at", 1)), "ts"},
		{"bytes", tape.Exchange{
			Target: "/v1/artifacts/sha256-" + strings.Repeat("0", 64) + "/content", Status: 206, Body: []byte("b"),
			Header: correlated("Content-Type", "text/markdown", "Etag", `"x"`, "Accept-Ranges", "bytes", "Content-Range", "bytes 1-1/3"),
		}, ""},
		{"bytes without a header", tape.Exchange{
			Target: "/v1/artifacts/sha256-" + strings.Repeat("0", 64) + "/content", Status: 206, Body: []byte("c"),
			Header: correlated("Content-Type", "text/markdown", "Accept-Ranges", "bytes"),
		}, "etag"},
	}
	d, err := Load()
	require.NoError(t, err)
	l := process.NewLauncher()
	defer l.Close()
	var all Answers
	for _, c := range cases {
		c.exchange.Method, c.exchange.Whole = cmp.Or(c.exchange.Method, http.MethodGet), true
		if c.exchange.Header == nil {
			c.exchange.Header = correlated()
		}
		c.exchange.Asked = http.Header{}
		var one Answers
		one.Take(d, c.exchange)
		all.Kept, all.Wrong = append(all.Kept, one.Kept...), append(all.Wrong, one.Wrong...)
	}
	require.Len(t, all.Kept, len(cases))
	found, err := Replay(t.Context(), l, tools(t), t.TempDir(), d, &all)
	require.NoError(t, err)
	for _, c := range cases {
		var said []string
		for _, m := range found.Mismatches {
			if strings.Contains(m, " "+c.exchange.Target+" → ") && strings.HasSuffix(m, fmt.Sprintf("it answered %s", c.exchange.Body)) &&
				strings.Contains(m, fmt.Sprintf("→ %d ", c.exchange.Status)) {
				said = append(said, m)
			}
		}
		if c.finds == "" {
			require.Empty(t, said, c.name)
		} else {
			require.NotEmpty(t, said, c.name)
			require.Contains(t, said[0], c.finds, c.name)
		}
	}
}

func stream(target, event, data string) tape.Exchange {
	return tape.Exchange{
		Target: target, Status: 200, Body: fmt.Appendf(nil, "id: 0-00000000\nevent: %s\ndata: %s\n\n", event, data),
		Header: http.Header{"Content-Type": {"text/event-stream"}, "X-Correlation-Id": {"c"}},
	}
}

// LO-845: what is in no operation's words here is held elsewhere: the dialects against their owners' documents, the status page in a browser.
func TestOtherDialectsAndThePageAreLeftOut(t *testing.T) {
	d, err := Load()
	require.NoError(t, err)
	var a Answers
	for _, target := range []string{"/", "/page/events", "/v1/chat/completions"} {
		a.Take(d, tape.Exchange{Method: "GET", Target: target, Status: 200, Whole: true})
	}
	require.Zero(t, a.Recorded)
	a.Take(d, tape.Exchange{Method: "GET", Target: "/pages", Status: 404, Whole: true})
	require.Len(t, a.Kept, 1)
}
