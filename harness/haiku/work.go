// SPDX-License-Identifier: GPL-3.0-or-later

package haiku

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// listening is the state of a listening socket in /proc/net/tcp.
const listening = "0A"

// cpu is how long processes have computed, all their threads together, in this and in the kernel's code.
func cpu(pids []int) (all time.Duration, err error) {
	for _, pid := range pids {
		var spent unix.Timespec
		// The kernel's number of a process's CPU clock, which is finer than the ticks of /proc/PID/stat; see clock_getcpuclockid(3).
		if err := unix.ClockGettime(int32(^pid<<3|2), &spent); err != nil {
			return 0, fmt.Errorf("read the CPU time of process %d: %w", pid, err)
		}
		all += time.Duration(spent.Nano())
	}
	return all, nil
}

// Listener returns the process of this machine that listens on a port.
func Listener(port int) (pid int, err error) {
	wanted := fmt.Sprintf(":%04X", port)
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		sockets, err := os.ReadFile(file)
		if err != nil {
			return 0, fmt.Errorf("read the sockets of this machine: %w", err)
		}
		for line := range strings.Lines(string(sockets)) {
			const local, state, inode = 1, 3, 9 // columns
			columns := strings.Fields(line)
			if len(columns) > inode && columns[state] == listening && strings.HasSuffix(columns[local], wanted) {
				if pid := owner(columns[inode]); pid != 0 {
					return pid, nil
				}
			}
		}
	}
	return 0, fmt.Errorf("no process that can be seen listens on port %d of this machine: run this where the engine runs, as who runs it", port)
}

// owner returns the process that has a socket open, or 0.
func owner(inode string) int {
	want := "socket:[" + inode + "]"
	open, _ := filepath.Glob("/proc/[0-9]*/fd/*") // the pattern is right
	for _, file := range open {
		if target, err := os.Readlink(file); err == nil && target == want {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(file)))) // the pattern has digits alone
			return pid
		}
	}
	return 0
}
