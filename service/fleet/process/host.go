// SPDX-License-Identifier: GPL-3.0-or-later

package process

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// MemAvailable reads the kernel's estimate of how many bytes can be taken without swapping.
func MemAvailable() (int64, error) {
	file, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	defer func() { _ = file.Close() }()
	kilobytes, err := procFigure(file, "MemAvailable:")
	return kilobytes << 10, err
}

// OOMKills reads how many processes the kernel has killed for lack of memory; 0 if it does not tell.
func OOMKills() int64 {
	file, err := os.Open("/proc/vmstat")
	if err != nil {
		return 0
	}
	defer func() { _ = file.Close() }()
	kills, err := procFigure(file, "oom_kill")
	if err != nil {
		return 0
	}
	return kills
}

// ResidentBytes is the memory that a process holds; 0 if it is gone.
func ResidentBytes(pid int) int64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	kilobytes, err := procFigure(bytes.NewReader(status), "VmRSS:")
	if err != nil {
		return 0
	}
	return kilobytes << 10
}

// procFigure reads the number that follows a name in a file of /proc.
func procFigure(from io.Reader, name string) (int64, error) {
	scanner := bufio.NewScanner(from)
	for scanner.Scan() {
		if fields := strings.Fields(scanner.Text()); len(fields) > 1 && fields[0] == name {
			return strconv.ParseInt(fields[1], 10, 64)
		}
	}
	if err := scanner.Err(); err != nil {
		return 0, err
	}
	return 0, fmt.Errorf("there is no %s", name)
}
