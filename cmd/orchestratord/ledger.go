// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/llama-orch/llama-orch/service/record/ledger/sqlite"
	"github.com/llama-orch/llama-orch/service/task"
)

// ledgerCmd looks at the record of tasks. Its commands never write to the ledger, and work while serve runs.
type ledgerCmd struct {
	Check  ledgerCheckCmd  `cmd:"" help:"Read the whole ledger, and say what is in it and what is damaged."`
	Backup ledgerBackupCmd `cmd:"" help:"Copy the ledger as it is now to a file."`
	Export ledgerExportCmd `cmd:"" help:"Print each task as a line of JSON, with the digests of prompt and answer."`
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

// read opens the ledger, calls do with it, and closes it.
func (f dataFlag) read(do func(context.Context, *sqlite.Reader) error) error {
	dir, err := f.dir()
	if err != nil {
		return err
	}
	r, err := sqlite.OpenReader(filepath.Join(dir, sqlite.FileName))
	if err != nil {
		return err
	}
	ctx, stop := interruptible()
	defer stop()
	return errors.Join(do(ctx, r), r.Close())
}

// Run checks.
func (c ledgerCheckCmd) Run() error {
	return c.read(func(ctx context.Context, r *sqlite.Reader) error {
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

func printReport(w io.Writer, report sqlite.Report) error {
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
	return c.read(func(ctx context.Context, r *sqlite.Reader) error { return r.Backup(ctx, c.File) })
}

// Run prints.
func (c ledgerExportCmd) Run() error {
	return c.read(func(ctx context.Context, r *sqlite.Reader) error {
		out := bufio.NewWriter(os.Stdout)
		return errors.Join(r.Export(ctx, out, c.WithText), out.Flush())
	})
}
