// SPDX-License-Identifier: GPL-3.0-or-later

package daemon

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Worker is a process of the built-in engine. Its pid alone does not identify it, since another process may get the same pid later.
type Worker struct {
	Pid int

	exe     string
	parent  int
	started string // in clock ticks since boot
}

// Workers returns the workers of this life of the daemon.
func (d *Daemon) Workers() []Worker {
	return slices.DeleteFunc(Workers(d.exe), func(w Worker) bool { return w.parent != d.Pid() })
}

// Workers returns all processes that run a program as a worker.
func Workers(exe string) []Worker {
	return slices.DeleteFunc(Running(exe), func(w Worker) bool {
		args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", w.Pid)) // none: it has just ended
		words := strings.Split(string(args), "\x00")
		return len(words) < 2 || words[1] != "worker"
	})
}

// Running returns all processes that run a program. A program that a suite has built is only run by that suite.
func Running(exe string) (found []Worker) {
	dirs, _ := filepath.Glob("/proc/[0-9]*") // the pattern is right
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || !runs(pid, exe) {
			continue
		}
		if parent, started := stat(pid); started != "" {
			found = append(found, Worker{Pid: pid, exe: exe, parent: parent, started: started})
		}
	}
	slices.SortFunc(found, func(a, b Worker) int { return a.Pid - b.Pid })
	return found
}

// runs reports whether a process runs a program. A process that has ended, but was not reaped yet, runs none.
func runs(pid int, exe string) bool {
	target, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	return err == nil && target == exe
}

// stat reads the parent and the start time from /proc/<pid>/stat. The name in brackets may hold anything.
func stat(pid int) (parent int, started string) {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)) // none: it has just ended
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(fields) < 20 {
		return 0, ""
	}
	parent, _ = strconv.Atoi(fields[1]) // the kernel wrote it
	return parent, fields[19]
}

// Noted returns the replicas of the processes that a daemon has started, by pid, from the daemon's notes in its data folder.
func Noted(data string) map[int]string {
	replicas := map[int]string{}
	files, _ := filepath.Glob(filepath.Join(data, "run", "*.json")) // the pattern is right
	for _, file := range files {
		var note struct {
			Pid     int    `json:"pid"`
			Replica string `json:"replica_id"`
		}
		if text, err := os.ReadFile(file); err == nil && json.Unmarshal(text, &note) == nil { // else the worker has just ended
			replicas[note.Pid] = note.Replica
		}
	}
	return replicas
}

// Alive reports whether the worker is still there.
func (w Worker) Alive() bool {
	_, started := stat(w.Pid)
	return started == w.started && runs(w.Pid, w.exe)
}

// Kill ends the worker at once.
func (w Worker) Kill() {
	if w.Alive() {
		_ = syscall.Kill(w.Pid, syscall.SIGKILL) // it may just have ended
	}
}
