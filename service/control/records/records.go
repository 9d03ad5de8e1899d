// SPDX-License-Identifier: GPL-3.0-or-later

// Package records finds the record of tasks that a configuration names, and moves it from the data folder to a database and back (LO-707).
package records

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"time"

	"github.com/llama-orch/llama-orch/service/config"
	"github.com/llama-orch/llama-orch/service/control/datafolder"
	"github.com/llama-orch/llama-orch/service/record/ledger/entry"
	"github.com/llama-orch/llama-orch/service/record/ledger/postgres"
	"github.com/llama-orch/llama-orch/service/record/ledger/sqlite"
)

// Postgres is where the configuration has the ledger, which is in a database.
func Postgres(c config.Ledger) postgres.Options {
	return postgres.Options{
		DSN: string(c.Postgres.DSN), Schema: c.Postgres.Schema, Connections: c.Postgres.Connections, RetainAge: c.RetainAge, RetainBytes: int64(c.RetainBytes),
	}
}

// Aside gives a schema another name, so that a new ledger can start in its place. It returns the name, empty if there was none. Nothing is deleted.
func Aside(ctx context.Context, o postgres.Options, now time.Time) (moved string, err error) {
	m, err := postgres.Move(ctx, o, false)
	if e, ok := errors.AsType[*postgres.Error](err); ok && e.Fault == postgres.NotThere {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	if moved, err = m.Aside(ctx, now); err != nil {
		return "", fmt.Errorf("set the ledger aside: %w", err)
	}
	return moved, m.Commit(ctx)
}

// Moved says what was moved.
type Moved struct {
	Rows    map[string]int
	Digests map[string]string // SHA-256 of each table, the same on both sides
	Aside   string            // the name that what was moved has now
}

// ToPostgres moves the ledger of a data folder, which no daemon uses, to the database. What was there keeps its bytes under another name. A move that was cut off can be
// made again.
func ToPostgres(ctx context.Context, dir string, o postgres.Options, now time.Time) (moved Moved, err error) {
	folder, err := datafolder.Take(dir)
	if err != nil {
		return moved, err
	}
	defer func() { err = errors.Join(err, folder.Close()) }()
	if o.Owner, err = datafolder.HostID(dir); err != nil { // its daemon has ended, since the folder could be taken
		return moved, err
	}
	path := filepath.Join(dir, sqlite.FileName)
	from, err := sqlite.OpenReader(path)
	if err != nil {
		return moved, err
	}
	open := true
	defer func() {
		if open {
			err = errors.Join(err, from.Close())
		}
	}()
	last, err := from.Last(ctx)
	if err != nil {
		return moved, fmt.Errorf("read the ledger: %w", err)
	}
	if moved.Digests, moved.Rows, err = entry.Digests(ctx, from); err != nil {
		return moved, err
	}
	to, err := postgres.Move(ctx, o, true)
	if err != nil {
		return moved, err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	if err := to.Fill(ctx, from, last); err != nil {
		return moved, fmt.Errorf("move the ledger: %w", err)
	}
	if err := to.Commit(ctx); err != nil {
		return moved, fmt.Errorf("move the ledger: %w", err)
	}
	open = false
	if err := from.Close(); err != nil {
		return moved, err
	}
	moved.Aside, err = sqlite.Aside(path, now)
	return moved, err
}

// ToSQLite moves a ledger that no daemon uses from the database to the data folder, which must have none.
func ToSQLite(ctx context.Context, dir string, o postgres.Options, now time.Time) (moved Moved, err error) {
	folder, err := datafolder.Take(dir)
	if err != nil {
		return moved, err
	}
	defer func() { err = errors.Join(err, folder.Close()) }()
	path := filepath.Join(dir, sqlite.FileName)
	if _, err := os.Lstat(path); err == nil {
		return moved, fmt.Errorf("move the ledger: %s is there already: give it another name, if nobody needs its tasks", path)
	}
	if o.Owner, err = datafolder.HostID(dir); err != nil { // its daemon has ended, since the folder could be taken
		return moved, err
	}
	from, err := postgres.Move(ctx, o, false)
	if err != nil {
		return moved, err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	last, err := from.Last(ctx)
	if err != nil {
		return moved, fmt.Errorf("read the ledger: %w", err)
	}
	if moved.Digests, moved.Rows, err = entry.Digests(ctx, from); err != nil {
		return moved, err
	}
	fresh := path + ".moving"
	if err := sqlite.Remove(fresh); err != nil {
		return moved, err
	}
	if err := sqlite.Fill(ctx, fresh, from, last); err != nil {
		return moved, fmt.Errorf("move the ledger: %w", err)
	}
	if err := same(ctx, fresh, moved.Digests); err != nil {
		return moved, errors.Join(fmt.Errorf("move the ledger: %w", err), sqlite.Remove(fresh))
	}
	if moved.Aside, err = from.Aside(ctx, now); err != nil {
		return moved, errors.Join(fmt.Errorf("set the ledger aside: %w", err), sqlite.Remove(fresh))
	}
	if err := sqlite.Place(fresh, path); err != nil {
		return moved, fmt.Errorf("move the ledger: %w", err)
	}
	return moved, from.Commit(ctx)
}

// same makes sure that a file has the tables of these digests.
func same(ctx context.Context, path string, want map[string]string) (err error) {
	r, err := sqlite.OpenReader(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	has, _, err := entry.Digests(ctx, r)
	if err == nil && !maps.Equal(has, want) {
		err = fmt.Errorf("what was written is not what was read: %v and %v", has, want)
	}
	return err
}
