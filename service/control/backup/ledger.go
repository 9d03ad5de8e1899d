// SPDX-License-Identifier: GPL-3.0-or-later

package backup

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/llama-orch/llama-orch/service/record/ledger/sqlite"
	"github.com/llama-orch/llama-orch/service/task"
)

// rawNames are those of a damaged ledger's files in a backup. As they are called otherwise, nobody takes them for a ledger.
var rawNames = map[string]string{sqlite.FileName: sqlite.FileName + ".damaged", sqlite.FileName + "-wal": sqlite.FileName + "-wal.damaged"}

// ledger copies the ledger, and reads the copy. If it is too damaged for that, its files are copied as they are.
func (mk *maker) ledger(ctx context.Context) error {
	err := mk.whole(ctx)
	if e, ok := errors.AsType[*sqlite.Error](err); ok && e.Fault == sqlite.Damaged {
		return mk.raw(ctx, e)
	}
	return err
}

// whole copies a ledger of which all pages can be read.
func (mk *maker) whole(ctx context.Context) error {
	r, err := sqlite.OpenReader(filepath.Join(mk.o.DataDir, sqlite.FileName))
	if err != nil {
		return err
	}
	copied := filepath.Join(mk.o.Dir, sqlite.FileName)
	if err := errors.Join(r.Backup(ctx, copied), r.Close()); err != nil {
		return err
	}
	if r, err = sqlite.OpenReader(copied); err != nil {
		return err
	}
	report, err := r.Check(ctx)
	if err := errors.Join(err, r.Close()); err != nil {
		return err
	}
	mk.m.Schema, mk.m.Tasks = report.Schema, report.States
	for _, p := range report.Problems {
		mk.m.Damaged = append(mk.m.Damaged, "the ledger: "+p)
	}
	f, err := mk.to.Open(sqlite.FileName)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	sum := sha256.New()
	size, err := io.Copy(sum, reader{ctx, f})
	mk.note(sqlite.FileName, hex.EncodeToString(sum.Sum(nil)), size)
	return err
}

// raw copies the files of a damaged ledger, as far as the disk gives them.
func (mk *maker) raw(ctx context.Context, why *sqlite.Error) error {
	mk.m.NoLedger, mk.m.Tasks = true, map[task.State]int{}
	mk.m.Damaged = append(mk.m.Damaged, why.Error())
	if err := mk.to.Remove(sqlite.FileName); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, name := range []string{sqlite.FileName, sqlite.FileName + "-wal"} {
		from, err := mk.from.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		sum, size, err := fill(mk.to, rawNames[name], reader{ctx, from})
		_ = from.Close() // it was only read
		switch {
		case errors.Is(err, unix.EIO):
			mk.m.Damaged = append(mk.m.Damaged, name+": the disk does not give all of it, so it is left out")
			err = mk.to.Remove(rawNames[name])
		case err == nil:
			mk.note(rawNames[name], sum, size)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
