// SPDX-License-Identifier: GPL-3.0-or-later

// Package app joins the packages of service/ to a running orchestrator: options in, Start, Stop.
package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/config"
	"github.com/llama-orch/llama-orch/service/control"
	"github.com/llama-orch/llama-orch/service/control/selftest"
	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/httpsse"
	"github.com/llama-orch/llama-orch/service/fleet/engine/llamacpp"
	"github.com/llama-orch/llama-orch/service/fleet/pool"
	"github.com/llama-orch/llama-orch/service/fleet/residency"
	"github.com/llama-orch/llama-orch/service/flow/admission"
	"github.com/llama-orch/llama-orch/service/flow/scheduler"
	"github.com/llama-orch/llama-orch/service/flow/session"
	"github.com/llama-orch/llama-orch/service/front/api"
	"github.com/llama-orch/llama-orch/service/front/delivery"
	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/observe"
	"github.com/llama-orch/llama-orch/service/record/artifact"
	"github.com/llama-orch/llama-orch/service/record/bundle"
	"github.com/llama-orch/llama-orch/service/record/ledger/sqlite"
	"github.com/llama-orch/llama-orch/service/supply/fetch"
	"github.com/llama-orch/llama-orch/service/supply/policy"
	"github.com/llama-orch/llama-orch/service/supply/provision"
	"github.com/llama-orch/llama-orch/service/task"
)

// closeWithin is how long a stop waits for clients to take what they were sent.
const closeWithin = 2 * time.Second

// Options are what an App is made from.
type Options struct {
	Config   config.Config
	Log      *zap.Logger
	Exe      string            // the program to run as `Exe worker …`
	LibsDir  string            // the engine libraries, where a pool is `builtin`
	Engines  provision.Options // how engines are prepared
	Version  string
	Commit   string
	Env      func(string) string // the environment, for a configuration that is read again; nil: os.Getenv
	SelfTest bool                // decode and cancel a task of each pool once it is Ready (ORCH-3049)
	Out      io.Writer           // takes the table of the self-tests, for people; nil: nobody reads it
	// LedgerAside gives the ledger that is there another name, and begins a new one.
	LedgerAside bool
}

// App is one orchestrator. Start and Stop are called once each, in this order.
type App struct {
	o         Options
	log       *zap.Logger
	ledger    *sqlite.Ledger
	policy    *policy.Policy
	fetches   *fetch.Fetcher
	shelf     *control.Shelf
	artifacts *artifact.Store
	memory    *control.Memory
	operator  *control.Operator
	selfTest  *selftest.Tests // nil: none is made
	pools     *pool.Manager
	residency *residency.Manager
	schedule  *scheduler.Scheduler
	streams   *delivery.Streams
	server    *http.Server
	listener  net.Listener
	failed    chan error // capacity 1: the server gave up
	serving   sync.WaitGroup
	cleanup   cleanup
	sessions  *session.Manager
}

// New wires an orchestrator. It takes the data folder and its ledger, and gives them back when it fails; the port and the
// workers come with Start.
func New(o Options) (_ *App, err error) {
	if o.Env == nil {
		o.Env = os.Getenv
	}
	if o.Out == nil {
		o.Out = io.Discard
	}
	a := &App{o: o, log: o.Log.Named("app"), failed: make(chan error, 1)}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.cleanup.run(context.Background(), a.log))
		}
	}()
	c := o.Config
	var heard *selftest.Listener
	if o.SelfTest {
		heard, o.Log = selftest.Listen(o.Log)
	}
	if err := gate.RequireToken(c.BindAddr, string(c.Token)); err != nil {
		return nil, err
	}
	guard, err := gate.NewAuth(gate.AuthOptions{Token: string(c.Token), OptionalOnLoopback: c.Auth.OptionalOnLoopback})
	if err != nil {
		return nil, err
	}
	registry := observe.NewRegistry()
	if err := observe.BuildInfo(registry, o.Version, o.Commit, runtime.Version()); err != nil {
		return nil, err
	}
	if a.policy, err = policy.New(policy.Options{Rules: control.PolicyRules(c), Log: o.Log, Registerer: registry}); err != nil {
		return nil, err
	}
	if err := a.lock(); err != nil {
		return nil, err
	}
	if err := a.openArtifacts(registry); err != nil {
		return nil, err
	}
	if err := a.openLedger(registry); err != nil {
		return nil, err
	}
	inForce := control.NewSetup(c)
	if err := a.openCatalog(registry, inForce); err != nil {
		return nil, err
	}
	a.memory = control.NewMemory(o.Log)
	if a.pools, err = a.newPools(registry); err != nil {
		return nil, err
	}
	f := control.NewFleet(inForce, a.pools, a.memory, a.shelf)
	a.memory.Watch(f.CardsBack, a.pools.Trouble)
	registry.MustRegister(f.CardMetrics())
	if a.sessions, err = control.NewSessions(f, a.ledger, registry, o.Log.Named("session")); err != nil {
		return nil, err
	}
	registry.MustRegister(f.KVMetrics(a.sessions))
	a.residency = residency.New(residency.Options{
		Models: f.Models(o.Log.Named("app")), Rules: residency.Rules(c.Swap), Metrics: residency.NewMetrics(registry), Log: o.Log.Named("residency"), Now: time.Now,
	})
	a.schedule = scheduler.New(scheduler.Options{
		Pools: control.SchedulerPools(c), Replicas: f.Replicas(), Ledger: a.ledger, Sessions: a.sessions,
		Residency: a.residency, SwapWithin: c.Swap.MaxWaitBatch,
		Narrator: observe.NewNarrator(o.Log.Named("scheduler")), Metrics: scheduler.NewMetrics(registry),
		Log: o.Log.Named("scheduler"), Now: time.Now,
		MicroBatch: time.Duration(c.Stream.MicroBatchMS) * time.Millisecond,
	})
	a.residency.Serve(a.schedule)
	desk := admission.NewDesk(admission.Options{
		Pools: f.Candidates(a.schedule), Scheduler: a.schedule, Now: time.Now, NewID: uuid.NewString,
		NewSeed:  func() uint32 { return rand.Uint32N(task.MaxSeed + 1) }, //nolint:gosec // a seed is no secret
		Metrics:  admission.NewMetrics(registry),
		Narrator: observe.NewNarrator(o.Log.Named("admission")),
		Home:     a.sessions.Home,
		Limits:   admission.Limits{PromptBytes: c.Limits.PromptBytes, Inputs: c.Limits.Inputs},
		Rates: map[task.Priority]admission.Rate{
			task.Interactive: admission.Rate(c.Rates.Interactive), task.Batch: admission.Rate(c.Rates.Batch),
		},
	})
	tasks := control.Tasks{Desk: desk, Scheduler: a.schedule}
	if o.SelfTest {
		a.selfTest = selftest.New(selftest.Options{
			Pools: f, Tasks: tasks, Gatherer: registry, Heard: heard, Log: o.Log.Named("selftest"), Out: o.Out, Now: time.Now,
		})
	}
	a.operator = control.NewOperator(control.OperatorOptions{
		Fleet: f, Schedule: a.schedule, Residency: a.residency, Policy: a.policy, Sessions: a.sessions, Log: o.Log.Named("app"), LibsDir: o.LibsDir, Env: o.Env, Engines: a.engines(),
	})
	if a.server, err = a.newServer(c, guard, api.Options{
		Tasks: tasks, Sessions: a.sessions, Pools: f.Views(a.schedule, a.selfTest), Control: a.operator,
		Catalog: a.shelf, Artifacts: artifacts{artifact.NewLibrary(a.artifacts, a.ledger)}, Gatherer: registry,
	}); err != nil {
		return nil, err
	}
	return a, nil
}

// newServer puts the fronts behind the gate.
func (a *App) newServer(c config.Config, guard *gate.Auth, parts api.Options) (*http.Server, error) {
	a.streams = delivery.New(delivery.Options{Log: a.o.Log})
	parts.Streams, parts.Log, parts.Version, parts.MaxBody = a.streams, a.o.Log, a.o.Version, int64(c.Limits.BodyBytes)
	native, err := api.NewHandler(parts)
	if err != nil {
		return nil, err
	}
	handler, err := gate.New(gate.Options{
		Auth: guard, Fronts: map[string]gate.Front{"/": native}, Log: a.o.Log, MaxBody: int64(c.Limits.BodyBytes),
	})
	if err != nil {
		return nil, err
	}
	return &http.Server{
		Handler: handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
		ErrorLog: zap.NewStdLog(a.o.Log.Named("http")),
	}, nil
}

func (a *App) newPools(r prometheus.Registerer) (*pool.Manager, error) {
	c := a.o.Config
	return pool.New(pool.Options{
		Specs: control.PoolSpecs(c, a.o.LibsDir), WorkerExe: a.o.Exe, RunDir: filepath.Join(c.DataDir, "run"), LearnedFile: filepath.Join(c.DataDir, "learned-memory.json"), Log: a.o.Log, Registerer: r,
		NewEngine: a.newEngine, Models: a.shelf, Prepare: a.engines().Prepare,
		OnChange: func(id string) { a.schedule.Wake(id) },
		CheckGPU: a.memory.Check, Memory: a.memory, DeviceProblems: a.memory.Problems,
	})
}

// newEngine reaches a replica. What has no key is not a worker of ours: to call it is an outbound call.
func (a *App) newEngine(url, key string) engine.Engine {
	o := llamacpp.Options{BaseURL: url, APIKey: key}
	if key == "" {
		o.Network = &httpsse.Network{Transport: a.policy.Transport(policy.Adapter), Dial: a.policy.Dial(policy.Adapter)}
	}
	return llamacpp.New(o)
}

// engines prepares the pools' engines.
func (a *App) engines() control.Engines {
	return control.NewEngines(a.o.Engines, a.fetches, a.policy, a.shelf, a.o.Log.Named("provision"))
}

// Start takes the port, takes up the tasks of the run before, and sets everything going. It returns once the API answers;
// pools get Ready later. When it fails, everything is given back.
func (a *App) Start(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, a.cleanup.run(context.Background(), a.log))
		}
	}()
	if a.listener, err = new(net.ListenConfig).Listen(ctx, "tcp", a.o.Config.BindAddr); err != nil {
		if errors.Is(err, syscall.EADDRINUSE) {
			return fmt.Errorf("%s is taken by another program: stop it, or set bind_addr (or LLORCH_BIND_ADDR) to another port", a.o.Config.BindAddr)
		}
		return fmt.Errorf("listen on %s: %w", a.o.Config.BindAddr, err)
	}
	a.cleanup.push("close the port", func(context.Context) error {
		if err := a.listener.Close(); !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
	a.memory.Start(ctx)
	a.cleanup.push("stop looking at the GPUs", func(context.Context) error { a.memory.Stop(); return nil })
	if err := a.pools.Start(); err != nil {
		return fmt.Errorf("start the pools: %w", err)
	}
	a.cleanup.push("stop the workers", a.pools.Stop)
	left, err := a.ledger.Claim(ctx, owner())
	if err != nil {
		return fmt.Errorf("take over the tasks of the run before: %w", err)
	}
	a.schedule.Recover(left.Tasks) // before anyone can ask for them

	if err := a.streams.Start(ctx); err != nil {
		return fmt.Errorf("start the streams: %w", err)
	}
	a.serving.Go(func() {
		if err := a.server.Serve(a.listener); !errors.Is(err, http.ErrServerClosed) {
			a.failed <- fmt.Errorf("serve HTTP: %w", err)
		}
	})
	a.cleanup.push("close the connections", func(ctx context.Context) error {
		bounded, stop := context.WithTimeout(ctx, closeWithin)
		defer stop()
		err := a.server.Shutdown(bounded)
		if errors.Is(err, context.DeadlineExceeded) { // a client that does not read its answer may not hold up the stop
			err = a.server.Close()
		}
		err = errors.Join(err, a.streams.Stop(bounded))
		a.serving.Wait()
		return err
	})
	a.schedule.Start()
	a.cleanup.push("end the tasks", func(ctx context.Context) error {
		finish, stop := context.WithTimeout(ctx, finishWithin(ctx))
		defer stop()
		a.schedule.Stop(finish)
		return nil
	})
	if err := a.residency.Start(ctx); err != nil {
		return fmt.Errorf("start the swaps: %w", err)
	}
	a.cleanup.push("end the swaps", a.residency.Stop)
	if a.selfTest != nil {
		if err := a.selfTest.Start(ctx); err != nil {
			return err
		}
		a.cleanup.push("end the self-test", a.selfTest.Stop)
	}
	sweeping := control.StartSweeps(a.sessions)
	a.cleanup.push("end the sweeps of sessions", func(context.Context) error { sweeping(); return nil })
	a.operator.Start()
	a.cleanup.push("stop tidying the pools", func(context.Context) error { a.operator.End(); return nil })
	a.log.Info("serving",
		zap.Stringer("addr", a.listener.Addr()), zap.String("version", a.o.Version), zap.Int("pools", len(a.o.Config.Pools)))
	return nil
}

// owner is this process, as the ledger names it.
func owner() string {
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	return fmt.Sprintf("%s/%d", host, os.Getpid())
}

func (a *App) openLedger(r prometheus.Registerer) (err error) {
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
		Path: path, Log: a.o.Log, Registerer: r, RetainAge: c.Ledger.RetainAge, RetainBytes: int64(c.Ledger.RetainBytes), Now: time.Now,
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

// finishWithin leaves running tasks most of the time of a stop, and the rest of it to the connections and workers.
func finishWithin(ctx context.Context) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		return time.Until(deadline) / 2
	}
	return time.Minute
}

// Addr is the address that is listened on.
func (a *App) Addr() string { return a.listener.Addr().String() }

// ReloadConfig reads the configuration file again, as SIGHUP does; the log says what came of it.
func (a *App) ReloadConfig(ctx context.Context) {
	_, _ = a.operator.ReloadConfig(ctx)
}

// Failed yields an error when the server gave up by itself.
func (a *App) Failed() <-chan error { return a.failed }

// Stop refuses new work, lets running tasks finish for half of the time that ctx leaves, and leaves the rest to the next
// start; then it closes the connections, stops the workers and closes the ledger.
func (a *App) Stop(ctx context.Context) error {
	err := a.cleanup.run(ctx, a.log)
	a.log.Info("stopped")
	return err
}

// lock makes sure that one orchestrator alone uses the data folder. The lock goes with the process, however it ends.
func (a *App) lock() error {
	dir := a.o.Config.DataDir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the data folder: %w; set data_dir (or LLORCH_DATA_DIR) to a folder that can be written", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("open the data folder's lock: %w; set data_dir (or LLORCH_DATA_DIR) to a folder that can be written", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return errors.Join(fmt.Errorf("another orchestratord uses the data folder %s: stop it, or set data_dir (or LLORCH_DATA_DIR) to another folder", dir), f.Close())
	}
	a.cleanup.push("unlock the data folder", func(context.Context) error { return f.Close() })
	return nil
}
