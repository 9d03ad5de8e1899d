// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/gen"
	"github.com/llama-orch/llama-orch/harness/cert"
)

// What the server says in words of its API, the CLI says in its own: what is asked, and what must come out.
//
// LO-847
func TestErrorsAreInTheWordsOfTheCommand(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ args, said, want string }{
		{"task x", `there is no task "x": GET /v1/tasks lists the recent ones`, "there is no task \"x\": `llama-orch tasks` lists the recent ones"},
		{"models show x", `the catalog has no model "x": GET /v1/catalog/models lists those it has`, "the catalog has no model \"x\": `llama-orch models` lists those it has"},
		{"artifact get " + anArtifact, "path parameter `id` must be a string that matches ^sha256-", "the id must be a string that matches ^sha256-"},
		{"artifact get " + anArtifact, "it was removed since; GET /v1/artifacts lists those there are", "it was removed since; `llama-orch artifacts` lists those there are"},
		{"run -m m p", "pool 'a.b' has no Ready replica now: try again in a moment; /v1/pools/a.b/health says why", "pool 'a.b' has no Ready replica now: try again in a moment; `llama-orch pool health a.b` says why"},
		{"run -m m p", "see `/v1/pools/a/health`.", "see `llama-orch pool health a`."},
		{"run -m m p", "`max_tokens` asks for 9; lower max_tokens to 2", "--max-tokens asks for 9; lower --max-tokens to 2"},
		{"run -m m p", "task_id t is taken by a task with another body: choose another id", "--task-id t is taken by a task with another body: choose another id"},
		{"run -m m p", "`seed` must be an integer, `ctx` too", "--seed must be an integer, `ctx` too"},
		{"run -m m p", "`params.temperature` must be a number, `params.stop[0]` a string", "--temperature must be a number, --stop a string"},
		{"explain -m m", "a worker needs more: lower `ctx` or `slots`", "a worker needs more: lower --ctx or `slots`"},
		{"pool reload a b", "lower `ctx` or `slots`, `new_model_ref` is missing", "lower `ctx` or `slots`, the new model's ref is missing"},
		{"pool health a", "POST /v1/pools/a/resume brings it back", "`llama-orch pool resume a` brings it back"},
		{"session show 11111111-1111-4111-8111-111111111111", "begin another one, or DELETE /v1/sessions/1-1 to use this id again", "begin another one, or `llama-orch session delete 1-1` to use this id again"},
		{"tasks", "query parameter `limit` must be an integer", "--limit must be an integer"},
		{"tasks", "this operation is not implemented yet; GET /v1/capabilities lists what is live", "this operation is not implemented yet; `llama-orch capabilities` lists what is live"},
	} {
		d := newDaemon()
		d.refuse = &gen.ErrorStatusCodeWithHeaders{StatusCode: 404, Response: gen.Error{Code: gen.ErrorCodeNOTFOUND, Message: c.said}}
		got := callWith(t.Context(), map[string]string{addrEnv: refusing(t, d.refuse)}, "", strings.Fields(c.args)...)
		first, _, _ := strings.Cut(got.err, "\n")
		require.Equal(t, "error: "+c.want+" (NOT_FOUND)", first, c.args)
	}
	got := callWith(t.Context(), map[string]string{addrEnv: "http://127.0.0.1:1"}, "", "artifact", "get", "x")
	require.Equal(t, exitUsage, got.code, "what breaks the contract is not sent (LO-903)")
	require.Contains(t, got.err, "error: `id`: \"x\" is none: it has the length 1, and must have at least 71\n")
	got = callWith(t.Context(), map[string]string{addrEnv: refusing(t, refusal(401, gen.ErrorCodeMISSINGTOKEN))}, "", "pools")
	require.Contains(t, got.err, "hint: export LLORCH_API_TOKEN=TOKEN: the server's\n")
	got = callWith(t.Context(), map[string]string{addrEnv: refusing(t, refusal(401, gen.ErrorCodeBADTOKEN))}, "", "pools")
	require.Contains(t, got.err, "hint: compare LLORCH_API_TOKEN here with the server's\n")
}

var anArtifact = "sha256-" + strings.Repeat("0", 64)

// refusing is a server that answers everything with an error.
func refusing(t *testing.T, e *gen.ErrorStatusCodeWithHeaders) string {
	t.Helper()
	body, err := e.Response.MarshalJSON()
	require.NoError(t, err)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(e.StatusCode)
		_, _ = w.Write(body)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// Whether the server runs is asked only where that may be the matter.
//
// LO-847
func TestWhyNoAnswerCame(t *testing.T) {
	t.Parallel()
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = zap.NewStdLog(zap.NewNop())
	secure.StartTLS()
	t.Cleanup(secure.Close)
	certFile, keyFile, err := cert.WriteFor(t.TempDir(), "old", time.Now().Add(-48*time.Hour), time.Now().Add(-24*time.Hour))
	require.NoError(t, err)
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	require.NoError(t, err)
	expired := httptest.NewUnstartedServer(http.NotFoundHandler())
	expired.Config.ErrorLog, expired.TLS = secure.Config.ErrorLog, &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	expired.StartTLS()
	t.Cleanup(expired.Close)
	plain := newDaemon().serve(t)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, free.Close())
	for name, c := range map[string]struct {
		addr, want string
		code       int
	}{
		"a certificate that nobody trusts": {secure.URL, "its certificate is not trusted on this machine: SSL_CERT_FILE", exitUnreachable},
		"a certificate that has expired":   {expired.URL, "hint: the server's certificate has expired", exitUnreachable},
		"https to a plain server":          {strings.Replace(plain, "http:", "https:", 1), "hint: the server there speaks plain HTTP: its address is " + plain, exitUnreachable},
		"http to a server behind TLS":      {"http://" + strings.TrimPrefix(secure.URL, "https://"), "If it is one behind TLS, its address is " + secure.URL, exitFailed},
		"a name that nobody knows":         {"http://nowhere.invalid:8080", "the name is not known", exitUnreachable},
		"a server that does not run":       {"http://" + free.Addr().String(), "is the server running", exitUnreachable},
	} {
		got := callWith(t.Context(), map[string]string{addrEnv: c.addr}, "", "pools")
		require.Equal(t, c.code, got.code, name)
		require.Contains(t, got.err, c.want, name)
		require.Equal(t, name == "a server that does not run", strings.Contains(got.err, "is the server running"), name)
	}
	found, _ := doctor(t, secure.URL)
	require.Contains(t, strings.Join(found["server"].Fixes, "\n"), "SSL_CERT_FILE")
}

// LO-847
func TestTasksOfTheSelfTestAreHidden(t *testing.T) {
	t.Parallel()
	d := newDaemon()
	d.selfTests = 2
	addr := d.serve(t)
	require.Equal(t, 2, strings.Count(call(t.Context(), addr, "", "tasks", "--self-test").out, "\nself-1 "))
	for _, args := range [][]string{{"tasks"}, {"tasks", "--json"}} {
		got := call(t.Context(), addr, "", args...).out
		require.NotContains(t, got, "self-1")
		require.Contains(t, got, "b")
	}
	got := call(t.Context(), addr, "", "tasks", "--limit", "1").out
	require.Regexp(t, `(?m)^b +queued`, got, "their place is another task's")
	require.NotRegexp(t, `(?m)^a `, got)
}

// Every path of the API that the service names in a message is one that the CLI can put in its own words.
//
// LO-847
func TestTheCLIKnowsTheOperationsThatMessagesName(t *testing.T) {
	t.Parallel()
	a := &app{}
	n := 0
	named := regexp.MustCompile(`"[^"\n]*\b((?:GET|POST|DELETE) /v1/[a-z]+[^ "` + "`" + `;,:)]*|/v1/pools/%[^ "]*health)`)
	require.NoError(t, walkGo("../../service", func(path string, text string) {
		for _, m := range named.FindAllStringSubmatch(text, -1) {
			operation := regexp.MustCompile(`%(\[\d\])?[sqv]`).ReplaceAllString(m[1], "x")
			if strings.HasSuffix(operation, "/") {
				operation += "x" // the id is added
			}
			if regexp.MustCompile(`workers/register|HTTP/1`).MatchString(operation) {
				continue // what an engine calls
			}
			n++
			require.Contains(t, a.inWords(operation), "llama-orch", "%s: %s", path, operation)
		}
	}))
	require.Greater(t, n, 8, "the search is broken")
}

func walkGo(root string, do func(path, text string)) error {
	entries, err := os.ReadDir(root)
	for _, e := range entries {
		path := root + "/" + e.Name()
		switch {
		case err != nil:
		case e.IsDir():
			err = walkGo(path, do)
		case strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go"):
			var text []byte
			if text, err = os.ReadFile(path); err == nil {
				do(path, string(text))
			}
		}
	}
	return err
}
