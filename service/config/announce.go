// SPDX-License-Identifier: GPL-3.0-or-later

package config

import (
	"fmt"
	"strings"
	"unicode"

	"github.com/llama-orch/llama-orch/service/task"
)

// maxLabel is how long a name in DNS may be, in bytes.
const maxLabel = 63

// announce checks that what is announced can be reached, and can be a name (LO-642).
func (c *Config) announce(ps *problems) {
	if c.Announce.MDNS && c.Loopback() {
		ps.add(c.where.of("announce.mdns"), fmt.Sprintf("announce.mdns is true, and bind_addr is %s, which no other machine can reach", c.BindAddr),
			"set bind_addr to an address of the local network, like 0.0.0.0:8080, with a token; or leave announce out")
	}
	name := c.Announce.Name
	switch at := c.where.of("announce.name"); {
	case len(name) > maxLabel:
		ps.add(at, fmt.Sprintf("announce.name has %d bytes", len(name)), fmt.Sprintf("a name in DNS has %d bytes at most: shorten it", maxLabel))
	case strings.IndexFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) >= 0 || name != strings.TrimSpace(name):
		ps.add(at, fmt.Sprintf("announce.name is %q, which nobody can read aloud", task.Clip(name, maxQuote)), "write a name of letters, digits, spaces and signs, without spaces at its ends")
	}
}
