// SPDX-License-Identifier: GPL-3.0-or-later

package llamacpp_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/llamacpp"
	"github.com/llama-orch/llama-orch/service/fleet/worker"
	"github.com/llama-orch/llama-orch/service/supply/provision"
	"github.com/llama-orch/llama-orch/service/task"
)

const (
	envWorker = "LLORCH_TEST_WORKER" // set: this process is a worker with these options, as JSON
	key       = "secret"
)

var (
	libs  string
	model string
)

// TestMain makes this binary a worker when a test runs it as one.
func TestMain(m *testing.M) {
	if raw := os.Getenv(envWorker); raw != "" {
		var o worker.Options
		if err := json.Unmarshal([]byte(raw), &o); err != nil {
			panic(err)
		}
		o.Stdin, o.Stdout, o.Stderr, o.APIKey = os.Stdin, os.Stdout, os.Stderr, os.Getenv("LLAMA_API_KEY")
		os.Exit(worker.Main(context.Background(), o))
	}
	var err error
	if libs, err = provision.EngineLibs(context.Background(), provision.Options{}); err == nil {
		model, err = filepath.Abs("../../../../models/haiku/haiku.gguf")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// launchWorker starts the built-in worker and returns an adapter on it when it is ready. Pace is in tokens a second.
func launchWorker(t testing.TB, workload task.Workload, pace float64) (*llamacpp.Engine, *exec.Cmd) {
	t.Helper()
	return launchWorkerWith(t, map[string]any{"Workload": workload, "Pace": pace}, 0)
}

// launchWorkerWith starts it with other options, for an adapter that knows of its pieces.
func launchWorkerWith(t testing.TB, options map[string]any, piece int) (*llamacpp.Engine, *exec.Cmd) {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	all := map[string]any{"Model": model, "Libs": libs, "Ctx": 256, "Threads": 1}
	maps.Copy(all, options)
	raw, err := json.Marshal(all)
	require.NoError(t, err)
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), envWorker+"="+string(raw), "LLAMA_API_KEY="+key)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = stdin.Close(); _ = cmd.Wait() })
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	require.NoError(t, err)
	var hello struct{ Listening string }
	require.NoError(t, json.Unmarshal(line, &hello))
	return connectTo(t, engine.Endpoint{URL: "http://" + hello.Listening, Piece: piece}), cmd
}

func connect(t testing.TB, url string) *llamacpp.Engine {
	t.Helper()
	return connectTo(t, engine.Endpoint{URL: url})
}

// addresses are the URLs of engines.
var addresses sync.Map

func addressOf(e *llamacpp.Engine) string {
	url, _ := addresses.Load(e)
	return url.(string)
}

func connectTo(t testing.TB, at engine.Endpoint) *llamacpp.Engine {
	t.Helper()
	at.Key = key
	e := llamacpp.New(at)
	t.Cleanup(e.Close)
	addresses.Store(e, at.URL)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for e.Health(ctx) != nil {
		require.NoError(t, ctx.Err(), "the engine never became ready")
	}
	return e
}
