// SPDX-License-Identifier: GPL-3.0-or-later

package process

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/llama-orch/llama-orch/service/flock"
	"github.com/llama-orch/llama-orch/service/safefile"
)

// runDir is the folder with a file for every worker's process. It stays locked while it is open: the processes that it names are left-overs
// only if no other orchestratord runs them.
type runDir struct {
	path  string
	lock  *os.File
	boot  string
	owner origin // this process
}

// leftover names a process.
type leftover struct {
	origin

	Boot    string  `json:"boot"`
	Replica string  `json:"replica_id"`
	Mark    string  `json:"mark,omitempty"`   // of the process, and of all that it started
	Daemon  *origin `json:"daemon,omitempty"` // whose worker it is
	// Container is what the process ran. A note says what is to be removed, never how: it may not be ours.
	Container *noted `json:"container,omitempty"`
}

// noted names a container.
type noted struct {
	Runtime string `json:"runtime"` // one of runtimes
	Name    string `json:"name"`    // as ContainerName makes it
}

// runtimes are the programs that can run containers.
var runtimes = []string{"docker", "podman"}

// maxNote bounds the size of a note.
const maxNote = 4096

// reapTimeoutMS bounds the wait for a left-over to end after its SIGKILL.
const reapTimeoutMS = 5000

func openRunDir(path string) (*runDir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of the workers' pid files: %w", err)
	}
	if err := safefile.CheckOwn(path); err != nil {
		return nil, fmt.Errorf("take the folder of the workers' pid files: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(path, "lock"), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock of the workers' pid files: %w", err)
	}
	if err := flock.Take(lock); err != nil {
		_ = lock.Close()
		if errors.Is(err, flock.ErrHeld) {
			return nil, fmt.Errorf("another orchestratord runs with the folder %s; stop it, or give this one a data_dir of its own", path)
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("read the boot id: %w", err)
	}
	owner, err := ownOrigin()
	if err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("find the start of this process: %w", err)
	}
	return &runDir{path: path, lock: lock, boot: strings.TrimSpace(string(boot)), owner: owner}, nil
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
func (d *runDir) note(pid int, replica, mark string, c containerRef) (forget func()) {
	if d == nil {
		return func() {}
	}
	name := filepath.Join(d.path, strconv.Itoa(pid)+".json")
	if start, err := startTime(pid); err == nil {
		l := leftover{origin: origin{pid, start}, Boot: d.boot, Replica: replica, Mark: mark, Daemon: &d.owner}
		if c.name != "" {
			l.Container = &noted{Runtime: filepath.Base(c.runtime), Name: c.name}
		}
		if data, err := json.Marshal(l); err == nil {
			_ = os.WriteFile(name, data, 0o600)
		}
	}
	return func() { _ = os.Remove(name) }
}

// reap ends the processes that the folder names, and returns those that were still there. It ends none, and fails, where the daemon that
// started one still runs: then somebody has removed the locks.
func (d *runDir) reap(log *zap.Logger) (found []leftover, err error) {
	names, err := filepath.Glob(filepath.Join(d.path, "*.json"))
	if err != nil {
		return nil, err // only a malformed pattern fails
	}
	for _, name := range names {
		l, err := d.read(name)
		if err == nil && l.Boot == d.boot && l.Daemon != nil && *l.Daemon != d.owner && l.Daemon.lives() {
			return nil, errOthers(d.path, *l.Daemon)
		}
	}
	for _, name := range names {
		l, err := d.read(name)
		switch {
		case err != nil:
			log.Warn("a note about a worker of an earlier run is not used", zap.String("file", filepath.Base(name)), zap.Error(err))
		case l.Boot == d.boot:
			if l.end() {
				found = append(found, l)
			}
			// The process ended with its daemon, and the container did not.
			if l.Container == nil {
				break
			}
			if err := (containerRef{l.Container.Runtime, l.Container.Name}).remove(); err != nil {
				log.Warn("a container left over from an earlier run was not removed", zap.String("replica_id", l.Replica), zap.Error(err))
			}
		}
		_ = os.Remove(name)
	}
	return found, nil
}

// read reads a note that we wrote ourselves. It refuses any other.
func (d *runDir) read(name string) (l leftover, err error) {
	data, err := safefile.ReadOwn(name, maxNote)
	if err != nil {
		return l, err
	}
	in := json.NewDecoder(bytes.NewReader(data))
	in.DisallowUnknownFields()
	if err := in.Decode(&l); err != nil {
		return l, fmt.Errorf("read it: %w", err)
	}
	if c := l.Container; c != nil && (!slices.Contains(runtimes, c.Runtime) || c.Name != containerName(d.path, l.Replica)) {
		return l, errors.New("it names a container that is not ours")
	}
	if l.Mark != "" && !marks.MatchString(l.Mark) {
		return l, errMark
	}
	return l, nil
}

// end kills the process and its group, if it still is the process that was written down, and all that it has started.
func (l leftover) end() bool {
	ended := l.endLeader()
	if l.Mark != "" && len(endMarked(l.Mark+"\x00")) > 0 {
		ended = true
	}
	return ended
}

func (l leftover) endLeader() bool {
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
	start, _, err := stat(pid)
	return start, err
}

// statOf are the fields of /proc/<pid>/stat behind the name: the first one is the state.
func statOf(pid int) ([]string, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	text := string(data)
	return strings.Fields(text[strings.LastIndexByte(text, ')')+1:]), nil
}

func stat(pid int) (start uint64, state string, err error) {
	fields, err := statOf(pid)
	if err != nil {
		return 0, "", err
	}
	if len(fields) < 20 {
		return 0, "", fmt.Errorf("/proc/%d/stat has %d fields after the name", pid, len(fields))
	}
	start, err = strconv.ParseUint(fields[19], 10, 64)
	return start, fields[0], err
}
