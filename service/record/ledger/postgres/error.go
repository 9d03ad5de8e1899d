// SPDX-License-Identifier: GPL-3.0-or-later

package postgres

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// Fault says what kind of thing is wrong with a ledger that cannot be opened.
type Fault string

// The faults.
const (
	Unread    Fault = "unread"    // the DSN cannot be used
	Away      Fault = "away"      // the database cannot be reached
	Denied    Fault = "denied"    // it does not let us in, or do what has to be done
	Plain     Fault = "plain"     // the connection would leave this machine without TLS
	Unsafe    Fault = "unsafe"    // it does not keep what it has acknowledged
	ReadOnly  Fault = "read-only" // it is a replica
	Foreign   Fault = "foreign"   // the schema is another program's
	TooNew    Fault = "too new"   // a later version has made the schema
	Beside    Fault = "beside"    // daemons of another version use the schema
	Held      Fault = "held"      // another orchestratord uses the schema
	NotEmpty  Fault = "not empty" // there are tasks where a ledger is to be moved to
	NotThere  Fault = "not there" // there is no ledger to read
	Different Fault = "different" // what was moved is not what was there
)

// Error says why a ledger cannot be opened, and what to do about it. It never holds the password.
type Error struct {
	Fault  Fault
	Where  string // the hosts and the database
	What   string
	Remedy string
	Err    error
}

func (e *Error) Error() string {
	text := fmt.Sprintf("the ledger on PostgreSQL (%s) %s", e.Where, e.What)
	if e.Err != nil {
		text += fmt.Sprintf(" (%v)", e.Err)
	}
	return text + ": " + e.Remedy
}

func (e *Error) Unwrap() error { return e.Err }

// Classes of PostgreSQL's error codes: https://www.postgresql.org/docs/current/errcodes-appendix.html
const (
	noSuchTable    = "42P01"
	noSuchSchema   = "3F000"
	noPrivilege    = "42501"
	badPassword    = "28P01"
	badLogin       = "28000"
	noSuchDatabase = "3D000"
	deadlock       = "40P01"
	noSuchValue    = "22023" // such as a transaction of the future
)

// code is PostgreSQL's code of an error; empty: it is none of its errors.
func code(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	return ""
}

// about reports whether an error may be about one operation of many: PostgreSQL has looked at it, and is not on its way down.
func about(err error) bool {
	c := code(err)
	if len(c) < 2 {
		return false
	}
	switch c[:2] {
	case "08", "57", "58", "25", "28", "3D", "3F", "XX":
		return false
	}
	return c != "53300" && c != noPrivilege
}

// openError turns the reason for not opening a ledger into an *Error.
func (o Options) openError(err error) error {
	if known, ok := errors.AsType[*Error](err); ok {
		return known
	}
	e := &Error{Where: o.where, Err: err}
	var network net.Error
	switch c := code(err); {
	case c == badPassword || c == badLogin:
		e.Fault, e.What, e.Remedy = Denied, "refuses the user or the password", "correct the DSN, and see pg_hba.conf of the database"
	case c == noPrivilege:
		e.Fault, e.What = Denied, "does not let this user do what a ledger needs"
		e.Remedy = fmt.Sprintf("as its owner run: GRANT CREATE ON DATABASE … TO …; or make the schema %q and give it to the user", o.Schema)
	case c == noSuchDatabase:
		e.Fault, e.What, e.Remedy = Denied, "has no such database", "create it, or correct the DSN"
	case c == noSuchTable || c == noSuchSchema:
		e.Fault, e.What, e.Remedy = NotThere, fmt.Sprintf("has no schema %q with a ledger", o.Schema), "start orchestratord once, or correct ledger.postgres"
	case strings.HasPrefix(c, "57") || strings.HasPrefix(c, "53") || strings.HasPrefix(c, "08"): // it starts, stops, or has no connection left
		e.Fault, e.What, e.Remedy = Away, "takes no connection now", "wait until the database has started, or raise its max_connections; the next start of orchestratord goes on with its tasks"
	case c != "":
		return fmt.Errorf("open the ledger on PostgreSQL (%s): %w", o.where, err)
	case errors.As(err, &network), errors.Is(err, context.DeadlineExceeded):
		e.Fault, e.What, e.Remedy = Away, "cannot be reached", "start the database, or correct the DSN; the next start of orchestratord goes on with its tasks"
	default:
		e.Fault, e.What, e.Remedy = Away, "does not answer as it should", "start the database, or correct the DSN; the next start of orchestratord goes on with its tasks"
	}
	return e
}
