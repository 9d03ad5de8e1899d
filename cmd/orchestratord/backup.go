// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/llama-orch/llama-orch/service/control/backup"
	"github.com/llama-orch/llama-orch/service/task"
)

// backupCmd copies what the data folder keeps (LO-631).
type backupCmd struct {
	dataFlag
	Models bool   `help:"Copy the models too that the daemon has fetched. Without it they are listed, and fetched again after a restore."`
	Dir    string `arg:"" help:"The backup: a folder that is not there yet, or is empty." type:"path"`
}

// restoreCmd puts a backup into an empty data folder (LO-632).
type restoreCmd struct {
	dataFlag
	Dir string `arg:"" help:"The backup." type:"path"`
}

// Run copies.
func (c backupCmd) Run() error {
	dir, err := c.dir()
	if err != nil {
		return err
	}
	if c.Config != "" {
		if conf, err := (configFlag{c.Config}).load(); err != nil || conf.Ledger.Postgres.On() {
			return errors.Join(err, errDump)
		}
	}
	ctx, stop := interruptible()
	defer stop()
	m, err := backup.Make(ctx, backup.Options{DataDir: dir, Dir: c.Dir, Models: c.Models, Version: version, Now: time.Now})
	if err != nil {
		return err
	}
	if err := tell(os.Stdout, "Backed up to "+c.Dir, m); err != nil {
		return err
	}
	if len(m.Damaged) > 0 {
		return errors.New("the backup is made, but something was damaged already, as listed: keep an earlier backup too")
	}
	return nil
}

// Run puts it back.
func (c restoreCmd) Run() error {
	dir, err := c.dir()
	if err != nil {
		return err
	}
	ctx, stop := interruptible()
	defer stop()
	m, err := backup.Restore(ctx, c.Dir, dir)
	if err != nil {
		return err
	}
	return tell(os.Stdout, "Restored to "+dir, m)
}

// tell says in a few lines what a backup has.
func tell(w io.Writer, what string, m backup.Manifest) error {
	total, open, copied := 0, m.Tasks[task.Queued]+m.Tasks[task.Running], 0
	for _, n := range m.Tasks {
		total += n
	}
	for _, model := range m.Models {
		if model.Copied {
			copied++
		}
	}
	_, err := fmt.Fprintf(w, "%s: %d tasks, %d of them still to end; %d models, %d of them copied; %d files, %d bytes; made at %s.\n",
		what, total, open, len(m.Models), copied, m.Files, m.Bytes, m.MadeAt.Format(time.RFC3339))
	for _, d := range m.Damaged {
		_, failed := fmt.Fprintf(w, "Damaged: %s\n", d)
		err = errors.Join(err, failed)
	}
	return err
}
