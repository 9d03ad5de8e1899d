// SPDX-License-Identifier: GPL-3.0-or-later

package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// applicationID stands in the head of the file and says that it is a ledger of ours: "LLOR".
const applicationID = 0x4c4c4f52

// Schema is the version of the schema that this program writes. It reads earlier ones too.
func Schema() int { return len(steps) }

// steps bring the schema from one version to the next: the first one makes version 1 in an empty file. A step that was released
// never changes.
var steps = []string{`
CREATE TABLE task (
	seq              INTEGER PRIMARY KEY AUTOINCREMENT, -- order of acceptance
	id               TEXT NOT NULL UNIQUE,
	state            TEXT NOT NULL CHECK (state IN ('queued', 'running', 'completed', 'failed', 'canceled')),
	priority         TEXT NOT NULL,
	pool_id          TEXT NOT NULL,
	accepted_ms      INTEGER NOT NULL, -- times are in milliseconds since 1970, UTC
	started_ms       INTEGER,          -- of the first dispatch
	finished_ms      INTEGER CHECK ((finished_ms IS NULL) = (state IN ('queued', 'running'))),
	start_order      INTEGER,          -- of the first dispatch
	replica_id       TEXT,
	fingerprint      TEXT,
	checkpoint_event INTEGER,
	checkpoint_sum   BLOB,
	sealed_at        TEXT,
	last_event_id    TEXT,
	outcome          TEXT              -- JSON
) STRICT;
CREATE INDEX task_live ON task (state DESC, start_order, seq) WHERE finished_ms IS NULL;
CREATE INDEX task_finished ON task (finished_ms, seq, state) WHERE finished_ms IS NOT NULL;
-- What is large has tables of its own, so that a change of state writes little, and finds room on a disk that is nearly full.
CREATE TABLE request (
	seq  INTEGER PRIMARY KEY, -- of the task
	task TEXT NOT NULL        -- JSON
) STRICT;
CREATE TABLE transcript (
	seq  INTEGER PRIMARY KEY, -- of the task
	ends BLOB NOT NULL,       -- the tokens' lengths in bytes, as varints
	text TEXT NOT NULL
) STRICT;
`, `
CREATE TABLE session (
	id             TEXT PRIMARY KEY,
	created_ms     INTEGER NOT NULL,
	ttl_ms         INTEGER NOT NULL,
	max_turns      INTEGER NOT NULL,
	turns          INTEGER NOT NULL, -- tasks that were accepted
	pool_id        TEXT,             -- of the last turn that ran
	replica_id     TEXT,
	budget_tokens  INTEGER NOT NULL, -- 0: no bound
	budget_time_ms INTEGER NOT NULL,
	budget_cost    INTEGER NOT NULL, -- millionths
	spent_tokens   INTEGER NOT NULL,
	spent_time_ms  INTEGER NOT NULL,
	spent_cost     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE spending (
	account   TEXT NOT NULL,    -- who the tasks were from
	window_ms INTEGER NOT NULL, -- when the budget began that they were charged to
	tokens    INTEGER NOT NULL,
	time_ms   INTEGER NOT NULL,
	cost      INTEGER NOT NULL,
	PRIMARY KEY (account, window_ms)
) STRICT, WITHOUT ROWID;
`, `
CREATE TABLE claim (
	fence      INTEGER PRIMARY KEY AUTOINCREMENT,
	owner      TEXT NOT NULL,
	claimed_ms INTEGER NOT NULL
) STRICT;
ALTER TABLE task ADD COLUMN proof_sum BLOB;      -- SHA-256 of the proof bundle; NULL in tasks that ended under an earlier version
ALTER TABLE task ADD COLUMN proof_bytes INTEGER;
ALTER TABLE task ADD COLUMN proof_keeps INTEGER; -- what it has in full: 1 the prompt, 2 the transcript
CREATE INDEX task_proof ON task (substr(proof_sum, 1, 8)) WHERE proof_sum IS NOT NULL;
-- A dispatch, which changes neither, need not touch it.
DROP INDEX task_live;
CREATE INDEX task_live ON task (seq) WHERE finished_ms IS NULL;
`, `
ALTER TABLE task ADD COLUMN deleted_ms INTEGER; -- when its text was deleted
-- It has a row while something that was deleted may still be in the file.
CREATE TABLE erasing (one INTEGER PRIMARY KEY CHECK (one = 1)) STRICT;
`, `
-- SHA-256 of what was written of a task when it was accepted, and when it ended; NULL in what an earlier version wrote.
ALTER TABLE request ADD COLUMN sum BLOB;
ALTER TABLE transcript ADD COLUMN sum BLOB;
`, `
ALTER TABLE session ADD COLUMN explicit INTEGER NOT NULL DEFAULT 0; -- 1: no task began it
-- Lists are in the order of acceptance, and the sweep takes the tasks in that of their ends.
DROP INDEX task_finished;
CREATE INDEX task_finished ON task (finished_ms, seq) WHERE finished_ms IS NOT NULL;
CREATE INDEX task_listed ON task (state, seq) WHERE finished_ms IS NOT NULL;
`, `
CREATE TABLE tip (
	one     INTEGER PRIMARY KEY CHECK (one = 1),
	commits INTEGER NOT NULL, -- whose callers were answered
	at_ms   INTEGER NOT NULL  -- of the last of them
) STRICT;
INSERT INTO tip (one, commits, at_ms) VALUES (1, 0, 0);
-- What the ledger has found to be missing.
CREATE TABLE loss (
	found_ms INTEGER NOT NULL,
	commits  INTEGER NOT NULL,
	tasks    INTEGER NOT NULL, -- at most
	from_ms  INTEGER NOT NULL,
	to_ms    INTEGER NOT NULL
) STRICT;
`, `
ALTER TABLE transcript ADD COLUMN marks BLOB; -- which tokens are reasoning or of calls of tools; NULL: none
`, `
ALTER TABLE task ADD COLUMN text_until_ms INTEGER; -- when its text is to be deleted; NULL: it is not, or was
CREATE INDEX task_text_until ON task (text_until_ms) WHERE text_until_ms IS NOT NULL;
`, `
CREATE TABLE file (
	seq  INTEGER PRIMARY KEY AUTOINCREMENT,
	id   TEXT NOT NULL UNIQUE,
	file TEXT NOT NULL -- JSON
) STRICT;
CREATE TABLE batch (
	seq      INTEGER PRIMARY KEY AUTOINCREMENT, -- order of acceptance
	id       TEXT NOT NULL UNIQUE,
	dialect  TEXT NOT NULL,
	file_id  TEXT NOT NULL, -- empty: it has none
	ended_ms INTEGER,
	record   TEXT NOT NULL  -- JSON
) STRICT;
CREATE INDEX batch_live ON batch (seq) WHERE ended_ms IS NULL;
CREATE TABLE batch_line (
	batch     INTEGER NOT NULL, -- its seq
	n         INTEGER NOT NULL,
	custom_id TEXT NOT NULL,
	at        INTEGER NOT NULL, -- in the batch's input
	bytes     INTEGER NOT NULL,
	state     TEXT NOT NULL CHECK (state IN ('waiting', 'fed', 'completed', 'failed', 'canceled', 'expired')),
	tries     INTEGER NOT NULL,
	outcome   TEXT,             -- JSON; NULL: its task tells
	PRIMARY KEY (batch, n)
) STRICT, WITHOUT ROWID;
`, `
-- Lists of files have the results of batches among them, in the order of their times.
ALTER TABLE file ADD COLUMN created_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE file ADD COLUMN artifact TEXT NOT NULL DEFAULT '';
ALTER TABLE batch ADD COLUMN artifact TEXT NOT NULL DEFAULT '';
UPDATE file SET created_ms = 1000 * unixepoch(file ->> 'created_at'), artifact = file ->> 'artifact';
UPDATE batch SET artifact = record ->> 'artifact';
CREATE INDEX file_listed ON file (created_ms, seq);
CREATE INDEX file_artifact ON file (artifact);
CREATE INDEX batch_ended ON batch (ended_ms, seq) WHERE ended_ms IS NOT NULL;
CREATE INDEX batch_artifact ON batch (artifact);

-- Most tasks complete: a list of those finds them without an index, so that their ends need not write one.
DROP INDEX task_listed;
CREATE INDEX task_listed ON task (state, seq) WHERE finished_ms IS NOT NULL AND state <> 'completed';

ALTER TABLE transcript ADD COLUMN logprobs TEXT; -- a line of JSON for each token; NULL: none
`, `
-- Energy, in millijoules.
ALTER TABLE session ADD COLUMN budget_mj INTEGER NOT NULL DEFAULT 0; -- 0: no bound
ALTER TABLE session ADD COLUMN spent_mj INTEGER NOT NULL DEFAULT 0;
ALTER TABLE spending ADD COLUMN mj INTEGER NOT NULL DEFAULT 0;
`}

// oldest is the first version that the steps can bring up to date.
const oldest = 1

// busyMS is how many milliseconds a statement waits for another program that holds the file.
const busyMS = 2000

// dsn is the name by which the driver opens the file.
func dsn(path string, parameters ...string) string {
	name := url.URL{Scheme: "file", Path: path}
	return name.String() + fmt.Sprintf("?_error_rc=1&_pragma=busy_timeout(%d)&", busyMS) + strings.Join(parameters, "&")
}

// parts are the names of the files that a ledger may consist of, the database last.
func parts(path string) []string {
	return []string{path + tipSuffix, path + "-wal", path + "-shm", path + "-journal", path}
}

// create makes an empty ledger where there is none. It is filled under another name and renamed when it is whole. So an empty
// file under the ledger's name is always damage.
func create(ctx context.Context, path string, steps []string) error {
	_, err := os.Stat(path)
	if err == nil {
		return nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return noAccess(path, err)
	}
	for _, part := range parts(path) {
		if _, err := os.Stat(part); err == nil {
			return damaged(path, "is gone, while "+filepath.Base(part)+" is still there", nil)
		}
	}
	fresh := path + ".new"
	for _, part := range parts(fresh) {
		if err := os.Remove(part); err != nil && !errors.Is(err, os.ErrNotExist) {
			return noAccess(path, err)
		}
	}
	f, err := os.OpenFile(fresh, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600) // only this user may read prompts
	if err != nil {
		return noAccess(path, err)
	}
	if err := f.Close(); err != nil {
		return noAccess(path, err)
	}
	if err := fill(ctx, fresh, steps); err != nil {
		return openError(path, err)
	}
	if err := os.Rename(fresh, path); err != nil {
		return noAccess(path, err)
	}
	return syncDir(path)
}

func fill(ctx context.Context, path string, steps []string) (err error) {
	db, err := sql.Open("sqlite", dsn(path, "_auto_vacuum=INCREMENTAL", "_sync=FULL"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if _, err := conn.ExecContext(ctx, fmt.Sprintf("PRAGMA application_id = %d", applicationID)); err != nil {
		return err
	}
	if err := migrate(ctx, conn, 0, steps); err != nil {
		return err
	}
	_, err = conn.ExecContext(ctx, "PRAGMA journal_mode = WAL")
	return err
}

// migrate brings the schema from a version to the newest. Each step is one transaction.
func migrate(ctx context.Context, conn *sql.Conn, from int, steps []string) error {
	for version := from + 1; version <= len(steps); version++ {
		tx, err := conn.BeginTx(ctx, nil)
		if err != nil {
			return fmt.Errorf("begin schema %d: %w", version, err)
		}
		_, err = tx.ExecContext(ctx, steps[version-1])
		if err == nil {
			_, err = tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", version))
		}
		if err != nil {
			return errors.Join(fmt.Errorf("bring the schema to version %d: %w", version, err), tx.Rollback())
		}
		if err := tx.Commit(); err != nil {
			return fmt.Errorf("bring the schema to version %d: %w", version, err)
		}
	}
	return nil
}

// probe looks at an existing file without writing to it, and returns the version of its schema.
func probe(ctx context.Context, db *sql.DB, path string, newest int) (version int, err error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return 0, &Error{Fault: Missing, Path: path, What: "is not there", Remedy: "name the data folder of an orchestratord that ran before"}
	case err != nil:
		return 0, noAccess(path, err)
	case !info.Mode().IsRegular():
		return 0, damaged(path, "is no file", nil)
	case info.Size() == 0:
		return 0, damaged(path, "is empty: it was cut off", nil)
	}
	var whose, tables int
	err = db.QueryRowContext(ctx, "SELECT (SELECT application_id FROM pragma_application_id), (SELECT user_version FROM pragma_user_version), "+
		"(SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name IN ('task', 'request', 'transcript'))").Scan(&whose, &version, &tables)
	if err != nil {
		return 0, openError(path, err)
	}
	switch {
	case whose != applicationID:
		return version, &Error{Fault: Foreign, Path: path, What: "is a database of another program", Remedy: remedyAside}
	case version > newest:
		return version, &Error{
			Fault: TooNew, Path: path, What: fmt.Sprintf("has schema %d, and this version knows %d", version, newest),
			Remedy: "run the newer orchestratord that wrote it, or `orchestratord serve --ledger-aside`, which keeps it under another name and starts a new one",
		}
	case version < oldest:
		return version, &Error{
			Fault: TooOld, Path: path, What: fmt.Sprintf("has schema %d, and this version takes %d and later", version, oldest),
			Remedy: "run an orchestratord between the two first, or `orchestratord serve --ledger-aside`, which keeps it under another name and starts a new one",
		}
	case tables != 3:
		return version, damaged(path, "lacks its tables", nil)
	}
	return version, nil
}

// quickCheckBytes is the size up to which a whole ledger is read before it is used. Reading a larger one would take too long.
const quickCheckBytes = 64 << 20

// quickCheck reads all pages of a ledger, unless it is larger than quickCheckBytes.
func quickCheck(ctx context.Context, db *sql.DB, path string) error {
	if info, err := os.Stat(path); err != nil || info.Size() > quickCheckBytes {
		return err
	}
	var found string
	if err := db.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&found); err != nil {
		return err
	}
	if found != "ok" {
		return damaged(path, "is damaged", errors.New(found))
	}
	return nil
}

// syncDir makes the names in the file's folder durable.
func syncDir(path string) error {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return noAccess(path, err)
	}
	if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
		return noAccess(path, err)
	}
	return nil
}
