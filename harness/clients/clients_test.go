// SPDX-License-Identifier: GPL-3.0-or-later

package clients

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/daemon"
	"github.com/llama-orch/llama-orch/harness/process"
	"github.com/llama-orch/llama-orch/harness/scripted"
)

// The bundled model serves three pools: one as fast as it can, one at a reader's pace, and one that embeds. Two have a scripted engine, the second of
// them with one slot and one place in its queue.
const config = `
bind_addr: 127.0.0.1:%[4]d
data_dir: state
auth: {optional_on_loopback: true}
fronts: {serve: [openai, anthropic, ollama], hold: 300ms}
aliases: {claude-frog: haiku}
pools:
  - {id: fast, model: {id: haiku, ref: "file:%[1]s"}, device: cpu}
  - {id: slow, model: {id: slow-haiku, ref: "file:%[1]s"}, device: cpu, pace: 20}
  - {id: vectors, model: {id: vectors, ref: "file:%[1]s"}, device: cpu, workload: embedding}
  - {id: scripted, model: {id: scripted, ref: label}, provisioning: {mode: external, urls: ["%[2]s"]}}
  - {id: narrow, model: {id: narrow, ref: label}, queue: {capacity: 1}, provisioning: {mode: external, urls: ["%[3]s"]}}
`

var canCall = true

// script is what the scripted engines answer.
var script = scripted.Script{Rules: []scripted.Rule{
	{Match: "weather in Oslo", Tools: &canCall, Play: []scripted.Step{{Text: "I ask.", Cut: 3}, call(0, "Oslo")}},
	{Match: "two towns", Tools: &canCall, Play: []scripted.Step{call(0, "Oslo"), call(1, "Bergen")}},
	{Match: "12 degrees", Role: "tool", Play: []scripted.Step{{Text: "It is 12 degrees in Oslo.", Cut: 3}}},
	{Match: "frog as JSON", Play: []scripted.Step{{Text: `{"name":"frog","legs":4}`, Cut: 4}}},
	{Match: "in the picture", Play: []scripted.Step{{Text: "A red dot.", Cut: 3}}},
	{Match: "Think", Play: []scripted.Step{{Reasoning: "Frogs are green.", Cut: 4}, {Text: "Green.", Cut: 2}}},
	{Match: "Wait", Play: []scripted.Step{{Wait: true}, {Text: "Done waiting.", Cut: 5}}},
	{Match: "Break", Play: []scripted.Step{{Text: "Half an ans"}, {Error: &scripted.Failure{Code: http.StatusInternalServerError, Message: "the engine broke"}}}},
}}

func call(n int, city string) scripted.Step {
	return scripted.Step{Call: &scripted.Call{N: n, Name: "get_weather", Arguments: `{"city":"` + city + `"}`}, Cut: 4}
}

// programWithin bounds one program.
const programWithin = 3 * time.Minute

// Every case of every SDK's program passes, and each program has the cases that its file names.
//
// LO-401, LO-420
func TestOfficialSDKs(t *testing.T) {
	tools := os.Getenv("LLORCH_CLIENTS")
	require.NotEmpty(t, tools, "these tests need SDKs from npm: run `go tool mage clients`")
	env := serve(t)
	dir := t.TempDir()
	require.NoError(t, os.Symlink(filepath.Join(tools, "node_modules"), filepath.Join(dir, "node_modules"))) // a program's imports are looked for beside it
	require.NoError(t, os.CopyFS(dir, os.DirFS("programs")))
	node := filepath.Join(tools, "node_modules", ".bin", "node")
	for sdk, program := range map[string]func(*testing.T) []string{
		"openai":    func(*testing.T) []string { return []string{node, filepath.Join(dir, "openai.mjs")} },
		"anthropic": func(*testing.T) []string { return []string{node, filepath.Join(dir, "anthropic.mjs")} },
		"ollama":    func(*testing.T) []string { return []string{node, filepath.Join(dir, "ollama.mjs")} },
		"vercel":    func(*testing.T) []string { return []string{node, filepath.Join(dir, "vercel.mjs")} },
		"go": func(t *testing.T) []string {
			exe := filepath.Join(dir, "gosdk")
			require.NoError(t, process.Build(t.Context(), "gosdk", exe, ".")) // the first build takes minutes
			return []string{exe}
		},
	} {
		t.Run(sdk, func(t *testing.T) {
			got := play(t, program(t), env)
			wanted := cases(t, sdk)
			require.NotEmpty(t, wanted)
			for _, name := range wanted {
				t.Run(name, func(t *testing.T) {
					c, ran := got[name]
					require.True(t, ran, "the program ended before this case did")
					require.True(t, c.OK, c.Detail)
				})
				delete(got, name)
			}
			require.Empty(t, got, "cases that programs/cases.json does not have")
		})
	}
}

// cases are the names of the cases that a program has to have: what a program leaves out is missed.
func cases(t *testing.T, sdk string) []string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("programs", "cases.json"))
	require.NoError(t, err)
	var all map[string][]string
	require.NoError(t, json.Unmarshal(data, &all))
	return all[sdk]
}

// outcome is what a program says of a case.
type outcome struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
}

// play runs a program and returns what it says of its cases, by their names.
func play(t *testing.T, command, env []string) map[string]outcome {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), programWithin)
	defer stop()
	program := exec.CommandContext(ctx, command[0], command[1:]...)
	program.Env, program.WaitDelay = env, time.Second
	var failed strings.Builder
	program.Stderr = &failed
	out, err := program.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, program.Start())
	got := map[string]outcome{}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var o outcome
		if json.Unmarshal(lines.Bytes(), &o) != nil || o.Name == "" {
			t.Logf("it wrote %s", lines.Text())
			continue
		}
		got[o.Name] = o
	}
	if err := program.Wait(); err != nil {
		t.Errorf("the program ended with %v: %s", err, failed.String())
	}
	return got
}

// serve runs the daemon and its engines, and returns the programs' environment.
func serve(t *testing.T) []string {
	t.Helper()
	wide := httptest.NewServer(scripted.New(scripted.Options{Slots: 4, Vision: true, Thinks: true, Script: script}))
	t.Cleanup(wide.Close)
	narrow := httptest.NewServer(scripted.New(scripted.Options{Vision: true, Thinks: true, Script: script}))
	t.Cleanup(narrow.Close)
	lab, err := daemon.NewLab(t.Context(), t.TempDir(), "../..")
	require.NoError(t, err)
	t.Cleanup(lab.Close)
	file := filepath.Join(lab.Dir, "c.yaml")
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, config, lab.Model, wide.URL, narrow.URL, freePort(t)), 0o600))
	start := func() (*daemon.Daemon, error) {
		d, err := lab.Serve(t.Context(), daemon.Options{Config: file, Options: process.Options{Args: []string{"--no-self-test"}, Env: lab.Env(lab.Dir, nil)}})
		if err != nil {
			return nil, err
		}
		t.Cleanup(d.Kill)
		for _, pool := range []string{"fast", "slow", "vectors", "scripted", "narrow"} {
			if _, err := d.Idle(t.Context(), pool); err != nil {
				return nil, err
			}
		}
		return d, nil
	}
	d, err := start()
	require.NoError(t, err)
	var mu sync.Mutex // guards d
	control := http.NewServeMux()
	control.HandleFunc("POST /kill", func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		workers := d.Workers()
		for _, one := range workers {
			one.Kill()
		}
		_, _ = fmt.Fprintf(w, `{"killed":%d}`, len(workers))
	})
	control.HandleFunc("POST /restart", func(w http.ResponseWriter, _ *http.Request) { // by SIGKILL, to the same address
		mu.Lock()
		defer mu.Unlock()
		d.Kill()
		next, err := start()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		d = next
		_, _ = fmt.Fprint(w, `{}`)
	})
	test := httptest.NewServer(control)
	t.Cleanup(test.Close)
	return process.Env(lab.Dir, map[string]string{
		"LLORCH_BASE": d.URL, "LLORCH_SCRIPTED": wide.URL, "LLORCH_NARROW": narrow.URL, "LLORCH_TEST": test.URL,
	})
}

// freePort is a port that nobody has, so that a daemon can come back where it was.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	return l.Addr().(*net.TCPAddr).Port //nolint:forcetypeassert // it listens on TCP
}

// caseLine is how a program names a case.
var caseLine = regexp.MustCompile(`(?m)^  "([^"]+)": async`)

// The list of cases is that of the programs for Node, so that none is left out by mistake.
//
// LO-420
func TestTheListOfCases(t *testing.T) {
	for _, sdk := range []string{"openai", "anthropic", "ollama"} {
		data, err := os.ReadFile(filepath.Join("programs", sdk+".mjs"))
		require.NoError(t, err)
		var named []string
		for _, m := range caseLine.FindAllStringSubmatch(string(data), -1) {
			named = append(named, m[1])
		}
		require.Equal(t, cases(t, sdk), named, sdk)
	}
}
