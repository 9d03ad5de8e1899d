// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"net"
	"strings"
	"testing"

	"github.com/brutella/dnssd"
	"github.com/stretchr/testify/require"
)

// LO-642: whoever is on the network can announce anything, and only what is well-formed is shown.
func TestWhatIsAnnouncedIsHeldToItsForm(t *testing.T) {
	ips := func(all ...string) (to []net.IP) {
		for _, one := range all {
			to = append(to, net.ParseIP(one))
		}
		return to
	}
	for _, c := range []struct {
		e    dnssd.BrowseEntry
		want string
	}{
		{dnssd.BrowseEntry{Name: "box", Port: 8080, IPs: ips("2001:db8::1", "192.0.2.7", "192.0.2.5")}, "http://192.0.2.5:8080"},
		{dnssd.BrowseEntry{Name: "box", Port: 8443, IPs: ips("2001:db8::1", "fe80::1"), Text: map[string]string{"tls": "1"}}, "https://[2001:db8::1]:8443"},
		{dnssd.BrowseEntry{Name: "box", Port: 8080, IPs: ips("fe80::1")}, ""},
		{dnssd.BrowseEntry{Name: "box", Port: 8080, IPs: ips("0.0.0.0", "224.0.0.251")}, ""},
		{dnssd.BrowseEntry{Name: "box", Port: 8080, IPs: []net.IP{{1, 2}}}, ""},
		{dnssd.BrowseEntry{Name: "box", Port: 0, IPs: ips("192.0.2.5")}, ""},
		{dnssd.BrowseEntry{Name: "box", Port: 65536, IPs: ips("192.0.2.5")}, ""},
		{dnssd.BrowseEntry{Port: 8080, IPs: ips("192.0.2.5")}, ""},
		{dnssd.BrowseEntry{Name: strings.Repeat("x", 256), Port: 8080, IPs: ips("192.0.2.5")}, ""},
	} {
		got, ok := announced(c.e)
		require.Equal(t, c.want != "", ok, "%+v", c.e)
		require.Equal(t, c.want, got.URL)
	}
}

// LO-642
func TestASearchIsBounded(t *testing.T) {
	for _, within := range []string{"0s", "-1s", "2m"} {
		code, _, errs := offline(t, "", "discover", "--within="+within)
		require.Equal(t, exitUsage, code, within)
		require.Contains(t, errs, "--within is a time")
	}
}
