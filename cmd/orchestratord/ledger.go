// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/llama-orch/llama-orch/service/control/records"
	"github.com/llama-orch/llama-orch/service/record/ledger"
	"github.com/llama-orch/llama-orch/service/record/ledger/postgres"
	"github.com/llama-orch/llama-orch/service/record/ledger/sqlite"
	"github.com/llama-orch/llama-orch/service/task"
)

// ledgerCmd looks at the record of tasks. Its commands but the last never write to the ledger, and work while serve runs.
type ledgerCmd struct {
	Check  ledgerCheckCmd  `cmd:"" help:"Read the whole ledger, and say what is in it and what is damaged."`
	Backup ledgerBackupCmd `cmd:"" help:"Copy the ledger as it is now to a file."`
	Export ledgerExportCmd `cmd:"" help:"Print each task as a line of JSON, with the digests of prompt and answer."`
	Move   ledgerMoveCmd   `cmd:"" help:"Move the ledger from the data folder to the database that ledger.postgres names, or back, while no daemon runs."`
}

// dataFlag says where the data folder is: named by a configuration, or by its name.
type dataFlag struct {
	Config  string `help:"The YAML configuration file, which names the data folder." required:"" xor:"where" type:"path" placeholder:"FILE"`
	DataDir string `help:"The data folder." required:"" xor:"where" type:"path" placeholder:"DIR"`
}

type ledgerCheckCmd struct{ dataFlag }

type ledgerBackupCmd struct {
	dataFlag
	File string `arg:"" help:"The copy. It must not be there yet." type:"path"`
}

type ledgerExportCmd struct {
	dataFlag
	WithText bool `help:"Print prompts and answers in full."`
}

type ledgerMoveCmd struct {
	configFlag
	To string `help:"Where to: postgres or sqlite." required:"" enum:"postgres,sqlite"`
}

// recordReader reads the record of tasks, whichever keeps it.
type recordReader interface {
	Check(ctx context.Context) (ledger.Report, error)
	Export(ctx context.Context, w io.Writer, withText bool) error
	Close() error
}

// dir is the data folder.
func (f dataFlag) dir() (string, error) {
	if f.Config == "" {
		return f.DataDir, nil
	}
	c, err := configFlag{f.Config}.load()
	return c.DataDir, err
}

// interruptible is a context that ends with Ctrl-C and SIGTERM.
func interruptible() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
}

// read opens the ledger that the configuration names, or that of the data folder, calls do with it, and closes it.
func (f dataFlag) read(do func(context.Context, recordReader) error) error {
	ctx, stop := interruptible()
	defer stop()
	r, err := f.open(ctx)
	if err != nil {
		return err
	}
	return errors.Join(do(ctx, r), r.Close())
}

func (f dataFlag) open(ctx context.Context) (recordReader, error) {
	dir := f.DataDir
	if f.Config != "" {
		c, err := configFlag{f.Config}.load()
		if err != nil {
			return nil, err
		}
		if c.Ledger.Postgres.On() {
			return postgres.OpenReader(ctx, records.Postgres(c.Ledger))
		}
		dir = c.DataDir
	}
	return sqlite.OpenReader(filepath.Join(dir, sqlite.FileName)) //nolint:contextcheck // nobody waits for the opening of a file
}

// Run checks.
func (c ledgerCheckCmd) Run() error {
	return c.read(func(ctx context.Context, r recordReader) error {
		report, err := r.Check(ctx)
		if err != nil {
			return err
		}
		if err := printReport(os.Stdout, report); err != nil {
			return err
		}
		if len(report.Problems) > 0 {
			return errors.New("the ledger is damaged: keep a copy of its files, stop orchestratord, and start it with `orchestratord serve --ledger-aside`; " +
				"`orchestratord ledger export` prints what can still be read")
		}
		return nil
	})
}

func printReport(w io.Writer, report ledger.Report) error {
	total := 0
	for _, n := range report.States {
		total += n
	}
	out := bufio.NewWriter(w)
	fmt.Fprintf(out, "Schema %d, %d tasks:", report.Schema, total)
	for _, state := range []task.State{task.Queued, task.Running, task.Completed, task.Failed, task.StateCanceled} {
		fmt.Fprintf(out, " %d %s", report.States[state], state)
	}
	fmt.Fprintf(out, ".\n%d transcripts match their receipts.\n", report.Verified)
	for _, p := range report.Problems {
		fmt.Fprintf(out, "Damaged: %s\n", p)
	}
	for _, lost := range report.Losses {
		fmt.Fprintf(out, "Lost: %s.\n", lost)
	}
	if len(report.Problems) == 0 {
		fmt.Fprintln(out, "Nothing is damaged.")
	}
	return out.Flush()
}

// Run copies.
func (c ledgerBackupCmd) Run() error {
	return c.read(func(ctx context.Context, r recordReader) error {
		if file, ok := r.(*sqlite.Reader); ok {
			return file.Backup(ctx, c.File)
		}
		return errDump
	})
}

// errDump says how to back up a ledger that is no file.
var errDump = errors.New("the ledger is in PostgreSQL, whose own tools back it up while it is in use: pg_dump --schema with the name that ledger.postgres.schema has, or pg_basebackup of all of it")

// Run moves.
func (c ledgerMoveCmd) Run() error {
	conf, err := c.load()
	if err != nil {
		return err
	}
	if !conf.Ledger.Postgres.On() {
		return exit{exitUsage, errors.New("the configuration names no database: set ledger.postgres")}
	}
	ctx, stop := interruptible()
	defer stop()
	move := records.ToPostgres
	if c.To == "sqlite" {
		move = records.ToSQLite
	}
	moved, err := move(ctx, conf.DataDir, records.Postgres(conf.Ledger), time.Now())
	if err != nil {
		return err
	}
	return printMoved(os.Stdout, moved)
}

func printMoved(w io.Writer, moved records.Moved) error {
	out := bufio.NewWriter(w)
	for _, name := range slices.Sorted(maps.Keys(moved.Digests)) {
		fmt.Fprintf(out, "%-10s %8d rows, SHA-256 %s on both sides\n", name, moved.Rows[name], moved.Digests[name])
	}
	fmt.Fprintf(out, "The ledger was moved. What was there is kept as %s.\n", moved.Aside)
	return out.Flush()
}

// Run prints.
func (c ledgerExportCmd) Run() error {
	return c.read(func(ctx context.Context, r recordReader) error {
		out := bufio.NewWriter(os.Stdout)
		return errors.Join(r.Export(ctx, out, c.WithText), out.Flush())
	})
}
