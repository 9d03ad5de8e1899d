// SPDX-License-Identifier: GPL-3.0-or-later

package vram

import (
	"bytes"
	"os"
	"strconv"
)

// processGroup reads the process group of a process, and whether it could.
func processGroup(pid int) (group int, ok bool) {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, false
	}
	return groupOf(stat)
}

// groupOf reads it from the content of /proc/PID/stat: pid (name) state ppid pgrp …; the name may hold anything.
func groupOf(stat []byte) (group int, ok bool) {
	at := bytes.LastIndexByte(stat, ')')
	fields := bytes.Fields(stat[at+1:])
	if at < 0 || len(fields) < 3 {
		return 0, false
	}
	group, err := strconv.Atoi(string(fields[2]))
	return group, err == nil && group > 0
}
