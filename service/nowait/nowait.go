// SPDX-License-Identifier: GPL-3.0-or-later

// Package nowait reads and writes sockets that never wait, as those of package net are, without telling Go's scheduler.
//
// The scheduler takes every system call for one that may block: the first after a pause wakes its monitor thread, which then
// looks on for a while. Where each token is a pause and two calls, that was a third of its cost (.docs/perf.md).
package nowait

import (
	"syscall"
	"unsafe"
)

// Read reads what is there: EAGAIN where that is nothing, 0 at the end of the stream.
func Read(fd uintptr, b []byte) (int, error) { return call(syscall.SYS_READ, fd, b) }

// Write writes what there is room for: EAGAIN where that is none.
func Write(fd uintptr, b []byte) (int, error) { return call(syscall.SYS_WRITE, fd, b) }

func call(trap, fd uintptr, b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	for {
		n, _, errno := syscall.RawSyscall(trap, fd, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b))) //nolint:gosec // b is there while the kernel writes to it
		switch errno {
		case 0:
			return int(n), nil
		case syscall.EINTR:
		default:
			return 0, errno
		}
	}
}
