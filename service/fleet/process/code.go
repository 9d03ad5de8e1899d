// SPDX-License-Identifier: GPL-3.0-or-later

package process

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/prometheus/procfs"
)

// Code lists the files whose code the process and its group run, sorted: their programs, and the libraries that they have loaded. A file that is
// not there any more by that name ends in " (deleted)".
func (p *Process) Code() ([]string, error) {
	all, err := procfs.AllProcs()
	if err != nil {
		return nil, fmt.Errorf("list the processes: %w", err)
	}
	var files []string
	for _, one := range all {
		stat, err := one.Stat()
		if err != nil || stat.PGRP != p.PID { // most are somebody else's
			continue
		}
		maps, err := one.ProcMaps()
		if errors.Is(err, os.ErrNotExist) && one.PID != p.PID { // it has ended meanwhile
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read what process %d has loaded: %w", one.PID, err)
		}
		for _, m := range maps {
			if m.Perms.Execute && isCode(m.Pathname) {
				files = append(files, m.Pathname)
			}
		}
	}
	slices.Sort(files)
	return slices.Compact(files), nil
}

// isCode tells files from what the kernel and engines make in memory alone.
func isCode(path string) bool {
	return strings.HasPrefix(path, "/") && !strings.HasPrefix(path, "/memfd:") && !strings.HasPrefix(path, "/dev/") && !strings.HasPrefix(path, "/SYSV")
}
