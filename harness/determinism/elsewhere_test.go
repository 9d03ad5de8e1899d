// SPDX-License-Identifier: GPL-3.0-or-later

package determinism

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The engine that the test is pointed at: its URL, its kind, the name by which it knows its model, how many tasks it is given at once, and its key. Without a URL it
// is a built-in worker that the test starts.
const (
	envEngine = "LLORCH_DETERMINISM_ENGINE"
	envKind   = "LLORCH_DETERMINISM_KIND"
	envModel  = "LLORCH_DETERMINISM_MODEL"
	envSlots  = "LLORCH_DETERMINISM_SLOTS"
	envKey    = "LLORCH_DETERMINISM_KEY"
)

// An engine that runs elsewhere gives the same bytes for every case: alone, while it computes as many others as it takes, and to a daemon that was killed and
// started again.
//
// LO-453, ORCH-3045
func TestAnEngineElsewhereGivesTheSameBytes(t *testing.T) {
	began := time.Now()
	url := os.Getenv(envEngine)
	kind, slots := cmp.Or(os.Getenv(envKind), "vllm"), cmp.Or(os.Getenv(envSlots), "8")
	more := ", determinism: {batch_invariant: true}"
	if url == "" {
		url, kind, slots, more = workerElsewhere(t), "llamacpp", "1", ""
	} else if kind == "llamacpp" {
		slots, more = "1", ""
	}
	at := fmt.Sprintf("mode: external, urls: [%q]", url)
	env := map[string]string{}
	if key := os.Getenv(envKey); key != "" {
		at, env[envKey] = at+", key_env: "+envKey, key
	}
	model := "id: haiku, ref: elsewhere"
	if name := os.Getenv(envModel); name != "" {
		model += ", name: " + strconv.Quote(name)
	}
	config := fmt.Sprintf("bind_addr: 127.0.0.1:0\ndata_dir: data\nauth: {optional_on_loopback: true}\nsampler_profiles:\n  v1: {temperature: 0.8, top_p: 0.95, top_k: 40}\n  v2: {temperature: 1.4, top_p: 1, top_k: 0, min_p: 0.02}\n"+
		"pools:\n  - {id: main, engine: %s, model: {%s}, slots: %s, sampler_profile: v1, provisioning: {%s}%s, queue: {capacity: 1000}}\n", kind, model, slots, at, more)

	dir, err := proofDir()
	require.NoError(t, err)
	p := newProof(dir)
	for number, name := range []string{"in the first life", "after a kill -9"} {
		d := serve(t, name, config, env)
		ready(t, d, "main")
		for _, c := range cases(t) {
			r, err := d.answer(t.Context(), c, "main", "alone-"+c.Name)
			require.NoError(t, err)
			require.NoError(t, p.add(r))
		}
		for _, r := range together(t, d, number) {
			require.NoError(t, p.add(r))
		}
		d.Kill()
	}
	if report := p.report(); report != "" {
		say(t, "%s", report)
		t.Fatal("the promise of the receipts does not hold")
	}
	for _, r := range p.first {
		require.Equal(t, "strict", r.receipt().Determinism, "the engine has several slots, or is none that promises the same bytes")
	}
	say(t, "an engine elsewhere (%s, %s, %s at a time): %d cases, %d runs alone and among others, in 2 lives of the daemon, %d tokens, no difference, in %s",
		kind, p.first["c00"].receipt().EngineVersion, slots, len(p.first), p.runs, p.tokens, took(began))
}

// together has the pool answer all cases at once. Their ids are those of no other life: the ids of events cover the place in line.
func together(t *testing.T, d *life, number int) []*run {
	t.Helper()
	all := cases(t)
	runs, errs := make([]*run, len(all)), make([]error, len(all))
	var wait sync.WaitGroup
	for i, c := range all {
		wait.Go(func() {
			runs[i], errs[i] = d.answer(t.Context(), c, "main", fmt.Sprintf("together-%d-%s", number, c.Name))
		})
	}
	wait.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	return runs
}

// workerElsewhere starts a built-in worker that no daemon knows as its own.
func workerElsewhere(t *testing.T) (url string) {
	t.Helper()
	cmd := exec.Command(shared.Program("orchestratord"), "worker", "--model", shared.Model, "--libs", shared.Libs, "--threads", "1", "--ctx", "256")
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe() // it ends with it
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = stdin.Close(); _ = cmd.Wait() })
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	require.NoError(t, err)
	var hello struct{ Listening string }
	require.NoError(t, json.Unmarshal(line, &hello))
	return "http://" + hello.Listening
}
