// SPDX-License-Identifier: GPL-3.0-or-later

// Package app joins the packages of service/ to a running orchestrator. New makes the parts, step by step. Start sets them going, and Stop
// ends them. App decides nothing itself.
package app

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/config"
	"github.com/llama-orch/llama-orch/service/contain"
	"github.com/llama-orch/llama-orch/service/control"
	"github.com/llama-orch/llama-orch/service/control/selftest"
	"github.com/llama-orch/llama-orch/service/control/systemd"
	"github.com/llama-orch/llama-orch/service/fleet/pool"
	"github.com/llama-orch/llama-orch/service/fleet/residency"
	"github.com/llama-orch/llama-orch/service/flow/scheduler"
	"github.com/llama-orch/llama-orch/service/front/batch"
	"github.com/llama-orch/llama-orch/service/front/delivery"
	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/front/page"
	"github.com/llama-orch/llama-orch/service/host/lease"
	"github.com/llama-orch/llama-orch/service/observe"
	"github.com/llama-orch/llama-orch/service/port"
	"github.com/llama-orch/llama-orch/service/record/artifact"
	"github.com/llama-orch/llama-orch/service/supply/fetch"
	"github.com/llama-orch/llama-orch/service/supply/policy"
	"github.com/llama-orch/llama-orch/service/supply/provision"
	"github.com/llama-orch/llama-orch/service/tracing"
)

// Options are what an App is made from.
type Options struct {
	Config   config.Config
	Log      *zap.Logger
	Logs     *observe.Tail        // has the lines of Log for clients; nil: none
	Dropped  prometheus.Collector // counts the lines that the log has dropped; nil: it drops none
	Exe      string               // the program to run as `Exe worker …`
	LibsDir  string               // the engine libraries, where a pool is `builtin`
	Engines  provision.Options    // how engines are prepared
	Version  string
	Commit   string
	Env      func(string) string // the environment, for when the configuration is read again; nil: os.Getenv
	SelfTest bool                // test each pool once it is Ready (ORCH-3049)
	Out      io.Writer           // gets the table of the self-test, for people; nil: nobody reads it
	// LedgerAside renames the ledger that is there, and begins a new one.
	LedgerAside bool
}

// App is one orchestrator. Start and Stop may be called in any order and more than once, as lifecycle.Service says.
type App struct {
	o        Options
	log      *zap.Logger
	registry *observe.Registry
	tracer   *tracing.Tracer
	setup    *control.Setup
	cleanup  cleanup       // undoes what was made
	turn     chan struct{} // holds one value while Start or Stop is at work
	started  bool          // while turn is held
	stopped  bool          // while turn is held

	// record
	ledger    record
	since     time.Time     // when it was made
	owner     string        // this daemon, as the ledger knows it
	hosts     *lease.Keeper // of the pools' queues, where several daemons share the ledger; nil: this one is alone
	artifacts *artifact.Store
	// supply
	policy  *policy.Policy
	fetches *fetch.Fetcher
	shelf   *control.Shelf
	// fleet
	engines   *control.Engines
	cards     *control.Cards
	pools     *pool.Manager
	fleet     control.Fleet
	residency *residency.Manager
	// flow
	sessions *control.Sessions
	schedule *scheduler.Scheduler
	tasks    control.Tasks
	// control
	heard    *selftest.Listener // nil: no self-test is made
	selfTest *selftest.Tests    // nil: none is made
	operator *control.Operator
	unit     *systemd.Service // what systemd is told
	// front
	guard    *gate.Auth
	pair     *port.Pair // nil: plain HTTP
	gate     *gate.Gate
	streams  *delivery.Streams
	feeder   *batch.Feeder // nil: no front has batches
	page     *page.Front   // nil: it is off
	server   *http.Server
	listener *port.Listener
	serving  sync.WaitGroup
	failed   chan error // the server gave up, or the ledger is another's; a place for each
}

// New makes the parts of an orchestrator and joins them. It takes the data folder and its ledger, and gives them back when it fails.
// The port and the workers come with Start.
func New(o Options) (_ *App, err error) {
	if o.Logs == nil {
		o.Logs = observe.NewTail()
	}
	if o.Env == nil {
		o.Env = os.Getenv
	}
	if o.Out == nil {
		o.Out = io.Discard
	}
	a := &App{
		since: time.Now(),
		log:   o.Log.Named("app"), registry: observe.NewRegistry(o.Log.Named("observe")), setup: control.NewSetup(o.Config), turn: make(chan struct{}, 1), failed: make(chan error, 3),
	}
	if o.SelfTest {
		a.heard, o.Log = selftest.Listen(o.Log)
	}
	a.o = o
	defer func() {
		if err != nil {
			err = errors.Join(err, a.cleanup.run(context.Background(), a.log))
		}
	}()
	for _, step := range []func() error{
		a.makeGuard,     // who may call
		a.readPair,      // the certificate
		a.takeFolder,    // the data folder, which one orchestrator alone may use
		a.openArtifacts, // what tasks leave behind
		a.openLedger,    // the record of tasks, whose proof bundles may become artifacts
		a.openCatalog,   // the models and engines on disk, and what fetches them under the policy
		a.makeTracer,    // what tells a collector how tasks went
		a.makeFleet,     // the cards, the pools and their residency
		a.makeFlow,      // sessions, the scheduler and admission
		a.makeControl,   // what changes the pools while they run, and what tests them at the start
		a.makeFront,     // the API behind its gate
		a.makeUnit,      // what tells systemd how all of that is
	} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// Addr is the address that the API listens on, once Start has returned.
func (a *App) Addr() string { return a.listener.Addr().String() }

// ReloadConfig reads the configuration file again, as SIGHUP does. The log says what came of it.
func (a *App) ReloadConfig(ctx context.Context) {
	a.unit.Reload(func() {
		_ = contain.Do(a.log, "reading the configuration again panicked", func() { _, _ = a.operator.ReloadConfig(ctx) }) // it has logged what went wrong
		if a.pair != nil {
			a.pair.Reload(time.Now())
		}
	})
}

// Failed yields an error when the server gives up by itself.
func (a *App) Failed() <-chan error { return a.failed }
