// SPDX-License-Identifier: GPL-3.0-or-later

package llamacpp

import (
	"regexp"
	"slices"
	"strconv"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
)

// The lines by which llama-server tells of the devices of other hosts: what was free there when it began, and each buffer that it has there.
var (
	freeThere  = regexp.MustCompile(`using device RPC\d+ \(([^)]+)\).* - (\d{1,9}) MiB free`)
	takenThere = regexp.MustCompile(`RPC\d+\[([^\]]+)\] .*buffer size = +(\d{1,9}\.\d+) MiB`)
)

// shares adds up what llama-server says of each host. A host may have several devices.
func shares(lines []string) (all []engine.Share) {
	of := func(host string) *engine.Share {
		at := slices.IndexFunc(all, func(s engine.Share) bool { return s.Host == host })
		if at < 0 {
			all, at = append(all, engine.Share{Host: host}), len(all)
		}
		return &all[at]
	}
	for _, line := range lines {
		if m := freeThere.FindStringSubmatch(line); m != nil {
			n, _ := strconv.ParseInt(m[2], 10, 64) // the pattern allows no other
			of(m[1]).FreeBytes += n * mebi
		} else if m := takenThere.FindStringSubmatch(line); m != nil {
			n, _ := strconv.ParseFloat(m[2], 64)
			of(m[1]).Bytes += int64(n * mebi)
		}
	}
	return all
}
