// SPDX-License-Identifier: GPL-3.0-or-later

package app

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"runtime"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/config"
	"github.com/llama-orch/llama-orch/service/control"
	"github.com/llama-orch/llama-orch/service/control/datafolder"
	"github.com/llama-orch/llama-orch/service/control/fronts"
	"github.com/llama-orch/llama-orch/service/control/selftest"
	"github.com/llama-orch/llama-orch/service/control/systemd"
	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/pool"
	"github.com/llama-orch/llama-orch/service/fleet/residency"
	"github.com/llama-orch/llama-orch/service/flow/admission"
	"github.com/llama-orch/llama-orch/service/flow/scheduler"
	"github.com/llama-orch/llama-orch/service/front/api"
	"github.com/llama-orch/llama-orch/service/front/delivery"
	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/front/page"
	"github.com/llama-orch/llama-orch/service/observe"
	"github.com/llama-orch/llama-orch/service/port"
	"github.com/llama-orch/llama-orch/service/record/artifact"
	"github.com/llama-orch/llama-orch/service/record/ledger"
	"github.com/llama-orch/llama-orch/service/supply/policy"
	"github.com/llama-orch/llama-orch/service/task"
	"github.com/llama-orch/llama-orch/service/tracing"
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

// readPair reads the certificate and its key, where there are some.
func (a *App) readPair() (err error) {
	c := a.o.Config.TLS
	if c.Cert == "" {
		return a.registry.Register(a.pair.Metric())
	}
	warn := func(d port.Dates) {
		if wrong := d.Warning(time.Now()); wrong != "" {
			a.log.Warn("the dates of the certificate want care", zap.String("cert", c.Cert), zap.String("certificate", wrong))
		}
	}
	a.pair, err = port.LoadPair(c.Cert, c.Key, func(d port.Dates, err error) {
		if err != nil {
			a.log.Error("the certificate was not read again, and the one from before stays in use", zap.Error(err))
		} else {
			a.log.Info("the certificate was read again", zap.String("cert", c.Cert))
		}
		warn(d)
	})
	if err != nil {
		return err
	}
	warn(a.pair.Dates())
	return a.registry.Register(a.pair.Metric())
}

// takeFolder takes the data folder, so that no other orchestrator uses it.
func (a *App) takeFolder() error {
	folder, err := datafolder.Take(a.o.Config.DataDir)
	if err != nil {
		return err
	}
	a.cleanup.push("unlock the data folder", func(context.Context) error { return folder.Close() })
	return nil
}

// makeTracer makes what tells a collector how tasks went, where the configuration names one. Its calls are decided on as those of engines: the operator
// has configured the address.
func (a *App) makeTracer() (err error) {
	c := a.o.Config.Tracing
	if c.Endpoint == "" {
		return nil
	}
	a.tracer, err = tracing.New(context.Background(), tracing.Options{
		Endpoint: c.Endpoint, Sample: c.Sample, Client: a.policy.Client(policy.Adapter), Version: a.o.Version, Log: a.o.Log.Named("tracing"),
	})
	if err != nil {
		return err
	}
	a.cleanup.push("send the last spans", a.tracer.Stop)
	return nil
}

// makeFleet makes the pools, their view of the cards, and what plans which on-demand models are loaded.
func (a *App) makeFleet() (err error) {
	c := a.o.Config
	a.engines = control.NewEngines(a.o.Engines, a.fetches, a.policy, a.shelf, a.o.Log.Named("provision"))
	a.cards = control.NewCards(a.o.Log, c.Energy)
	o := pool.Options{
		Specs: control.PoolSpecs(c, a.o.LibsDir, a.engines), WorkerExe: a.o.Exe, Guard: []string{a.o.Exe, "guard"}, RunDir: filepath.Join(c.DataDir, "run"),
		LearnedFile: filepath.Join(c.DataDir, datafolder.Learned), KnownFile: filepath.Join(c.DataDir, datafolder.Known), Log: a.o.Log, Registerer: a.registry,
		Kinds: control.EngineKinds(), Models: a.shelf,
		OnChange: func(id string) { a.schedule.Wake(id) },
		Outbound: control.Outbound(a.policy),
		Leaving: func(ctx context.Context, i pool.Info, e engine.Engine) {
			a.sessions.Leaves(ctx, i.ID, i.Fingerprint, e)
		},
	}
	if c.Sessions.KVBytes > 0 {
		o.SaveDir = control.SaveDir(c)
	}
	a.cards.Grant(&o)
	if a.pools, err = pool.New(o); err != nil {
		return err
	}
	a.fleet = control.NewFleet(a.setup, a.pools, a.cards, a.shelf, time.Now)
	a.cards.Watch(a.fleet.CardsBack, a.pools.Trouble)
	a.registry.MustRegister(a.fleet.CardMetrics(), control.FolderMetrics(c.DataDir))
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
		Pools: control.SchedulerPools(c), Replicas: a.fleet.Replicas(), Ledger: a.ledger, Sessions: a.sessions, Energy: a.cards.Meter(),
		Residency: a.residency, SwapWithin: c.Swap.MaxWaitBatch,
		Narrator: observe.NewNarrator(log.Named("scheduler")), Metrics: scheduler.NewMetrics(a.registry), Tracer: a.tracer,
		Log: log.Named("scheduler"), Now: time.Now,
		MicroBatch:   time.Duration(c.Stream.MicroBatchMS) * time.Millisecond,
		MeasuredFile: filepath.Join(c.DataDir, datafolder.Measured), Refusal: a.refusal(), Live: a.live(), MaySend: a.maySend(), Taken: func(err error) bool { return errors.Is(err, ledger.ErrTaken) },
	})
	a.residency.Serve(a.schedule)
	desk := admission.NewDesk(admission.Options{
		Pools: a.fleet.Candidates(a.schedule), Scheduler: a.schedule, Now: time.Now, NewID: uuid.NewString,
		NewSeed:  func() uint32 { return rand.Uint32N(task.MaxSeed + 1) }, //nolint:gosec // a seed is no secret
		Metrics:  admission.NewMetrics(a.registry),
		Narrator: observe.NewNarrator(log.Named("admission")), Tracer: a.tracer,
		Home:   a.sessions.Home,
		Pays:   a.sessions.Pays,
		Limits: admission.Limits{PromptBytes: c.Limits.PromptBytes, Inputs: c.Limits.Inputs},
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
		LibsDir: a.o.LibsDir, Env: a.o.Env, Engines: a.engines, Registerer: a.registry,
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
	shown := a.fleet.Views(a.schedule, a.ledger, a.selfTest, a.sharers())
	native, err := api.NewHandler(api.Options{
		Tasks: a.tasks, Sessions: a.sessions, Pools: shown, Control: a.operator,
		Catalog: a.shelf, Artifacts: fronts.Artifacts{Library: artifact.NewLibrary(a.artifacts, a.ledger)}, Gatherer: a.registry, Exemplars: a.tracer != nil, Engines: control.EngineFeatures(),
		Streams: a.streams, Log: log, Logs: logs{a.o.Logs}, Version: a.o.Version,
		Limits: api.Limits{BodyBytes: int64(c.Limits.BodyBytes), PromptBytes: int64(c.Limits.PromptBytes), Inputs: c.Limits.Inputs},
	})
	if err != nil {
		return err
	}
	served, err := fronts.New(fronts.Options{
		Config: c, Tasks: a.tasks, Ledger: a.ledger, Artifacts: a.artifacts, Fleet: a.fleet, Schedule: a.schedule, Operator: a.operator,
		Streams: a.streams, Native: native, Log: log, Registerer: a.registry,
	})
	if err != nil {
		return err
	}
	a.feeder = served.Feeder
	if a.hosts != nil {
		if err := a.passOn(served.Before); err != nil {
			return err
		}
	}
	if c.Page == config.PageOn {
		a.page, err = served.Page(page.Options{
			Views: control.NewPageViews(shown, a.schedule, a.residency, a.sessions, a.shelf, a.guard.Identity(), c.DataDir), Logs: logs{a.o.Logs}, Door: a.guard, Version: a.o.Version, Log: log,
		})
		if err != nil {
			return err
		}
	}
	a.cleanup.push("close the connections past the line", func(context.Context) error { served.Close(); return nil })
	a.gate, err = gate.New(gate.Options{
		Auth: a.guard, Fronts: served.Below, Exact: served.Exact, Log: log, MaxBody: int64(c.Limits.BodyBytes), Registerer: a.registry,
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

// makeUnit makes what tells systemd that the daemon is alive: the queues turn, and the ledger does.
func (a *App) makeUnit() error {
	log := a.o.Log.Named("systemd")
	a.unit = systemd.New(systemd.Options{
		Watchdog: systemd.Watchdog(log), Log: log, Checks: []systemd.Check{{Name: "queues", Ask: a.schedule.Turns}, {Name: "ledger", Ask: a.ledger.Turns}},
	})
	return nil
}
