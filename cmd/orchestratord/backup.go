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
	Keep   *int   `help:"Make the backup in a new folder in DIR, named for the time. When it is whole, delete the older ones there, but for this many." placeholder:"N"`
	Dir    string `arg:"" help:"The backup: a folder that is not there yet, or is empty. With --keep, the folder of the backups." type:"path"`
}

// restoreCmd puts a backup into an empty data folder (LO-632).
type restoreCmd struct {
	dataFlag
	DamagedLedger bool   `help:"Take a backup whose ledger was damaged when it was made, too. The ledger is then as damaged as it was."`
	Dir           string `arg:"" help:"The backup." type:"path"`
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
	o := backup.Options{DataDir: dir, Dir: c.Dir, Models: c.Models, Version: version, Now: time.Now}
	r := backup.Rotation{Made: c.Dir}
	if c.Keep != nil {
		r, err = backup.Rotate(ctx, o, *c.Keep)
	} else {
		r.Manifest, err = backup.Make(ctx, o)
	}
	if err != nil {
		return err
	}
	if err := tell(os.Stdout, "Backed up to "+r.Made, r.Manifest); err != nil {
		return err
	}
	for _, old := range r.Deleted {
		fmt.Println("Deleted, since there are newer ones: " + old)
	}
	for _, cut := range r.Unfinished {
		fmt.Println("Cut off while it was made, and of no use: " + cut)
	}
	switch {
	case r.Manifest.NoLedger:
		return exit{exitDamaged, errors.New("the backup is made, without a whole ledger, as listed: keep an earlier backup too. `orchestratord ledger check` says what is damaged; " +
			"stop orchestratord, keep a copy of its files, and start it with `orchestratord serve --ledger-aside`")}
	case len(r.Manifest.Damaged) > 0:
		return exit{exitDamaged, errors.New("the backup is made, but something was damaged already, as listed: keep an earlier backup too. `orchestratord ledger check` says more of the ledger")}
	}
	return nil
}

// Validate is kong's.
func (c backupCmd) Validate() error {
	if c.Keep != nil && *c.Keep < 1 {
		return errors.New("--keep: at least one backup is kept")
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
	m, err := backup.Restore(ctx, c.Dir, dir, c.DamagedLedger)
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
