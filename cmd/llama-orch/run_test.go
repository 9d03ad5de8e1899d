// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/gen"
	"github.com/llama-orch/llama-orch/service/task"
)

// LO-504
func TestRunTellsTheEnergy(t *testing.T) {
	t.Parallel()
	d, took := newDaemon(), 61.26
	d.took = &took
	d.complete(t, "rain")
	got := call(t.Context(), d.serve(t), "", "run", "a haiku")
	require.Zero(t, got.code, got.err)
	require.Contains(t, got.err, ", 61.3 J\n")
	for v, text := range map[float64]string{0: "0.0 J", 9_999.94: "9999.9 J", 12_345: "12.3 kJ", 9_000_000: "2.5 kWh"} {
		require.Equal(t, text, joules(v))
	}
}

// LO-102, LO-204, AUTH-1001
func TestRunStreamsTheAnswer(t *testing.T) {
	t.Parallel()
	d := newDaemon().complete(t, "Soft", " rain\x1b\n", "again")
	got := call(t.Context(), d.serve(t), "", "run", "a haiku")
	require.Zero(t, got.code, got.err)
	require.Equal(t, "Soft rain\x1b\nagain", got.out, "byte for byte where stdout is no terminal")
	_, digest := d.log.Transcript()
	require.Equal(t, "3 tokens, 1.5 s, default-0, seed 7, receipt "+digest[:12]+"\n", got.err)
	require.Equal(t, "s3cret", d.token)
	require.Equal(t, gen.ModelRef("haiku"), d.request.ModelRef, "the only model for completions")
	require.Equal(t, "a haiku", d.request.Prompt.Value)
	require.NotEmpty(t, d.request.TaskID.Value)
	require.False(t, d.request.Seed.Set)
	require.False(t, d.request.Params.Set)
	require.False(t, d.request.Determinism.Set)
}

// A log that takes both outputs has the summary on a line of its own. LO-102
func TestRunEndsTheAnswersLineInALog(t *testing.T) {
	t.Parallel()
	d := newDaemon().complete(t, "Soft", " rain")
	file, err := os.Create(filepath.Join(t.TempDir(), "log"))
	require.NoError(t, err)
	defer func() { require.NoError(t, file.Close()) }()
	env := map[string]string{addrEnv: d.serve(t), tokenEnv: "s3cret"}
	require.Zero(t, run(t.Context(), []string{"run", "a haiku"}, func(key string) string { return env[key] }, strings.NewReader(""), file, file))
	written, err := os.ReadFile(file.Name())
	require.NoError(t, err)
	require.Regexp(t, `^Soft rain\n2 tokens, .*\n$`, string(written))
}

// LO-102
func TestRunFlags(t *testing.T) {
	t.Parallel()
	d := newDaemon().complete(t)
	got := call(t.Context(), d.serve(t), "from stdin\n", "run", "-", "--model", "m", "--priority", "batch", "--seed", "4294967294", "--max-tokens", "9",
		"--temperature", "0", "--stop", "a,b", "--stop", "c", "--task-id", "t-1", "--pool", "p", "--determinism", "best_effort", "--system", "be brief", "-v")
	require.Zero(t, got.code, got.err)
	r := d.request
	require.Equal(t, gen.ModelRef("m"), r.ModelRef)
	require.Equal(t, gen.NewOptTaskID("t-1"), r.TaskID)
	require.Equal(t, gen.TaskRequestPriorityBatch, r.Priority.Value)
	require.Equal(t, gen.NewOptSeed(4294967294), r.Seed)
	require.Equal(t, gen.NewOptInt(9), r.MaxTokens)
	require.Equal(t, gen.NewOptFloat64(0), r.Params.Value.Temperature)
	require.Equal(t, []string{"a,b", "c"}, r.Params.Value.Stop)
	require.Equal(t, gen.NewOptDeterminism(gen.DeterminismBestEffort), r.Determinism)
	require.Equal(t, gen.PlacementWish{Mode: gen.NewOptPlacementWishMode("pin"), PoolID: gen.NewOptPoolID("p")}, r.Placement.Value)
	require.Equal(t, []gen.Message{say("system", "be brief"), say("user", "from stdin\n")}, r.Messages)
	require.False(t, r.Prompt.Set)
	require.Contains(t, got.err, "task t-1 in pool default")
	require.Contains(t, got.err, "1 ahead in line, starts in about ")
}

// LO-201
func TestRunJSON(t *testing.T) {
	t.Parallel()
	d := newDaemon().complete(t, "<a>", "b")
	got := call(t.Context(), d.serve(t), "", "--json", "run", "x")
	require.Zero(t, got.code)
	require.Empty(t, got.err)
	var names []string
	for line := range strings.Lines(got.out) {
		var event struct {
			ID    string
			Event string
			Data  map[string]any
		}
		require.NoError(t, json.Unmarshal([]byte(line), &event), line)
		require.Equal(t, event.Event == "metrics", event.ID == "")
		names = append(names, event.Event)
	}
	require.Equal(t, []string{"metrics", "started", "token", "token", "end"}, names)
	require.Contains(t, got.out, `"data":{"t":"<a>","i":0}}`, "the data as it was sent")
}

// LO-102
func TestRunNeedsAModel(t *testing.T) {
	t.Parallel()
	d := newDaemon()
	d.pools = append(d.pools, pool("second", "haiku", gen.WorkloadCompletion), pool("third", "qwen", gen.WorkloadCompletion))
	addr := d.serve(t)
	got := call(t.Context(), addr, "", "run", "x")
	require.Equal(t, exitUsage, got.code)
	require.Contains(t, got.err, "choose one with --model: haiku, qwen\n")
	require.Nil(t, d.request)

	d.complete(t)
	require.Zero(t, call(t.Context(), addr, "", "run", "x", "--pool", "third").code)
	require.Equal(t, gen.ModelRef("qwen"), d.request.ModelRef)

	got = call(t.Context(), addr, "", "run", "x", "--pool", "fourth")
	require.Equal(t, exitFailed, got.code)
	require.Contains(t, got.err, `no pool "fourth"`)

	d.pools = nil
	got = call(t.Context(), addr, "", "run", "x")
	require.Equal(t, exitFailed, got.code)
	require.Contains(t, got.err, "add a pool")
}

// OC-CTRL-2030, OC-CTRL-2034, LO-204
func TestExitCodes(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		daemon *daemon
		args   []string
		code   int
		says   string
	}{
		"a task that failed":       {newDaemon().fail(task.WorkerReset), []string{"run", "x"}, exitFailed, "error: it ended so (WORKER_RESET)\n"},
		"a task canceled":          {newDaemon().fail(task.Canceled), []string{"run", "x"}, exitCanceled, "error: it ended so (CANCELED)\n"},
		"a task canceled, in JSON": {newDaemon().fail(task.Canceled), []string{"run", "x", "--json"}, exitCanceled, `"code":"CANCELED"`},
		"a false receipt":          {newDaemon().end("00"), []string{"run", "x"}, exitFailed, "fails its transcript check"},
		"refused for good": {
			&daemon{refuse: refusal(400, "INVALID_PARAMS")},
			[]string{"task", "t"},
			exitFailed,
			"error: not so (INVALID_PARAMS)\nretry: in 1.2 s\nhint: look there\n",
		},
		"queue full":    {&daemon{refuse: refusal(429, "ADMISSION_REJECT")}, []string{"run", "x", "-m", "m"}, exitRefused, "ADMISSION_REJECT"},
		"pool unready":  {&daemon{refuse: refusal(503, "POOL_UNREADY")}, []string{"task", "t"}, exitRefused, "POOL_UNREADY"},
		"in JSON":       {&daemon{refuse: refusal(503, "POOL_UNREADY")}, []string{"task", "t", "--json"}, exitRefused, `{"code":"POOL_UNREADY","exit_code":4,"hint":"look there","message":"not so","retry_after_ms":1250}` + "\n"},
		"no command":    {newDaemon(), nil, exitUsage, "error: expected one of"},
		"no prompt":     {newDaemon(), []string{"run"}, exitUsage, `error: expected "<prompt>"`},
		"a bad number":  {newDaemon(), []string{"run", "x", "--seed", "many"}, exitUsage, "--seed"},
		"a bad state":   {newDaemon(), []string{"tasks", "--state", "lost"}, exitUsage, "--state"},
		"a token given": {newDaemon(), []string{"pools", "--token", "x"}, exitUsage, "unknown flag --token"},
		"a bad address": {newDaemon(), []string{"pools", "--addr", "http://a:b@host"}, exitUsage, "must not hold credentials"},
		"nobody there":  {newDaemon(), []string{"pools", "--addr", "127.0.0.1:1"}, exitUnreachable, "error: no answer from http://127.0.0.1:1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := call(t.Context(), test.daemon.serve(t), "", test.args...)
			require.Equal(t, test.code, got.code, got.err)
			require.Contains(t, got.err, test.says)
			require.NotContains(t, got.err, "goroutine")
			require.NotContains(t, got.err, "s3cret")
		})
	}
}

// ORCH-3026
func TestInterruptCancelsTheTask(t *testing.T) {
	t.Parallel()
	d := newDaemon()
	require.NoError(t, d.writer.Append(task.Piece{Kind: task.EventText, Text: "one"}))
	addr := d.serve(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	env := func(key string) string { return map[string]string{addrEnv: addr}[key] }
	var err strings.Builder
	code := run(ctx, []string{"run", "x", "--task-id", "t-1"}, env, nil, writerFunc(func(p []byte) (int, error) {
		cancel() // as soon as there is a token
		return len(p), nil
	}), &err)
	require.Equal(t, exitInterrupted, code)
	require.Equal(t, []gen.TaskID{"t-1"}, d.canceledTasks())
	require.Equal(t, "canceled task t-1 at event "+d.log.LastEventID()+"\nerror: interrupted\n", err.String())
}

// ORCH-3026
func TestInterruptWhileSubmitting(t *testing.T) {
	t.Parallel()
	d := newDaemon()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	d.before = cancel
	got := call(ctx, d.serve(t), "", "run", "x", "--task-id", "t-1")
	require.Equal(t, exitInterrupted, got.code)
	require.NotNil(t, d.request)
	require.Equal(t, []gen.TaskID{"t-1"}, d.canceledTasks(), "no accepted task is left behind")
}

// ORCH-3026
func TestInterruptBeforeSubmitting(t *testing.T) {
	t.Parallel()
	d := newDaemon()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.Equal(t, exitInterrupted, call(ctx, d.serve(t), "", "run", "x", "-m", "m").code)
	require.Nil(t, d.request)
}

// LO-201
func TestInterruptedStreamLeavesTheTask(t *testing.T) {
	t.Parallel()
	d := newDaemon()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.Equal(t, exitInterrupted, call(ctx, d.serve(t), "", "stream", "t").code)
	require.Empty(t, d.canceledTasks())
}

// ORCH-3026
func TestCtrlC(t *testing.T) {
	t.Parallel()
	d := newDaemon()
	require.NoError(t, d.writer.Append(task.Piece{Kind: task.EventText, Text: "one"}))
	program := exec.Command(os.Args[0], "run", "x", "--task-id", "t-1")
	program.Env = append(os.Environ(), asMain+"=1", addrEnv+"="+d.serve(t))
	out, err := program.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, program.Start())
	_, err = io.ReadFull(out, make([]byte, 3))
	require.NoError(t, err)
	require.NoError(t, program.Process.Signal(os.Interrupt))
	var exit *exec.ExitError
	require.ErrorAs(t, program.Wait(), &exit)
	require.Equal(t, exitInterrupted, exit.ExitCode())
	require.Equal(t, []gen.TaskID{"t-1"}, d.canceledTasks())
}

// writerFunc is a function as an io.Writer.
type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
