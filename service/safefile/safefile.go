// SPDX-License-Identifier: GPL-3.0-or-later

// Package safefile opens files that somebody else may have prepared: regular files alone, and without waiting for any of them.
package safefile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"

	"github.com/llama-orch/llama-orch/service/contain"
)

// ErrNotRegular is what Open returns for a folder, a pipe, a device or a socket.
var ErrNotRegular = errors.New("it is no regular file")

// Open opens a regular file for reading. Anything else it refuses, without waiting for it as an open of a pipe would.
func Open(path string) (*os.File, fs.FileInfo, error) { return open(path, 0) }

func open(path string, flags int) (*os.File, fs.FileInfo, error) {
	// A device may act on an open, so it is looked at before. What is looked at after the open is what will be read.
	if at, err := os.Stat(path); err != nil {
		return nil, nil, err
	} else if !at.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("open %s: %w", path, ErrNotRegular)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|flags, 0)
	if err != nil {
		return nil, nil, err
	}
	at, err := f.Stat()
	if err == nil && !at.Mode().IsRegular() {
		err = fmt.Errorf("open %s: %w", path, ErrNotRegular)
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, at, nil
}

// ReadOwn reads a small file that nobody but this user, or root, can have written, and that is no link.
func ReadOwn(path string, most int64) ([]byte, error) {
	f, at, err := open(path, syscall.O_NOFOLLOW)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // nothing was written
	if err := own(path, at); err != nil {
		return nil, err
	}
	if at.Size() > most {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, most)
	}
	return io.ReadAll(io.LimitReader(f, most))
}

// CheckOwn refuses a file or folder that somebody else than this user, or root, owns or can write. Of a link it looks at what the link leads to.
func CheckOwn(path string) error {
	at, err := os.Stat(path)
	if err != nil {
		return err
	}
	return own(path, at)
}

// CheckOwnTree does the same for a folder and for what is in it, so many levels down. In there, only regular files, folders and links of this
// user's are allowed.
func CheckOwnTree(dir string, levels int) error {
	if err := CheckOwn(dir); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		at, err := e.Info()
		switch {
		case errors.Is(err, fs.ErrNotExist): // it has gone meanwhile
			continue
		case err != nil:
		case at.IsDir() && levels > 1:
			err = CheckOwnTree(path, levels-1)
		case at.IsDir(), at.Mode().IsRegular(), at.Mode()&fs.ModeSymlink != 0:
			err = own(path, at)
		default:
			err = fmt.Errorf("%s is a %s: remove it", path, kindOf(at.Mode()))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func kindOf(m fs.FileMode) string {
	switch {
	case m&fs.ModeNamedPipe != 0:
		return "pipe"
	case m&fs.ModeSocket != 0:
		return "socket"
	}
	return "device"
}

const writable = 0o022 // by the group, or by anybody

func own(path string, at fs.FileInfo) error {
	if sys, ok := at.Sys().(*syscall.Stat_t); ok && sys.Uid != 0 && int64(sys.Uid) != int64(os.Geteuid()) {
		return fmt.Errorf("%s belongs to user %d, and this program runs as user %d: what others prepare is not used; remove it, or give it to this user", path, sys.Uid, os.Geteuid())
	}
	if at.Mode()&fs.ModeSymlink == 0 && at.Mode().Perm()&writable != 0 {
		return fmt.Errorf("%s can be written by others (mode %04o): see that all in it is yours, then run chmod go-w %s", path, at.Mode().Perm(), path)
	}
	return nil
}

// maxLeft bounds how many reads may be left behind. Each holds a thread until the system gives it back.
const maxLeft = 64

var left atomic.Int64

// ErrTooManyLeft is what Wait returns while too many reads do not come back.
var ErrTooManyLeft = errors.New("too many reads of files do not come back: see what is wrong with the disk or the network share")

// Wait runs f, which reads files, and returns what it returns. When ctx ends first, f is left behind: nothing can end a read that the system
// does not give back. So f must change nothing that others use. A panic in f is one of the caller's; one of a read that was left behind
// is nobody's.
func Wait[T any](ctx context.Context, f func(ctx context.Context) (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	var none T
	if left.Load() >= maxLeft {
		return none, ErrTooManyLeft
	}
	done := make(chan result, 1)
	go func() { // it is joined below, or left behind
		value, err := contain.Try(func() (T, error) { return f(ctx) })
		done <- result{value, err}
	}()
	select {
	case r := <-done:
		if panicked, ok := errors.AsType[*contain.PanicError](r.err); ok {
			panic(panicked) // as if the caller had called f
		}
		return r.value, r.err
	case <-ctx.Done():
	}
	left.Add(1)
	go func() { // ends with f
		<-done
		left.Add(-1)
	}()
	return none, context.Cause(ctx)
}
