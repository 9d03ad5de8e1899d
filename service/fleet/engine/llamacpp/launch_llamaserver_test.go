// SPDX-License-Identifier: GPL-3.0-or-later

//go:build llamaserver

package llamacpp_test

import (
	"encoding/json"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/llamacpp"
	"github.com/llama-orch/llama-orch/service/supply/provision"
	"github.com/llama-orch/llama-orch/service/task"
)

// launch starts the engine the tests of this build run on: a real llama-server (`go tool mage engine:llamaServer`), which has no pace.
func launch(t testing.TB, workload task.Workload, _ float64) (*llamacpp.Engine, *exec.Cmd) {
	t.Helper()
	return launchServer(t, workload)
}

// launchServer starts it with more arguments.
func launchServer(t testing.TB, workload task.Workload, more ...string) (*llamacpp.Engine, *exec.Cmd) {
	t.Helper()
	e, _, cmd := launchAt(t, workload, more...)
	return e, cmd
}

// launchAt says the address, too.
func launchAt(t testing.TB, workload task.Workload, more ...string) (e *llamacpp.Engine, at string, _ *exec.Cmd) {
	t.Helper()
	binary, err := provision.LocateLlamaServer()
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	_, port, err := net.SplitHostPort(l.Addr().String())
	require.NoError(t, err)
	require.NoError(t, l.Close())
	// Flags that would change bytes if the adapter left anything to the server's defaults.
	args := []string{
		"-m", model, "-c", "256", "--parallel", "1", "-t", "1", "--cache-ram", "0", "--port", port, "--context-shift",
		"--temp", "1.5", "--top-k", "3", "--min-p", "0.3", "--repeat-last-n", "8", "--presence-penalty", "1", "--dry-multiplier", "0.8",
		"--xtc-probability", "0.5", "--typical", "0.5", "--samplers", "temperature;xtc;dry", "--seed", "7", "-n", "5",
		"--slot-save-path", t.TempDir(),
	}
	args = append(args, more...)
	if workload == task.Embedding {
		args = append(args, "--embedding", "--pooling", "mean")
	}
	cmd := exec.Command(binary, args...)
	cmd.Env = append(os.Environ(), "LLAMA_API_KEY="+key)
	log := &strings.Builder{}
	cmd.Stdout, cmd.Stderr = log, log
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	at = "http://127.0.0.1:" + port
	return connect(t, at), at, cmd
}

// The two are different builds of llama.cpp with code for different processors, so the last bits of their sums differ and
// now and then a draw falls on the other side of a boundary. Any mistake in the sampler chain, in the seed or in the
// prompt's tokens would leave next to nothing the same. Determinism is promised per fingerprint, and this is why.
//
// ORCH-3054
func TestBuiltInWorkerGivesLlamaServersBytes(t *testing.T) {
	server, _ := launch(t, task.Completion, 0)
	builtin, _ := launchWorker(t, task.Completion, 0)
	topics := []string{"GPUs", "rain", "a queue", "frogs", "the night sky", "old computers", "Zanzibar", "tea"}
	same, n := 0, 0
	for seed := range 400 {
		job := engine.Job{
			Prompt: fmt.Sprintf("Write a haiku about %s containing \"word%d\".\n\n", topics[seed%len(topics)], seed),
			Seed:   uint32(seed) * 2654435761, MaxTokens: 64,
			Sampling: task.Sampling{Temperature: 0.8, TopP: 0.95, TopK: 40, MinP: 0.05, RepeatPenalty: 1},
		}
		switch seed % 4 {
		case 1:
			job.Sampling.Temperature = 0
		case 2:
			job.Sampling = task.Sampling{Temperature: 1.3, TopP: 1, TopK: 0, MinP: 0, RepeatPenalty: 1.2}
		case 3:
			job.Sampling = task.Sampling{Temperature: 1, TopP: 0.7, TopK: 100, MinP: 0.01, RepeatPenalty: 1.1, Stop: []string{"the", "\n\n"}}
		}
		var a, b strings.Builder
		ra, err := server.Generate(t.Context(), job, collect(&a))
		require.NoError(t, err)
		rb, err := builtin.Generate(t.Context(), job, collect(&b))
		require.NoError(t, err)
		n++
		if a.String() == b.String() && ra.TokensIn == rb.TokensIn && ra.TokensOut == rb.TokensOut && ra.Finish == rb.Finish {
			same++
		} else {
			t.Logf("seed %d: llama-server %q, built-in %q", seed, a.String(), b.String())
		}
	}
	t.Logf("%d of %d answers are the same", same, n)
	require.GreaterOrEqual(t, same, n*85/100)
}

// ORCH-3054
func TestBuiltInWorkerGivesLlamaServersEmbeddings(t *testing.T) {
	server, _ := launch(t, task.Embedding, 0)
	builtin, _ := launchWorker(t, task.Embedding, 0)
	job := engine.Job{Workload: task.Embedding, Inputs: []string{"rain on the roof", "a queue of jobs", "ñandú 🐸"}}
	a, _, err := server.Embed(t.Context(), job)
	require.NoError(t, err)
	b, _, err := builtin.Embed(t.Context(), job)
	require.NoError(t, err)
	var va, vb struct{ Embeddings [][]float64 }
	require.NoError(t, json.Unmarshal(a, &va))
	require.NoError(t, json.Unmarshal(b, &vb))
	worst := 0.0
	for i := range va.Embeddings {
		for j := range va.Embeddings[i] {
			worst = max(worst, math.Abs(va.Embeddings[i][j]-vb.Embeddings[i][j]))
		}
	}
	t.Logf("largest difference of a component: %g", worst)
	require.Less(t, worst, 1e-4)
}

// LO-844: a real llama-server goes on behind a stop string with U+FFFD, and stops once it is left. The text and the tokens are those of the
// run without the stop string, up to it.
func TestARealLlamaServerIsLeftAtAStopString(t *testing.T) {
	server, _ := launch(t, task.Completion, 0)
	wild := func(seed uint32, stop ...string) engine.Job {
		return job(func(j *engine.Job) { // the sampling lets nearly every token come, and so broken bytes
			j.Seed, j.Sampling, j.MaxTokens = seed, task.Sampling{Temperature: 3, TopP: 1, RepeatPenalty: 1, Stop: stop}, 100
		})
	}
	for seed := range uint32(50) {
		whole, all := generate(t, server, wild(seed))
		before, behind, broken := strings.Cut(whole, "\uFFFD")
		if !broken || before == "" || len(behind) < 20 {
			continue
		}
		text, got := generate(t, server, wild(seed, "\uFFFD"))
		require.Equal(t, before, text)
		require.Equal(t, all.TokensIn, got.TokensIn)
		require.Positive(t, got.TokensOut)
		require.Less(t, got.TokensOut, all.TokensOut)
		require.Positive(t, got.Prefill)
		require.Positive(t, got.Decode)
		require.Less(t, got.Decode, all.Decode)
		require.Equal(t, task.FinishStop, got.Finish)
		require.True(t, got.Left)
		for busy := 1; busy > 0; { // it notices that it was left
			var err error
			busy, err = server.Busy(t.Context())
			require.NoError(t, err)
		}
		again, _ := generate(t, server, wild(seed, "\uFFFD"))
		require.Equal(t, before, again)
		return
	}
	require.Fail(t, "no run had a broken byte in its middle")
}
