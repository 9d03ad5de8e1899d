// SPDX-License-Identifier: GPL-3.0-or-later

// Package spare tells a shortage of this process, or of its machine, apart from the failure of what it wanted to reach, and keeps some file
// descriptors in reserve for what must not fail because of one (LO-839).
package spare

import (
	"errors"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// Short reports whether an error says that this process, or its machine, has no more descriptors, memory, ports or processes to give. Such an
// error says nothing about the other side.
func Short(err error) bool {
	for _, e := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ENOBUFS, syscall.EADDRNOTAVAIL} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// most bounds the limit of descriptors that is asked for. A program may have a loop over all that it could have.
const most = 1 << 17

// Raise raises the limit of open files as far as this process may, and returns it. Go's own raise does not reach the processes that are
// started.
func Raise() (uint64, error) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, err
	}
	limit.Cur = max(min(limit.Max, most), min(limit.Cur, most))
	return limit.Cur, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
}

// reserve holds descriptors that lead nowhere, until somebody needs their places. It belongs to the process, as its limit does.
var reserve struct {
	mu   sync.Mutex
	held []int // guarded by mu
	want int   // guarded by mu
	lack atomic.Bool
}

// Keep keeps so many descriptors in reserve from now on.
func Keep(n int) {
	reserve.mu.Lock()
	defer reserve.mu.Unlock()
	reserve.want = n
	empty(n)
	fill()
}

// fill takes what the reserve lacks. The caller holds the reserve's mu.
func fill() {
	for len(reserve.held) < reserve.want {
		fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			break
		}
		reserve.held = append(reserve.held, fd)
	}
	reserve.lack.Store(len(reserve.held) < reserve.want)
}

// empty gives back all but n. The caller holds the reserve's mu.
func empty(n int) {
	for len(reserve.held) > n {
		last := len(reserve.held) - 1
		_ = unix.Close(reserve.held[last])
		reserve.held = reserve.held[:last]
	}
}

// Do runs f, which opens files or sockets. Where there are no descriptors left, it runs f again with the reserve given back meanwhile.
func Do(f func() error) error {
	err := f()
	switch {
	case errors.Is(err, syscall.EMFILE):
		reserve.mu.Lock()
		defer reserve.mu.Unlock()
		if len(reserve.held) == 0 {
			break
		}
		empty(0)
		err = f()
		fill()
	case err == nil && reserve.lack.Load():
		reserve.mu.Lock()
		defer reserve.mu.Unlock()
		fill()
	}
	return err
}

// Get is Do for what returns a value.
func Get[T any](f func() (T, error)) (value T, err error) {
	err = Do(func() (err error) {
		value, err = f()
		return err
	})
	return value, err
}
