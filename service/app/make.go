// SPDX-License-Identifier: GPL-3.0-or-later

package app

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/config"
	"github.com/llama-orch/llama-orch/service/control"
	"github.com/llama-orch/llama-orch/service/control/selftest"
	"github.com/llama-orch/llama-orch/service/fleet/engine/httpsse"
	"github.com/llama-orch/llama-orch/service/fleet/pool"
	"github.com/llama-orch/llama-orch/service/fleet/residency"
	"github.com/llama-orch/llama-orch/service/flow/admission"
	"github.com/llama-orch/llama-orch/service/flow/scheduler"
	"github.com/llama-orch/llama-orch/service/front/anthropic"
	"github.com/llama-orch/llama-orch/service/front/api"
	"github.com/llama-orch/llama-orch/service/front/delivery"
	"github.com/llama-orch/llama-orch/service/front/exchange"
	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/front/ollama"
	"github.com/llama-orch/llama-orch/service/front/openai"
	"github.com/llama-orch/llama-orch/service/front/upstream"
	"github.com/llama-orch/llama-orch/service/observe"
	"github.com/llama-orch/llama-orch/service/port"
	"github.com/llama-orch/llama-orch/service/record/artifact"
	"github.com/llama-orch/llama-orch/service/record/bundle"
	"github.com/llama-orch/llama-orch/service/record/ledger/sqlite"
	"github.com/llama-orch/llama-orch/service/safefile"
	"github.com/llama-orch/llama-orch/service/supply/policy"
	"github.com/llama-orch/llama-orch/service/task"
)

// makeGuard makes what decides which callers may come in. Where the API would need a token and has none, it fails, before anything on
// the disk is touched.
func (a *App) makeGuard() (err error) {
	c := a.o.Config
	if err := gate.RequireToken(c.BindAddr, string(c.Token)); err != nil {
		return err
	}
	if c.Fronts.Upstream && c.Token == "" {
		return fmt.Errorf("fronts.upstream passes requests through to the engines, so callers need a token, and none is set: set %s, or fronts.upstream to false", c.Auth.TokenEnv)
	}
	a.guard, err = gate.NewAuth(gate.AuthOptions{Token: string(c.Token), OptionalOnLoopback: c.Auth.OptionalOnLoopback, Origins: c.CORS.Origins})
	return err
}

// ownLevels is how deep the data folder is searched for what others own or can write: down to the records of its parts.
const ownLevels = 2

// takeFolder refuses a folder that others can write, for what is in it decides what is run (LO-813). It locks the data
// folder, so that no other orchestrator uses it. The locks end with the process, however that ends.
func (a *App) takeFolder() error {
	dir := a.o.Config.DataDir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the data folder: %w; set data_dir (or LLORCH_DATA_DIR) to a folder that can be written", err)
	}
	if err := safefile.CheckOwnTree(dir, ownLevels); err != nil {
		return fmt.Errorf("take the data folder: %w", err)
	}
	if err := a.lockFolder(dir); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("open the data folder's lock: %w; set data_dir (or LLORCH_DATA_DIR) to a folder that can be written", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return errors.Join(errFolderTaken(dir), f.Close())
	}
	a.cleanup.push("unlock the data folder", func(context.Context) error { return f.Close() })
	return nil
}

// lockFolder locks the folder itself, since a file in it can be removed. Some network file systems lock no folders.
func (a *App) lockFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("open the data folder: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); errors.Is(err, syscall.EWOULDBLOCK) {
		return errors.Join(errFolderTaken(dir), f.Close())
	}
	a.cleanup.push("unlock the data folder itself", func(context.Context) error { return f.Close() })
	return nil
}

func errFolderTaken(dir string) error {
	return fmt.Errorf("another orchestratord uses the data folder %s: stop it, or set data_dir (or LLORCH_DATA_DIR) to another folder", dir)
}

// openLedger opens the record of tasks. Where the options say so, it sets the old one aside first.
func (a *App) openLedger() (err error) {
	c := a.o.Config
	path := filepath.Join(c.DataDir, sqlite.FileName)
	if a.o.LedgerAside {
		moved, err := sqlite.Aside(path, time.Now())
		if err != nil {
			return err
		}
		if moved != "" {
			a.log.Warn("the ledger was set aside, and a new one is begun", zap.String("moved_to", moved))
		}
	}
	o := sqlite.Options{
		Path: path, Log: a.o.Log, Registerer: a.registry, RetainAge: c.Ledger.RetainAge, RetainBytes: int64(c.Ledger.RetainBytes), Now: time.Now,
		Bundles: &bundle.Keep{Prompts: c.Artifacts.KeepPrompts, Transcripts: c.Artifacts.KeepTranscripts},
	}
	if c.Artifacts.KeepProofs {
		o.BeforeForgetting = a.artifacts.KeepBundles
	}
	a.ledger, err = sqlite.Open(o)
	if err != nil {
		return fmt.Errorf("open the ledger: %w", err)
	}
	a.cleanup.push("close the ledger", func(context.Context) error { return a.ledger.Close() })
	return nil
}

// makeFleet makes the pools, their view of the cards, and what plans which on-demand models are loaded.
func (a *App) makeFleet() (err error) {
	c := a.o.Config
	a.engines = control.NewEngines(a.o.Engines, a.fetches, a.policy, a.shelf, a.o.Log.Named("provision"))
	a.cards = control.NewCards(a.o.Log)
	o := pool.Options{
		Specs: control.PoolSpecs(c, a.o.LibsDir, a.engines), WorkerExe: a.o.Exe, Guard: []string{a.o.Exe, "guard"}, RunDir: filepath.Join(c.DataDir, "run"),
		LearnedFile: filepath.Join(c.DataDir, "learned-memory.json"), Log: a.o.Log, Registerer: a.registry,
		Kinds: control.EngineKinds(), Models: a.shelf,
		OnChange: func(id string) { a.schedule.Wake(id) },
		// A call to an engine that is not our own worker is an outbound call, on which the policy decides.
		Outbound: &httpsse.Network{Transport: a.policy.Transport(policy.Adapter), Dial: a.policy.Dial(policy.Adapter), Ask: a.policy.Ask(policy.Adapter)},
	}
	a.cards.Grant(&o)
	if a.pools, err = pool.New(o); err != nil {
		return err
	}
	a.fleet = control.NewFleet(a.setup, a.pools, a.cards, a.shelf, time.Now)
	a.cards.Watch(a.fleet.CardsBack, a.pools.Trouble)
	a.registry.MustRegister(a.fleet.CardMetrics())
	a.residency = residency.New(residency.Options{
		Models: a.fleet.Models(a.o.Log.Named("control")), Rules: residency.Rules(c.Swap), Metrics: residency.NewMetrics(a.registry),
		Log: a.o.Log.Named("residency"), Now: time.Now,
	})
	return nil
}

// makeFlow makes what a task goes through from its admission to its end.
func (a *App) makeFlow() (err error) {
	c, log := a.o.Config, a.o.Log
	a.sessions, err = control.OpenSessions(a.fleet, a.ledger, a.registry, log.Named("session"))
	if err != nil {
		return err
	}
	a.registry.MustRegister(a.fleet.KVMetrics(a.sessions))
	a.schedule = scheduler.New(scheduler.Options{
		Pools: control.SchedulerPools(c), Replicas: a.fleet.Replicas(), Ledger: a.ledger, Sessions: a.sessions,
		Residency: a.residency, SwapWithin: c.Swap.MaxWaitBatch,
		Narrator: observe.NewNarrator(log.Named("scheduler")), Metrics: scheduler.NewMetrics(a.registry),
		Log: log.Named("scheduler"), Now: time.Now,
		MicroBatch: time.Duration(c.Stream.MicroBatchMS) * time.Millisecond,
	})
	a.residency.Serve(a.schedule)
	desk := admission.NewDesk(admission.Options{
		Pools: a.fleet.Candidates(a.schedule), Scheduler: a.schedule, Now: time.Now, NewID: uuid.NewString,
		NewSeed:  func() uint32 { return rand.Uint32N(task.MaxSeed + 1) }, //nolint:gosec // a seed is no secret
		Metrics:  admission.NewMetrics(a.registry),
		Narrator: observe.NewNarrator(log.Named("admission")),
		Home:     a.sessions.Home,
		Pays:     a.sessions.Pays,
		Limits:   admission.Limits{PromptBytes: c.Limits.PromptBytes, Inputs: c.Limits.Inputs},
		Rates: map[task.Priority]admission.Rate{
			task.Interactive: admission.Rate(c.Rates.Interactive), task.Batch: admission.Rate(c.Rates.Batch),
		},
	})
	a.tasks = control.Tasks{Desk: desk, Scheduler: a.schedule, Bundles: a.artifacts, Deletions: a.ledger}
	return nil
}

// makeControl makes what changes the pools while they run, and the self-test.
func (a *App) makeControl() error {
	if a.o.SelfTest {
		a.selfTest = selftest.New(selftest.Options{
			Pools: a.fleet, Tasks: a.tasks, Gatherer: a.registry, Heard: a.heard, Log: a.o.Log.Named("selftest"), Out: a.o.Out, Now: time.Now, NewID: uuid.NewString,
		})
	}
	a.operator = control.NewOperator(control.OperatorOptions{
		Fleet: a.fleet, Schedule: a.schedule, Residency: a.residency, Policy: a.policy, Sessions: a.sessions, Log: a.o.Log.Named("control"),
		LibsDir: a.o.LibsDir, Env: a.o.Env, Engines: a.engines,
	})
	return nil
}

// makeFront makes the fronts, puts them behind the gate, and makes the server that will serve them.
func (a *App) makeFront() error {
	c, log := a.o.Config, a.o.Log
	if err := observe.BuildInfo(a.registry, a.o.Version, a.o.Commit, runtime.Version()); err != nil {
		return err
	}
	if a.o.Dropped != nil {
		a.registry.MustRegister(a.o.Dropped)
	}
	a.streams = delivery.New(delivery.Options{Log: log})
	native, err := api.NewHandler(api.Options{
		Tasks: a.tasks, Sessions: a.sessions, Pools: a.fleet.Views(a.schedule, a.ledger, a.selfTest), Control: a.operator,
		Catalog: a.shelf, Artifacts: artifacts{artifact.NewLibrary(a.artifacts, a.ledger)}, Gatherer: a.registry, Engines: control.EngineFeatures(),
		Streams: a.streams, Log: log, Version: a.o.Version,
		Limits: api.Limits{BodyBytes: int64(c.Limits.BodyBytes), PromptBytes: int64(c.Limits.PromptBytes), Inputs: c.Limits.Inputs},
	})
	if err != nil {
		return err
	}
	fronts := map[string]gate.Front{"/": native}
	exact, since := map[string]gate.Front{}, time.Now()
	common := exchange.Options{
		Tasks: a.tasks, Models: a.fleet.Served(since), Streams: a.streams, Log: log, Hold: c.Fronts.Hold, ReturnWithin: c.Fronts.ReturnWithin,
		Keep: c.Fronts.Keep, Count: admission.NewCounter(a.tasks.Desk).Count,
	}
	var chat *openai.Front
	var messages *anthropic.Front
	for _, name := range c.Fronts.Serve {
		switch name {
		case config.FrontOpenAI:
			chat = openai.New(common)
			mount(fronts, chat, chat.Paths())
		case config.FrontAnthropic:
			messages = anthropic.New(common)
			mount(fronts, messages, messages.Paths())
		case config.FrontOllama:
			front := ollama.New(ollama.Options{Options: common, Library: control.NewLibrary(a.operator, since), Status: a.schedule.Get})
			fronts[ollama.Prefix], exact[ollama.Root] = front, front
		}
	}
	if chat != nil && messages != nil { // both have models
		fronts[anthropic.ModelsPath] = exchange.Either(anthropic.VersionHeader, messages, chat)
	}
	if c.Fronts.Upstream {
		engines := control.NewUpstream(a.fleet, a.schedule, log)
		a.cleanup.push("close the connections past the line", func(context.Context) error { engines.Close(); return nil })
		fronts[upstream.Prefix] = upstream.New(upstream.Options{Engines: engines, Log: log})
	}
	a.gate, err = gate.New(gate.Options{
		Auth: a.guard, Fronts: fronts, Exact: exact, Log: log, MaxBody: int64(c.Limits.BodyBytes),
	})
	if err != nil {
		return err
	}
	a.server = &http.Server{
		Handler: a.gate, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
		ErrorLog: zap.NewStdLog(log.Named("http")), ConnContext: port.Context, ConnState: port.State,
		DisableGeneralOptionsHandler: true, // the gate answers `OPTIONS *` too
	}
	return nil
}

func mount(fronts map[string]gate.Front, front gate.Front, paths []string) {
	for _, path := range paths {
		fronts[path] = front
	}
}
