// SPDX-License-Identifier: GPL-3.0-or-later

package haiku

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/llama-orch/llama-orch/harness/client"
	"github.com/llama-orch/llama-orch/harness/daemon"
	"github.com/llama-orch/llama-orch/harness/determinism"
	"github.com/llama-orch/llama-orch/harness/process"
	"github.com/llama-orch/llama-orch/harness/scripted"
)

// The engine that the test is pointed at: its URL, its kind, and the name by which it knows its model. Without a URL it is what this machine has.
const (
	envEngine = "LLORCH_HAIKU_ENGINE"
	envKind   = "LLORCH_HAIKU_KIND"
	envModel  = "LLORCH_HAIKU_MODEL"
	envKey    = "LLORCH_HAIKU_KEY"
	// envReport names a file that the suite's lines are added to: `go test` shows a passing test's lines to nobody.
	envReport = "LLORCH_HAIKU_REPORT"
)

var shared *daemon.Lab

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "haiku-")
		if err == nil {
			defer func() { _ = os.RemoveAll(dir) }()
			shared, err = daemon.NewLab(context.Background(), dir, "../..", "./harness/scripted/cmd/scripted")
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "haiku:", err)
			return 1
		}
		code := m.Run()
		shared.Close()
		if err := goleak.Find(); err != nil && code == 0 {
			fmt.Fprintln(os.Stderr, "haiku:", err)
			return 1
		}
		return code
	}())
}

// say is a line for the report.
func say(t *testing.T, format string, args ...any) {
	t.Helper()
	t.Logf(format, args...)
	path := os.Getenv(envReport)
	if path == "" {
		return
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	require.NoError(t, err)
	_, err = fmt.Fprintf(f, format+"\n", args...)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

// probe starts a daemon with one pool and returns a Probe for it. pool is the inside of its YAML flow map.
func probe(t *testing.T, pool string, processes func(data string) ([]int, error)) served {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	config := filepath.Join(dir, "config.yaml")
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, "bind_addr: 127.0.0.1:0\ndata_dir: data\nauth: {optional_on_loopback: true}\npools:\n  - {id: main, %s}\n", pool), 0o600))
	d, err := shared.Serve(t.Context(), daemon.Options{Config: config, Options: process.Options{
		Args: []string{"--no-self-test"}, Env: shared.Env(dir, keyOf(envKey)), Keep: 200,
	}})
	require.NoError(t, err)
	t.Cleanup(d.Kill)
	_, err = d.Idle(t.Context(), "main")
	require.NoError(t, err)
	return served{d.URL, &Probe{
		Client: d.Client, Pool: "main", Model: "haiku", Root: shared.Root, Now: time.Now,
		Processes: func() ([]int, error) { return processes(filepath.Join(dir, "data")) },
	}}
}

// served is a Probe of a daemon at an address.
type served struct {
	address string
	*Probe
}

// keyOf passes a variable with a key on to the daemon.
func keyOf(name string) map[string]string {
	if key := os.Getenv(name); key != "" {
		return map[string]string{name: key}
	}
	return nil
}

// own are the processes that the daemon has started.
func own(data string) ([]int, error) { return slices.Collect(maps.Keys(daemon.Noted(data))), nil }

func local(provisioning string) string {
	return fmt.Sprintf("model: {id: haiku, ref: %q}, device: cpu, ctx: 256, provisioning: %s", "file:"+shared.Model, provisioning)
}

func run(t *testing.T, p *Probe) *Report {
	t.Helper()
	report, err := p.Run(t.Context())
	require.NoError(t, err)
	return report
}

// A real engine passes every check: the bundled model on the built-in worker, and on the llama-server of this machine where it has one. If the suite is
// pointed at an engine elsewhere, that one alone.
//
// HAIKU-15
func TestARealEngineWritesTheHaikuOfTheMinute(t *testing.T) {
	pools := map[string]string{}
	processes := own
	if address := os.Getenv(envEngine); address != "" {
		at, err := url.Parse(address)
		require.NoError(t, err)
		port, err := strconv.Atoi(at.Port())
		require.NoError(t, err, "the engine's address needs a port")
		processes = func(string) ([]int, error) {
			pid, err := Listener(port)
			return []int{pid}, err
		}
		pool := "model: {id: haiku, ref: elsewhere"
		if name := os.Getenv(envModel); name != "" {
			pool += ", name: " + strconv.Quote(name)
		}
		pool += fmt.Sprintf("}, provisioning: {mode: external, urls: [%q]", address)
		if os.Getenv(envKey) != "" {
			pool += ", key_env: " + envKey
		}
		pool += "}"
		if kind := os.Getenv(envKind); kind != "" {
			pool += ", engine: " + kind
		}
		pools["elsewhere"] = pool
	} else {
		pools["built-in"] = local("{mode: builtin}")
		server, absent, err := determinism.LlamaServer()
		require.NoError(t, err)
		if absent != nil {
			say(t, "llama-server: not run, because it is not there: %v", absent)
		} else {
			pools["llama-server"] = local(fmt.Sprintf("{mode: binary, path: %q}", server))
		}
	}
	for name, pool := range pools {
		t.Run(name, func(t *testing.T) {
			report := run(t, probe(t, pool, processes).Probe)
			require.Empty(t, report.Failed(), "%s", report)
			if determinism.RequiresReal() {
				require.True(t, determinism.Real(report.Engine), "REQUIRE_REAL_LLAMA=1 wants a real engine, and this one says that it is %q", report.Engine)
			}
			say(t, "%s, %s:\n%s", name, report.Engine, report)
		})
	}
}

// cheat is a pool whose engine answers from a list: for each minute a haiku that holds it, whatever else was asked.
func cheat(t *testing.T, version string, line func(minute string) string) string {
	t.Helper()
	var script scripted.Script
	for minute := range 60 {
		words := Minute(minute)
		script.Rules = append(script.Rules, scripted.Rule{Contains: strconv.Quote(words), Play: []scripted.Step{{Text: line(words), Cut: 4}}})
	}
	script.Rules = append(script.Rules, scripted.Rule{Play: []scripted.Step{{Text: "who knows"}}})
	text, err := json.Marshal(script)
	require.NoError(t, err)
	dir := t.TempDir()
	list, program := filepath.Join(dir, "list.json"), filepath.Join(dir, "llama-server")
	require.NoError(t, os.WriteFile(list, text, 0o600))
	require.NoError(t, os.WriteFile(program, fmt.Appendf(nil, "#!/bin/sh\nexec %q --build %s --script %q \"$@\"\n", shared.Program("scripted"), version, list), 0o700))
	return local(fmt.Sprintf("{mode: binary, path: %q}", program))
}

// An engine that answers from a list says the minute, counts its tokens, and repeats itself, and is caught all the same: the length of a prompt costs it
// nothing, and it does not go on from its own first line. It may call itself what it likes.
//
// HAIKU-15
func TestAnEngineThatAnswersFromAListIsCaught(t *testing.T) {
	p := probe(t, cheat(t, "b7001-abcdef0", func(minute string) string {
		return "a lantern flickers\nin the " + minute + " quiet boughs\nthe kettle has cooled"
	}), own)
	report := run(t, p.Probe)
	require.Equal(t, []string{TheWork, TheHalf}, report.Failed(), "%s", report)
	say(t, "an engine with a list of 60 haiku is caught:\n%s", report)

	// The same, with the list in the source tree, in whatever form.
	p.Root = t.TempDir()
	list, err := json.Marshal([]string{report.Haiku[rounds-1]})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(p.Root, "answers.json"), list, 0o600))
	p.Now = func() time.Time { return minuteOf(t, report.Minutes[rounds-1]) }
	require.Contains(t, run(t, p.Probe).Failed(), TheTree)
}

func minuteOf(t *testing.T, words string) time.Time {
	t.Helper()
	for minute := range 60 {
		if Minute(minute) == words {
			return time.Date(2026, 1, 1, 0, minute, 0, 0, time.UTC)
		}
	}
	t.Fatalf("%q is no minute", words)
	return time.Time{}
}

// HAIKU-15
func TestAnAnswerWithoutTheMinuteIsCaught(t *testing.T) {
	report := run(t, probe(t, cheat(t, "scripted-1", func(string) string { return "a lantern flickers\nin the sixty quiet boughs\nthe kettle has cooled" }), own).Probe)
	require.Contains(t, report.Failed(), TheMinute)
	require.False(t, determinism.Real(report.Engine))
}

// Counters that do not move by what was streamed are caught: here they stay what they were when they were read first.
//
// HAIKU-15
func TestCountersThatDoNotMoveAreCaught(t *testing.T) {
	p := probe(t, local("{mode: builtin}"), own)
	at, err := url.Parse(p.address)
	require.NoError(t, err)
	first, err := p.Client.Get(t.Context(), "/metrics")
	require.NoError(t, err)
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(at) }} // without a header that says who forwards
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/metrics" {
			_, _ = w.Write(first)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	defer front.Close()
	p.Client = client.New(front.URL, "")
	defer p.Client.Close()
	require.Equal(t, []string{TheCounters}, run(t, p.Probe).Failed())
}

func TestAFileHoldsAnAnswerInWhateverFormItIsWritten(t *testing.T) {
	const answer = "a lantern flickers\nin the forty-two quiet boughs\nthe kettle has cooled"
	root := t.TempDir()
	for name, text := range map[string]string{
		"plain.txt": "x\n" + answer + "\ny", "list.go": "\"a lantern flickers\",\n\t\"in the forty-two quiet boughs\",\n\"the kettle has cooled\"",
		"one.json": `{"text": "A lantern flickers\nin the forty-two quiet boughs\nthe kettle has cooled"}`, "other.txt": "a lantern flickers\nin the forty-three quiet boughs",
		filepath.Join(".git", "x"): answer,
	} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(root, name), []byte(text), 0o600))
	}
	files, err := holding(root, answer)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"plain.txt", "list.go", "one.json"}, files)
	_, err = holding(root, "a cat")
	require.ErrorContains(t, err, "too short")
}

func TestWordsCountAsWholeWords(t *testing.T) {
	require.True(t, hasWords("Forty-two\nkernels", "forty-two"))
	require.True(t, hasWords("at (nine), all", "nine"))
	require.False(t, hasWords("nineteen", "nine"))
	require.False(t, hasWords("twenty-nine owls", "nine"))
	require.False(t, hasWords("ninety", "nine"))
}

func TestMinutesAreSpelled(t *testing.T) {
	for minute, words := range map[int]string{0: "zero", 7: "seven", 19: "nineteen", 20: "twenty", 40: "forty", 59: "fifty-nine"} {
		require.Equal(t, words, Minute(minute))
	}
}

func TestAListenersProcessIsFound(t *testing.T) {
	_, err := Listener(1)
	require.ErrorContains(t, err, "no process")
	here := httptest.NewServer(http.NotFoundHandler())
	defer here.Close()
	pid, err := Listener(here.Listener.Addr().(*net.TCPAddr).Port)
	require.NoError(t, err)
	require.Equal(t, os.Getpid(), pid)
}
