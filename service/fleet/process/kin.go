// SPDX-License-Identifier: GPL-3.0-or-later

package process

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// envMark is in the environment of each worker, and so of all that it starts. Only what has another environment, or another user, gets away.
const envMark = "LLORCH_WORKER_OF"

// marks are of the form that a Launcher gives them: its own name, which is new with each, a dot, and a number.
var marks = regexp.MustCompile(`^[A-Z2-7]{26}\.[0-9]{1,19}$`)

const (
	endWithin = 5 * time.Second // bounds the hunt for processes that start others as fast as they are ended
	endEvery  = 5 * time.Millisecond
)

// endMarked ends every process whose mark begins like that, and returns their pids. A whole mark ends in a zero byte.
func endMarked(mark string) (ended []int) {
	for begun := time.Now(); time.Since(begun) < endWithin; time.Sleep(endEvery) {
		found := false
		dirs, _ := filepath.Glob("/proc/[0-9]*") // the pattern is right
		for _, dir := range dirs {
			pid, err := strconv.Atoi(filepath.Base(dir))
			if err != nil || pid == os.Getpid() {
				continue
			}
			switch whose(pid, mark) {
			case ours:
				found = true
				if end(pid, mark) {
					ended = append(ended, pid)
				}
			case unclear:
				found = true
			case others:
			}
		}
		if !found {
			break
		}
	}
	return ended
}

// end reports whether it ended the process, which it does only while the pid is that of one of ours.
func end(pid int, mark string) bool {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return false
	}
	defer func() { _ = unix.Close(fd) }()
	// Whoever has the pid now is who gets the signal.
	return whose(pid, mark) == ours && unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) == nil
}

type kin int

const (
	others  kin = iota // another's, of another user, or ended
	ours               // it has the mark
	unclear            // it is about to run another program, and can be told in a moment
)

// whose looks into a process's environment. While a process starts another program it has none, not even an empty one, and shows nobody's mark.
func whose(pid int, mark string) kin {
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	switch {
	case err != nil: // gone, or of another user
		return others
	case bytes.Contains(append([]byte{0}, env...), []byte("\x00"+envMark+"="+mark)):
		return ours
	case len(env) > 0:
		return others
	}
	fields, err := statOf(pid)
	if err != nil || len(fields) < 49 || fields[0] == "Z" || fields[0] == "X" {
		return others
	}
	flags, err := strconv.ParseUint(fields[6], 10, 64)
	if err != nil || flags&kernelThread != 0 {
		return others
	}
	// Where the environment begins and ends in its memory. One that is not empty now has come since it was read.
	if begins, ends := fields[47], fields[48]; ends == "0" || begins != ends {
		return unclear
	}
	return others
}

// kernelThread is the flag of a kernel's own thread in /proc/<pid>/stat, PF_KTHREAD.
const kernelThread = 0x00200000

// origin names a process for as long as the machine runs. The pid alone would not do, because another process may have been given it since.
type origin struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // in clock ticks since boot, as in /proc/<pid>/stat
}

func ownOrigin() (o origin, err error) {
	o.PID = os.Getpid()
	o.Start, err = startTime(o.PID)
	return o, err
}

// lives reports whether the process is there, and has not ended.
func (o origin) lives() bool {
	start, state, err := stat(o.PID)
	return err == nil && start == o.Start && state != "Z" && state != "X"
}

// errOthers is why a run folder is not taken.
func errOthers(path string, other origin) error {
	return fmt.Errorf("another orchestratord, with the pid %d, has workers by the folder %s: stop it, or give this one a data_dir of its own", other.PID, path)
}

var errMark = errors.New("its mark is not one of ours")
