// SPDX-License-Identifier: GPL-3.0-or-later

package sqlite

import (
	"errors"
	"fmt"

	driver "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// Fault says what kind of thing is wrong with a ledger that cannot be opened.
type Fault string

// The faults.
const (
	Damaged  Fault = "damaged"   // truncated, overwritten, or parts of it are missing
	Foreign  Fault = "foreign"   // a database of another program
	TooNew   Fault = "too new"   // written by a later version
	TooOld   Fault = "too old"   // written by a version that can no longer be brought up to date
	NoAccess Fault = "no access" // the file or its folder cannot be read or written
	Missing  Fault = "missing"   // there is no ledger to read
	Held     Fault = "held"      // another orchestratord has it open
)

// Error says why a ledger cannot be opened, and what to do about it. The file was not changed.
type Error struct {
	Fault  Fault
	Path   string
	What   string
	Remedy string
	Err    error
}

func (e *Error) Error() string {
	text := fmt.Sprintf("the ledger %s %s", e.Path, e.What)
	if e.Err != nil {
		text += fmt.Sprintf(" (%v)", e.Err)
	}
	return text + ": " + e.Remedy
}

func (e *Error) Unwrap() error { return e.Err }

const remedyAside = "`orchestratord ledger check` says more; `orchestratord serve --ledger-aside` keeps it under another name and starts a new one"

func damaged(path, what string, err error) *Error {
	return &Error{Fault: Damaged, Path: path, What: what, Remedy: remedyAside, Err: err}
}

// openError turns SQLite's reason for not opening a file into an *Error.
func openError(path string, err error) error {
	var known *Error
	if err == nil || errors.As(err, &known) {
		return err
	}
	switch code(err) {
	case sqlite3.SQLITE_NOTADB:
		return damaged(path, "is no ledger any more: its head was overwritten or cut off", err)
	case sqlite3.SQLITE_CORRUPT:
		return damaged(path, "is damaged", err)
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return &Error{Fault: NoAccess, Path: path, What: "is locked by another program", Remedy: "end that program", Err: err}
	case sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR:
		return noAccess(path, err)
	}
	return fmt.Errorf("open the ledger %s: %w", path, err)
}

func noAccess(path string, err error) *Error {
	return &Error{
		Fault: NoAccess, Path: path, What: "cannot be opened for writing", Err: err,
		Remedy: "let the user who runs orchestratord write it and its folder, and make sure that the disk has room",
	}
}

// code is SQLite's primary result code, 0 for an error of another kind.
func code(err error) int { return extended(err) & 0xff }

// extended is SQLite's extended result code, 0 for an error of another kind.
func extended(err error) int {
	if e, ok := errors.AsType[*driver.Error](err); ok {
		return e.Code()
	}
	return 0
}
