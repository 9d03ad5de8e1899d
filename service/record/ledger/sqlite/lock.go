// SPDX-License-Identifier: GPL-3.0-or-later

package sqlite

import (
	"errors"
	"os"
	"sync"

	"github.com/llama-orch/llama-orch/service/flock"
)

// held are the paths of the ledgers that this process has open. The kernel drops a process's POSIX locks on a file, which SQLite
// uses, when the process closes any handle of that file. So a second Open in one process must not even open the file.
var held sync.Map

// lock is an flock on the database file. SQLite does not look at it, so that other processes can still read the ledger. It ends
// with the process.
type lock struct {
	path string
	file *os.File
}

// takeLock makes this process the only one that writes the ledger.
func takeLock(path string) (*lock, error) {
	if _, taken := held.LoadOrStore(path, true); taken {
		return nil, lockedOut(path, nil)
	}
	f, err := os.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		held.Delete(path)
		return nil, noAccess(path, err)
	}
	l := &lock{path: path, file: f}
	if err := flock.Take(f); err != nil {
		return nil, errors.Join(lockedOut(path, err), l.release())
	}
	return l, nil
}

// release gives the lock back. SQLite has closed its handles before.
func (l *lock) release() error {
	if l == nil {
		return nil
	}
	defer held.Delete(l.path)
	return l.file.Close()
}

func lockedOut(path string, err error) *Error {
	return &Error{Fault: Held, Path: path, What: "is open in another orchestratord", Remedy: "stop that one first", Err: err}
}
