// SPDX-License-Identifier: GPL-3.0-or-later

package process

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// runDir is the folder with a file for every worker's process. It stays locked while it is open: the processes that it names are left-overs
// only if no other orchestratord runs them.
type runDir struct {
	path string
	lock *os.File
	boot string
}

// leftover names a process. The pid alone would not do, because another process may have been given it since. Start is in clock ticks
// since boot, as in /proc/<pid>/stat.
type leftover struct {
	PID     int    `json:"pid"`
	Start   uint64 `json:"start"`
	Boot    string `json:"boot"`
	Replica string `json:"replica_id"`
	// Remove is the command that removes the container which the process ran.
	Remove []string `json:"remove,omitempty"`
}

// reapTimeoutMS bounds the wait for a left-over to end after its SIGKILL.
const reapTimeoutMS = 5000

func openRunDir(path string) (*runDir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of the workers' pid files: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(path, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock of the workers' pid files: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("another orchestratord runs with the folder %s; stop it, or give this one a data_dir of its own", path)
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("read the boot id: %w", err)
	}
	return &runDir{path: path, lock: lock, boot: strings.TrimSpace(string(boot))}, nil
}

func (d *runDir) close() error {
	if d == nil {
		return nil
	}
	if err := d.lock.Close(); err != nil {
		return fmt.Errorf("unlock %s: %w", d.path, err)
	}
	return nil
}

// note writes the process down, and returns a function that removes the note. A nil runDir does nothing. Notes are only the third line of
// defence, so a worker runs even if a full disk takes none.
func (d *runDir) note(pid int, replica string, remove []string) (forget func()) {
	if d == nil {
		return func() {}
	}
	name := filepath.Join(d.path, strconv.Itoa(pid)+".json")
	if start, err := startTime(pid); err == nil {
		if data, err := json.Marshal(leftover{pid, start, d.boot, replica, remove}); err == nil {
			_ = os.WriteFile(name, data, 0o600)
		}
	}
	return func() { _ = os.Remove(name) }
}

// reap ends the processes that the folder names, and returns those that were still there.
func (d *runDir) reap(log *zap.Logger) []leftover {
	names, err := filepath.Glob(filepath.Join(d.path, "*.json"))
	if err != nil {
		return nil // only a malformed pattern fails
	}
	var found []leftover
	for _, name := range names {
		var l leftover
		if data, err := os.ReadFile(name); err == nil && json.Unmarshal(data, &l) == nil && l.Boot == d.boot {
			if l.end() {
				found = append(found, l)
			}
			if err := remove(l.Remove); err != nil { // the process ended with its daemon, and the container did not
				log.Warn("a container left over from an earlier run was not removed", zap.String("replica_id", l.Replica), zap.Error(err))
			}
		}
		_ = os.Remove(name)
	}
	return found
}

// end kills the process and its group, if it still is the process that was written down.
func (l leftover) end() bool {
	if l.PID <= 1 {
		return false
	}
	fd, err := unix.PidfdOpen(l.PID, 0)
	if err != nil {
		return false
	}
	defer func() { _ = unix.Close(fd) }()
	// The descriptor belongs to whoever has the pid now. If that process has the right start time, it is ours, and stays so.
	if start, err := startTime(l.PID); err != nil || start != l.Start {
		return false
	}
	if group, err := unix.Getpgid(l.PID); err == nil && group == l.PID {
		_ = unix.Kill(-l.PID, unix.SIGKILL)
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
		return false
	}
	gone := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(gone, reapTimeoutMS); !errors.Is(err, unix.EINTR) {
			return true
		}
	}
}

// startTime reads field 22 of /proc/<pid>/stat. The second field is the program's name in parentheses, which may hold anything.
func startTime(pid int) (uint64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	text := string(data)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields after the name", pid, len(fields))
	}
	return strconv.ParseUint(fields[19], 10, 64)
}
