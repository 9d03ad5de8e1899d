// SPDX-License-Identifier: GPL-3.0-or-later

//go:build pact

package pact

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pact-foundation/pact-go/v2/provider"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest"
	"golang.org/x/sys/unix"

	"github.com/llama-orch/llama-orch/harness/tape"
	"github.com/llama-orch/llama-orch/sdk"
	"github.com/llama-orch/llama-orch/service/app"
	"github.com/llama-orch/llama-orch/service/config"
	"github.com/llama-orch/llama-orch/service/supply/provision"
)

// pactsEnv names another folder of pacts to verify.
const pactsEnv = "LLORCH_TEST_PACTS"

// configuration has a pool for every state: a quick one; one so slow that its tasks run until they are canceled; one whose engine is not there; and one
// that no task needs, to be drained and reloaded.
const configuration = `bind_addr: 127.0.0.1:0
data_dir: data
catalog: {folders: [.]}
auth: {token_env: LLORCH_API_TOKEN}
pools:
  - {id: default, model: {id: haiku, ref: "file:%[1]s"}, device: cpu, ctx: 256}
  - {id: slow, model: {id: slow, ref: "file:%[1]s"}, device: cpu, ctx: 256, pace: 4, queue: {capacity: 1}}
  - {id: down, model: {id: down, ref: down}, provisioning: {mode: external, urls: ["http://127.0.0.1:1"]}}
  - {id: spare, model: {id: spare, ref: "file:%[1]s"}, device: cpu, ctx: 256}
`

// builtinReplicas is the number of replicas in the configuration that get ready.
const builtinReplicas = 3

// gated starts a program. While there is a pipe at the gate, the program first waits there.
const gated = `#!/bin/sh
if test -p '%[1]s'; then read -r _ <'%[1]s'; fi
exec '%[2]s' "$@"
`

// orchestrator is the real daemon on a free port, with what the states have left in it.
type orchestrator struct {
	addr     string
	client   *sdk.Client
	toCancel []string // tasks that the current interaction's states have left running

	gate     string     // workers that start wait here while it exists
	holds    *os.File   // keeps a worker at the gate; nil: none waits
	reloaded chan error // how the reload of that worker's pool ended
}

func start(t *testing.T) *orchestrator {
	libs, err := provision.LocateEngineLibs()
	require.NoError(t, err)
	model, err := filepath.Abs("../../models/haiku/haiku.gguf")
	require.NoError(t, err)
	dir := t.TempDir()
	file, exe, gate := filepath.Join(dir, "config.yaml"), filepath.Join(dir, "worker"), filepath.Join(dir, "gate")
	data, err := os.ReadFile(model)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, strings.TrimPrefix(spareModel, "file:")), data, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, strings.TrimPrefix(shelfModel, "file:")), data, 0o600))
	require.NoError(t, os.WriteFile(exe, fmt.Appendf(nil, gated, gate, program("orchestratord")), 0o700))
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, configuration, model), 0o600))
	env := func(name string) string { return map[string]string{"LLORCH_API_TOKEN": token}[name] }
	c, err := config.Load(file, env)
	require.NoError(t, err)

	ready := make(chan struct{}, builtinReplicas)
	log := zaptest.NewLogger(t, zaptest.Level(zap.ErrorLevel), zaptest.WrapOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core {
		return zapcore.NewTee(core, zapcore.RegisterHooks(everything{}, func(e zapcore.Entry) error {
			if e.Message == "replica is ready" {
				select {
				case ready <- struct{}{}:
				default: // a reload
				}
			}
			return nil
		}))
	})))
	a, err := app.New(app.Options{Env: env, Config: c, Log: log, Exe: exe, LibsDir: libs, Version: "0.1.0", Commit: "unknown"})
	require.NoError(t, err)
	require.NoError(t, a.Start(t.Context()))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		require.NoError(t, a.Stop(ctx))
	})
	for range builtinReplicas {
		select {
		case <-ready:
		case <-time.After(time.Minute):
			require.Fail(t, "the built-in workers do not get ready")
		}
	}
	o := &orchestrator{addr: "http://" + a.Addr(), gate: gate}
	o.client, err = sdk.New(sdk.Options{Addr: o.addr, Token: token})
	require.NoError(t, err)
	t.Cleanup(o.client.Close)
	return o
}

// everything is a log core that accepts every entry and writes none.
type everything struct{ zapcore.Core }

func (everything) Enabled(zapcore.Level) bool { return true }

func (c everything) With([]zapcore.Field) zapcore.Core { return c }

func (c everything) Check(e zapcore.Entry, to *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	return to.AddCore(e, c)
}

func (everything) Write(zapcore.Entry, []zapcore.Field) error { return nil }

func (everything) Sync() error { return nil }

// seeding brings about a state through the orchestrator's own interfaces. It returns values for the interaction.
type seeding func(ctx context.Context, o *orchestrator, taskID string) (map[string]string, error)

// states are all provider states. A pact that names another one fails.
var states = map[string]seeding{
	stateReady:     nil, // it starts in this state
	stateUnready:   nil,
	stateNoGPU:     nil, // TestMain hides those of this machine
	stateSpare:     spare,
	stateReloading: reloading,
	stateSession: func(ctx context.Context, o *orchestrator, id string) (map[string]string, error) {
		return nil, o.begin(ctx, id, 2000)
	},
	stateSpent: func(ctx context.Context, o *orchestrator, id string) (map[string]string, error) {
		return nil, o.begin(ctx, id, 10)
	},
	stateShelf:     shelved,
	stateNoShelf:   unshelved,
	stateStored:    stored,
	stateCompleted: completed,
	stateRunning: func(ctx context.Context, o *orchestrator, id string) (map[string]string, error) {
		return nil, o.running(ctx, id)
	},
	stateDeleted: func(ctx context.Context, o *orchestrator, id string) (map[string]string, error) {
		if _, err := completed(ctx, o, id); err != nil {
			return nil, err
		}
		return nil, o.client.Delete(ctx, id)
	},
	stateCanceled: func(ctx context.Context, o *orchestrator, id string) (map[string]string, error) {
		if err := o.running(ctx, id); err != nil {
			return nil, err
		}
		return nil, o.settle(ctx)
	},
	stateFull: func(ctx context.Context, o *orchestrator, _ string) (map[string]string, error) {
		if err := o.running(ctx, "in-the-slot"); err != nil {
			return nil, err
		}
		return nil, o.submit(ctx, "slow", "in-the-queue")
	},
}

func (o *orchestrator) submit(ctx context.Context, model string, id string) error {
	_, err := o.client.Submit(ctx, &sdk.TaskRequest{TaskID: id, ModelRef: model, Prompt: prompt, Seed: new(int64(seed))})
	if err == nil && model == "slow" {
		o.toCancel = append(o.toCancel, id)
	}
	return err
}

// completed makes sure that a task has been submitted and has ended, and returns the task's first event.
func completed(ctx context.Context, o *orchestrator, id string) (map[string]string, error) {
	_, err := o.client.Get(ctx, id)
	if e, ok := errors.AsType[*sdk.Error](err); ok && e.Code == sdk.ErrorCodeNotFound {
		err = o.submit(ctx, "haiku", id)
	}
	if err != nil {
		return nil, err
	}
	var first string
	for event, err := range o.client.Stream(ctx, id, "") {
		switch e := event.(type) {
		case sdk.Started:
			first = e.ID
		case sdk.ErrorEvent:
			err = e.Err
		}
		if err != nil {
			return nil, err
		}
	}
	return map[string]string{"first_event_id": first}, nil
}

// begin begins a session anew.
func (o *orchestrator) begin(ctx context.Context, id string, tokens int64) error {
	err := o.client.DeleteSession(ctx, id)
	if e, ok := errors.AsType[*sdk.Error](err); ok && e.Code == sdk.ErrorCodeNotFound {
		err = nil
	}
	if err != nil {
		return err
	}
	_, err = o.client.CreateSession(ctx, &sdk.SessionRequest{SessionID: id, MaxTurns: 4, Budget: &sdk.Budget{Tokens: tokens}})
	return err
}

// running submits a task to the slow pool, and returns when the pool has written its first token.
func (o *orchestrator) running(ctx context.Context, id string) error {
	if err := o.submit(ctx, "slow", id); err != nil {
		return err
	}
	for event, err := range o.client.Stream(ctx, id, "") {
		if err != nil {
			return err
		}
		switch event.(type) {
		case sdk.Token:
			return nil
		case sdk.End, sdk.ErrorEvent:
			return fmt.Errorf("task %s has ended", id)
		}
	}
	return nil
}

// spare brings back the pool that other interactions drain.
func spare(ctx context.Context, o *orchestrator, _ string) (map[string]string, error) {
	health, err := o.client.PoolHealth(ctx, "spare")
	if err == nil && !health.Pool.Ready {
		_, err = o.client.Reload(ctx, "spare", spareModel)
	}
	return nil, err
}

// unshelved takes the model out of the catalog.
func unshelved(ctx context.Context, o *orchestrator, _ string) (map[string]string, error) {
	err := o.client.DeleteModel(ctx, shelf)
	if e, ok := errors.AsType[*sdk.Error](err); ok && e.Code == sdk.ErrorCodeNotFound {
		return nil, nil
	}
	return nil, err
}

// shelved makes sure that the catalog has the model and that it is active.
func shelved(ctx context.Context, o *orchestrator, _ string) (map[string]string, error) {
	_, err := o.client.AddModel(ctx, &sdk.ModelRequest{ID: shelf, Ref: shelfModel})
	if err == nil {
		_, err = o.client.WaitModel(ctx, shelf, nil)
	}
	if err == nil {
		_, err = o.client.ActivateModel(ctx, shelf)
	}
	return nil, err
}

// stored stores one of the artifacts that the consumers know.
func stored(ctx context.Context, o *orchestrator, name string) (map[string]string, error) {
	a, known := artifacts[name]
	if !known {
		return nil, fmt.Errorf("there is no artifact %q", name)
	}
	_, err := o.client.PutArtifact(ctx, a.request())
	return nil, err
}

// reloading returns when the new worker of a reload waits at the gate.
func reloading(ctx context.Context, o *orchestrator, _ string) (map[string]string, error) {
	if _, err := spare(ctx, o, ""); err != nil {
		return nil, err
	}
	if err := unix.Mkfifo(o.gate, 0o600); err != nil {
		return nil, err
	}
	o.reloaded = make(chan error, 1)
	go func() {
		_, err := o.client.Reload(context.WithoutCancel(ctx), "spare", spareModel)
		o.reloaded <- err
	}()
	type opened struct {
		file *os.File
		err  error
	}
	reader := make(chan opened, 1)
	go func() {
		f, err := os.OpenFile(o.gate, os.O_WRONLY, 0) // waits for a reader
		reader <- opened{f, err}
	}()
	select {
	case r := <-reader:
		o.holds = r.file
		return nil, r.err
	case err := <-o.reloaded:
		f, openErr := os.OpenFile(o.gate, os.O_RDWR, 0) // lets the writer go
		r := <-reader
		o.reloaded <- err
		return nil, errors.Join(fmt.Errorf("the reload ended without a new worker: %w", err), openErr, r.err, f.Close(), r.file.Close())
	}
}

// open lets the worker at the gate start, and waits for the end of its reload.
func (o *orchestrator) open() error {
	if o.reloaded == nil {
		return nil
	}
	err := os.Remove(o.gate)
	if o.holds != nil {
		err = errors.Join(err, o.holds.Close())
	}
	err = errors.Join(err, <-o.reloaded)
	o.holds, o.reloaded = nil, nil
	return err
}

// settle ends the tasks that the states have left. It begins with the last in line, so that no queued task gets to run.
func (o *orchestrator) settle(ctx context.Context) error {
	var failures []error
	for _, id := range slices.Backward(o.toCancel) {
		_, err := o.client.Cancel(ctx, id)
		failures = append(failures, err)
	}
	o.toCancel = nil
	failures = append(failures, o.open())
	return errors.Join(failures...)
}

// ServeHTTP answers the verifier, which calls it before and after each interaction.
func (o *orchestrator) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var ask struct {
		Action string
		State  string
		Params struct {
			TaskID string `json:"task_id"`
		}
	}
	values := map[string]string{}
	err := json.NewDecoder(r.Body).Decode(&ask)
	if err == nil {
		seed, known := states[ask.State]
		switch {
		case !known:
			err = fmt.Errorf("there is no provider state %q: add it to the table of states", ask.State)
		case ask.Action == "teardown":
			err = o.settle(r.Context())
		case seed != nil:
			values, err = seed(r.Context(), o, ask.Params.TaskID)
		}
	}
	if err != nil {
		fmt.Printf("provider state %q, %s: %v\n", ask.State, ask.Action, err)
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(values) // the verifier itself reports missing values
}

// TestProvider verifies the real orchestrator, with its built-in engine, against every pact.
//
// ORCH-3050
func TestProvider(t *testing.T) {
	dir := os.Getenv(pactsEnv)
	if dir == "" {
		dir = pactDir
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	require.NoError(t, err)
	require.NotEmpty(t, files, "there is no pact in %s", dir)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".json"), func(t *testing.T) {
			o := start(t)
			seeder := httptest.NewServer(o)
			defer seeder.Close()
			to, err := url.Parse(o.addr)
			require.NoError(t, err)
			recorded := httptest.NewServer(tape.Proxy(to))
			defer recorded.Close()
			require.NoError(t, provider.NewVerifier().VerifyProvider(t, provider.VerifyRequest{
				Provider: providerName, ProviderBaseURL: recorded.URL, PactFiles: []string{file}, ProviderStatesSetupURL: seeder.URL,
				RequestTimeout: time.Minute, FailIfNoPactsFound: true, DisableColoredOutput: true,
			}))
		})
	}
}
