// SPDX-License-Identifier: GPL-3.0-or-later

package determinism

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// liar is a program that the daemon takes for a llama-server: the fake engine, on the port that it is told. It says in a
// file which ports it got.
const liar = `#!/bin/sh
while [ $# -gt 0 ]; do
	[ "$1" = --port ] && port=$2
	shift
done
echo "$port" >>%q
exec %q -listen "127.0.0.1:$port" -build b1-abcdef0
`

// The gate can fail: two replicas of one program and one model, hence of one fingerprint, of which the second says another
// third token. The suite finds it, names the token, and leaves a bundle.
//
// OC-TEST-7001, LO-205
func TestABrokenPromiseIsFoundAndLeavesABundle(t *testing.T) {
	dir := t.TempDir()
	program, ports := filepath.Join(dir, "llama-server"), filepath.Join(dir, "ports")
	require.NoError(t, os.WriteFile(program, fmt.Appendf(nil, liar, ports, shared.fake), 0o700))
	d := serve(t, "with a liar", shared.config(pool{id: "main", replicas: 2, provisioning: binary(program)}), nil)
	replicas := ready(t, d, "main")
	require.Equal(t, replicas[0].Fingerprint, replicas[1].Fingerprint)

	listed, err := os.ReadFile(ports)
	require.NoError(t, err)
	for i, port := range strings.Fields(string(listed)) {
		words := []string{"old ", "pond ", []string{"frog ", "toad "}[i], "leaps"}
		script(t, port, fmt.Sprintf(`{"text": ["%s"], "interval_ms": 5}`, strings.Join(words, `","`)))
	}
	bundles := t.TempDir()
	p := newProof(bundles)
	require.NoError(t, p.pass(t.Context(), d, "main", cases(t)[:5]))

	require.NotEmpty(t, p.differences)
	first := p.differences[0]
	require.Equal(t, "the tokens", first.what)
	require.Equal(t, 2, first.index)
	report := p.report()
	for _, part := range []string{
		"case c00: the tokens differ", "the first differing token is 2", `"frog "`, `"toad "`, replicas[0].Fingerprint, "main-0", "main-1",
		"old pond", first.bundle, "and 2 more differences",
	} {
		require.Contains(t, report, part)
	}
	require.Equal(t, bundles, filepath.Dir(first.bundle))
	for _, side := range []string{"a", "b"} {
		for file, part := range map[string]string{
			"request.json": `"seed":0`, "stream.sse": "event: end\n", "receipt.json": replicas[0].Fingerprint, "health.json": `"replicas"`,
			"daemon.log": `"serving"`,
		} {
			data, err := os.ReadFile(filepath.Join(first.bundle, side+"."+file))
			require.NoError(t, err)
			require.Contains(t, string(data), part)
		}
	}
	text, err := os.ReadFile(filepath.Join(first.bundle, "difference.txt"))
	require.NoError(t, err)
	require.Equal(t, first.String()+"\n", string(text))
	kept, err := os.ReadDir(bundles)
	require.NoError(t, err)
	require.Len(t, kept, 3, "no more bundles than one can look at")

	// It even says that it is a llama-server, and the model's file is the right one.
	require.ErrorContains(t, genuine(p.first, serverVersion, shared.Model), "0 of 5 answers hold the minute")
	require.ErrorContains(t, genuine(p.first, builtinVersion, shared.Model), "no version of a real engine")
	require.ErrorContains(t, genuine(p.first, serverVersion, program), "names the model")
}

func script(t *testing.T, port, json string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://127.0.0.1:"+port+"/_fake/script", strings.NewReader(json))
	require.NoError(t, err)
	transport := &http.Transport{DisableKeepAlives: true}
	response, err := (&http.Client{Transport: transport}).Do(request)
	require.NoError(t, err)
	_, _ = io.Copy(io.Discard, response.Body)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusNoContent, response.StatusCode)
}

// Everything that a run is compared in is compared: a run with any one of them changed is another run.
//
// OC-TEST-7001, LO-204
func TestEveryChangeIsADifference(t *testing.T) {
	d := serve(t, "for comparisons", shared.config(pool{id: "main", provisioning: "{mode: builtin}"}), nil)
	ready(t, d, "main")
	original := ask(t, d, cases(t)[0], "main")
	require.Nil(t, compare(original, original))
	for want, change := range map[string]func(*run){
		"the tokens":               func(r *run) { r.Tokens[3] += "!" },
		"the fingerprints":         func(r *run) { r.End.Receipt.Fingerprint = "fp-0" },
		"the request digests":      func(r *run) { r.End.Receipt.RequestDigest = "0" },
		"the transcripts' SHA-256": func(r *run) { r.End.Receipt.TranscriptSHA256 = "0" },
		"the seeds":                func(r *run) { r.End.Receipt.Seed++ },
		"the promises":             func(r *run) { r.End.Receipt.Determinism = "best_effort" },
		"the engine versions":      func(r *run) { r.End.Receipt.EngineVersion = "0" },
		"the model digests":        func(r *run) { r.End.Receipt.ModelDigest = "0" },
		"the numbers of tokens":    func(r *run) { r.End.TokensIn++ },
		"the finish reasons":       func(r *run) { r.End.FinishReason = "length" },
		"the event ids":            func(r *run) { r.Events[2].ID = "2-00000000" },
	} {
		log, end := *original.Log, *original.End
		log.Tokens, log.Events, log.End = slices.Clone(log.Tokens), slices.Clone(log.Events), &end
		changed := *original
		changed.Log = &log
		change(&changed)
		found := compare(original, &changed)
		require.NotNil(t, found, want)
		require.Equal(t, want, found.what)
	}
	// The same text in other pieces is another stream, and one that ends early another one too.
	require.Equal(t, 1, firstDiffering([]string{"a", "b", "c"}, []string{"a", "bc"}))
	require.Equal(t, 1, firstDiffering([]string{"a"}, []string{"a", "b"}))
	require.Equal(t, -1, firstDiffering([]string{"a"}, []string{"a"}))
}

// REQUIRE_REAL_LLAMA=1 wants the llama-server that is not there.
//
// OC-TEST-7001, HAIKU-15
func TestARealLlamaServerCanBeRequired(t *testing.T) {
	t.Setenv("LLORCH_LLAMA_SERVER", "")
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Setenv(requireReal, "")
	present, absent, err := shared.engines()
	require.NoError(t, err)
	require.Len(t, present, 1)
	require.Len(t, absent, 1)
	require.Contains(t, absent[0], "llama-server: not run")
	t.Setenv(requireReal, "1")
	_, _, err = shared.engines()
	require.ErrorContains(t, err, "REQUIRE_REAL_LLAMA=1 wants a real llama-server")
	t.Setenv(requireReal, "")
	t.Setenv("LLORCH_LLAMA_SERVER", filepath.Join(t.TempDir(), "none"))
	_, _, err = shared.engines()
	require.Error(t, err, "one that was named is meant to run")
}
