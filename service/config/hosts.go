// SPDX-License-Identifier: GPL-3.0-or-later

package config

import (
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"
)

// The bounds of hosts.lease. A shorter one ends with each hiccup of the network; a longer one keeps clients waiting for a host that is gone.
const (
	minLease = time.Second
	maxLease = 10 * time.Minute
)

// shared checks how this daemon shows itself to those that share its ledger (LO-713).
func (c *Config) shared(ps *problems) {
	at := func(field string) position { return c.where.of("hosts." + field) }
	if c.where.set("hosts") && !c.Ledger.Postgres.On() {
		ps.add(c.where.of("hosts"), "hosts is set, and ledger.postgres is not", "several hosts share a database: set ledger.postgres too, or leave hosts out")
		return
	}
	if c.Hosts.Lease != 0 && (c.Hosts.Lease < minLease || c.Hosts.Lease > maxLease) {
		ps.add(at("lease"), fmt.Sprintf("hosts.lease is %s", c.Hosts.Lease), fmt.Sprintf("write a time from %s to %s", minLease, maxLease))
	}
	if c.Hosts.CA != "" {
		c.expand(ps, &c.Hosts.CA, at("ca"), "hosts.ca")
	}
	if c.Hosts.Address == "" {
		return
	}
	u, err := url.Parse(c.Hosts.Address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		ps.add(at("address"), fmt.Sprintf("hosts.address is %.*q, which is no address of a server", maxQuote, c.Hosts.Address), "write https://HOST:PORT, by which the other hosts reach this one")
		return
	}
	c.Hosts.Address = u.Scheme + "://" + u.Host
	if ip := net.ParseIP(u.Hostname()); u.Scheme == "http" && u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
		ps.add(at("address"), "hosts.address has no TLS, and the API token would cross the network as it is", "set tls.cert and tls.key, and write https://HOST:PORT; only hosts on one machine may use http")
	}
}
