// SPDX-License-Identifier: GPL-3.0-or-later

package app

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/control"
	"github.com/llama-orch/llama-orch/service/control/datafolder"
	"github.com/llama-orch/llama-orch/service/control/records"
	"github.com/llama-orch/llama-orch/service/host/lease"
	"github.com/llama-orch/llama-orch/service/record/bundle"
	"github.com/llama-orch/llama-orch/service/record/ledger"
	"github.com/llama-orch/llama-orch/service/record/ledger/postgres"
	"github.com/llama-orch/llama-orch/service/record/ledger/sqlite"
	"github.com/llama-orch/llama-orch/service/task"
)

// record is the ledger that an App uses, whichever keeps it.
type record interface {
	ledger.Ledger

	Writable(ctx context.Context) error
	Turns(ctx context.Context) error
}

// openLedger opens the record of tasks. Where the options say so, it sets the old one aside first.
func (a *App) openLedger() (err error) {
	sharing := lease.NewMetrics(a.registry)
	if a.o.Config.Ledger.Postgres.On() {
		err = a.openPostgres(sharing)
	} else {
		err = a.openSQLite()
	}
	if err != nil {
		return fmt.Errorf("open the ledger: %w", err)
	}
	a.cleanup.push("close the ledger", func(context.Context) error { return a.ledger.Close() })
	return nil
}

// bundles say what proof bundles have, and what is kept of a task that is forgotten.
func (a *App) bundles() (keep *bundle.Keep, before func(context.Context, []task.Record) error) {
	c := a.o.Config.Artifacts
	if c.KeepProofs {
		before = a.artifacts.KeepBundles
	}
	return &bundle.Keep{Prompts: c.KeepPrompts, Transcripts: c.KeepTranscripts}, before
}

func (a *App) openSQLite() error {
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
	keep, before := a.bundles()
	l, err := sqlite.Open(sqlite.Options{
		Path: path, Log: a.o.Log, Registerer: a.registry, RetainAge: c.Ledger.RetainAge, RetainBytes: int64(c.Ledger.RetainBytes), Now: time.Now,
		Bundles: keep, BeforeForgetting: before,
	})
	if err != nil {
		return err
	}
	a.ledger, a.owner = l, owner()
	return nil
}

// openPostgres opens the record in the database. A record that the data folder has of its own would be forgotten: that is for the operator to decide.
func (a *App) openPostgres(sharing *lease.Metrics) error {
	c := a.o.Config
	if path := filepath.Join(c.DataDir, sqlite.FileName); exists(path) {
		return fmt.Errorf("the data folder has a record of tasks of its own, %s, and ledger.postgres names another: move it with `orchestratord ledger move --to postgres --config FILE`, "+
			"or give the file another name if nobody needs its tasks", path)
	}
	host, err := datafolder.HostID(c.DataDir)
	if err != nil {
		return err
	}
	a.owner = host
	o := records.Postgres(c.Ledger)
	o.Owner = host
	if a.o.LedgerAside {
		moved, err := records.Aside(context.Background(), o, time.Now())
		if err != nil {
			return err
		}
		if moved != "" {
			a.log.Warn("the ledger was set aside, and a new one is begun", zap.String("moved_to", moved))
		}
	}
	o.Lease, o.Log, o.Registerer, o.Now = c.Hosts.Lease, a.o.Log, a.registry, time.Now
	o.Bundles, o.BeforeForgetting = a.bundles()
	o.Lost = func(err error) { a.failed <- fmt.Errorf("keep the tasks: %w", err) }
	l, err := postgres.Open(o)
	if err != nil {
		return err
	}
	a.ledger = l
	a.hosts = lease.New(lease.Options{
		Ledger: l, Self: a.self, Took: a.took, Lease: c.Hosts.Lease, Alone: control.Alone(c), Metrics: sharing, Log: a.o.Log.Named("hosts"),
	})
	return nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
