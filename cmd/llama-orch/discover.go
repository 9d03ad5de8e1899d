// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/brutella/dnssd"
	"github.com/brutella/dnssd/log"

	"github.com/llama-orch/llama-orch/contracts/discovery"
)

type discoverCmd struct {
	Within time.Duration `default:"3s" help:"How long to listen for answers (default: 3s)."`
}

// longestSearch bounds --within.
const longestSearch = time.Minute

// found is a server that announces itself.
type found struct {
	Name string `json:"name"`
	URL  string `json:"url"`
}

// Run asks the local network for servers, and lists them. Nothing is sent to them.
func (c *discoverCmd) Run(a *app) error {
	if c.Within <= 0 || c.Within > longestSearch {
		return usagef("--within is a time above 0 and up to %s", longestSearch)
	}
	log.Info.Disable()
	all := []found{}
	var failed error
	for range 2 { // a packet may be lost
		ctx, stop := context.WithTimeout(a.ctx, c.Within/2)
		err := dnssd.LookupType(ctx, discovery.Type+".local.", func(e dnssd.BrowseEntry) {
			if f, ok := announced(e); ok && !slices.Contains(all, f) {
				all = append(all, f)
			}
		}, func(dnssd.BrowseEntry) {})
		if ctx.Err() == nil {
			failed = err
		}
		stop()
	}
	switch {
	case a.ctx.Err() != nil:
		return context.Cause(a.ctx)
	case failed != nil:
		return failed
	}
	slices.SortFunc(all, func(a, b found) int { return strings.Compare(a.Name+"\x00"+a.URL, b.Name+"\x00"+b.URL) })
	if a.json {
		return a.printJSON(map[string]any{"servers": all})
	}
	if len(all) == 0 {
		a.note("no server answered. One is found if its configuration has `announce: {mdns: true}`, it is on the same network, and no firewall drops UDP port 5353")
		return nil
	}
	rows := [][]string{{"NAME", "URL"}}
	for _, f := range all {
		rows = append(rows, []string{oneLine(f.Name), f.URL})
	}
	return a.table(rows)
}

// announced is what an announcement says, where it is well-formed: whoever is on the network can have made it.
func announced(e dnssd.BrowseEntry) (found, bool) {
	if e.Port < 1 || e.Port > 65535 || e.Name == "" || len(e.Name) > 255 {
		return found{}, false
	}
	var addrs []netip.Addr
	for _, ip := range e.IPs {
		addr, ok := netip.AddrFromSlice(ip)
		if addr = addr.Unmap(); ok && !addr.IsUnspecified() && !addr.IsMulticast() && !addr.IsLinkLocalUnicast() {
			addrs = append(addrs, addr)
		}
	}
	if len(addrs) == 0 {
		return found{}, false
	}
	addr := slices.MinFunc(addrs, func(a, b netip.Addr) int { // IPv4 before IPv6
		if d := a.BitLen() - b.BitLen(); d != 0 {
			return d
		}
		return a.Compare(b)
	})
	scheme := "http"
	if e.Text[discovery.TLS] == "1" {
		scheme = "https"
	}
	return found{e.Name, scheme + "://" + net.JoinHostPort(addr.String(), strconv.Itoa(e.Port))}, true
}
