// SPDX-License-Identifier: GPL-3.0-or-later

// Package datafolder takes the folder in which an orchestrator keeps what outlives it, for one process alone.
package datafolder

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/google/uuid"
	"github.com/llama-orch/llama-orch/internal/atomicfile"

	"github.com/llama-orch/llama-orch/service/flock"
	"github.com/llama-orch/llama-orch/service/safefile"
)

// ownLevels is how deep the folder is searched for what others own or can write: down to the records of its parts.
const ownLevels = 2

// The names of what a data folder keeps, beside the ledger's file and the catalog's folder of models.
const (
	Artifacts = "artifacts"
	Learned   = "learned-memory.json" // of the models' memory
	Measured  = "measured-rates.json" // how long the pools' tasks take
	Known     = "fingerprints.json"   // what fingerprints stand for
	Audit     = "audit.log"           // the audit lines that the log did not take
	Lock      = "lock"
	Host      = "host-id" // this folder's name in a ledger that several daemons share
	// Unfinished is there while a restore fills the folder. No orchestrator takes a folder that has it.
	Unfinished = "restore-unfinished"
)

// Folder is a data folder that this process has taken. Its locks end with Close, or with the process, however that ends.
type Folder struct{ locks []*os.File }

// Take makes the folder if it is not there, and locks it. It refuses a folder that others can write, for what is in it decides what is run
// (LO-813), and one that another process has taken.
func Take(dir string) (_ *Folder, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the data folder: %w; set data_dir (or LLORCH_DATA_DIR) to a folder that can be written", err)
	}
	if err := safefile.CheckOwnTree(dir, ownLevels); err != nil {
		return nil, fmt.Errorf("take the data folder: %w", err)
	}
	f := &Folder{}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	if err := f.lock(dir); err != nil {
		return nil, err
	}
	if err := f.lockFile(dir); err != nil {
		return nil, err
	}
	if _, err := os.Lstat(filepath.Join(dir, Unfinished)); err == nil {
		return nil, fmt.Errorf("a restore into the data folder %s was cut off: empty the folder, and run `orchestratord restore` again", dir)
	}
	return f, nil
}

// lock locks the folder itself, since a file in it can be removed. Some network file systems lock no folders.
func (f *Folder) lock(dir string) error {
	it, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("open the data folder: %w", err)
	}
	f.locks = append(f.locks, it)
	if err := flock.Take(it); errors.Is(err, flock.ErrHeld) {
		return taken(dir)
	}
	return nil
}

func (f *Folder) lockFile(dir string) error {
	it, err := os.OpenFile(filepath.Join(dir, Lock), os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("open the data folder's lock: %w; set data_dir (or LLORCH_DATA_DIR) to a folder that can be written", err)
	}
	f.locks = append(f.locks, it)
	if err := flock.Take(it); err != nil {
		return taken(dir)
	}
	return nil
}

func taken(dir string) error {
	return fmt.Errorf("another orchestratord uses the data folder %s: stop it, or set data_dir (or LLORCH_DATA_DIR) to another folder", dir)
}

// Free says by an error that a process has taken a folder. It changes nothing, and finds nothing in a folder that is not there.
func Free(dir string) error {
	it, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open the data folder: %w", err)
	}
	f := &Folder{locks: []*os.File{it}}
	held := flock.Take(it)
	if err := f.Close(); err != nil {
		return fmt.Errorf("close the data folder: %w", err)
	}
	if errors.Is(held, flock.ErrHeld) {
		return taken(dir)
	}
	return nil
}

// Close gives the folder back.
func (f *Folder) Close() (err error) {
	for _, l := range f.locks {
		err = errors.Join(err, l.Close())
	}
	f.locks = nil
	return err
}

// HostID is the name of a data folder that this process has taken. No other has it: one process at a time is its next life.
func HostID(dir string) (string, error) {
	path := filepath.Join(dir, Host)
	text, err := os.ReadFile(path)
	if err == nil {
		if id, err := uuid.ParseBytes(bytes.TrimSpace(text)); err == nil {
			return id.String(), nil
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read the data folder's name: %w", err)
	}
	id := uuid.NewString()
	if err := atomicfile.Write(path, []byte(id+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("name the data folder: %w", err)
	}
	return id, nil
}
