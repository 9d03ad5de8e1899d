// SPDX-License-Identifier: GPL-3.0-or-later

package policy

import "net/netip"

// class says what kind of network an address belongs to.
type class string

const (
	public    class = "public"
	loopback  class = "loopback"
	private   class = "private"    // a local network: RFC 1918, RFC 4193, RFC 6598
	linkLocal class = "link-local" // where clouds keep their metadata
	metadata  class = "metadata"   // a cloud's metadata service that has an address of its own
	special   class = "special"    // not for hosts of the internet: unspecified, multicast, documentation, reserved
)

var metadataAddrs = map[netip.Addr]bool{
	netip.MustParseAddr("169.254.169.254"): true,
	netip.MustParseAddr("169.254.170.2"):   true,
	netip.MustParseAddr("100.100.100.200"): true,
	netip.MustParseAddr("192.0.0.192"):     true,
	netip.MustParseAddr("168.63.129.16"):   true,
	netip.MustParseAddr("fd00:ec2::254"):   true,
	netip.MustParseAddr("fd20:ce::254"):    true,
}

// ranges lists the special-purpose addresses of the IANA registries that netip does not recognise.
var ranges = []struct {
	netip.Prefix
	class class
}{
	{netip.MustParsePrefix("100.64.0.0/10"), private},
	{netip.MustParsePrefix("fec0::/10"), private},
	{netip.MustParsePrefix("0.0.0.0/8"), special},
	{netip.MustParsePrefix("192.0.0.0/24"), special},
	{netip.MustParsePrefix("192.0.2.0/24"), special},
	{netip.MustParsePrefix("192.88.99.0/24"), special},
	{netip.MustParsePrefix("198.18.0.0/15"), special},
	{netip.MustParsePrefix("198.51.100.0/24"), special},
	{netip.MustParsePrefix("203.0.113.0/24"), special},
	{netip.MustParsePrefix("240.0.0.0/4"), special},
	{netip.MustParsePrefix("::/96"), special},
	{netip.MustParsePrefix("64:ff9b:1::/48"), special},
	{netip.MustParsePrefix("100::/64"), special},
	{netip.MustParsePrefix("2001::/23"), special}, // Teredo and others that carry another address
	{netip.MustParsePrefix("2001:db8::/32"), special},
	{netip.MustParsePrefix("3fff::/20"), special},
	{netip.MustParsePrefix("5f00::/16"), special},
}

var (
	nat64    = netip.MustParsePrefix("64:ff9b::/96")
	sixToFor = netip.MustParsePrefix("2002::/16")
)

func classify(a netip.Addr) class {
	a = a.WithZone("").Unmap()
	if a.Is6() { // an IPv6 address that carries an IPv4 address leads where that one leads
		b := a.As16()
		if nat64.Contains(a) {
			return classify(netip.AddrFrom4([4]byte(b[12:16])))
		}
		if sixToFor.Contains(a) {
			return classify(netip.AddrFrom4([4]byte(b[2:6])))
		}
	}
	switch {
	case metadataAddrs[a]:
		return metadata
	case a.IsLoopback():
		return loopback
	case a.IsLinkLocalUnicast():
		return linkLocal
	case a.IsPrivate():
		return private
	case !a.IsValid(), a.IsUnspecified(), a.IsMulticast():
		return special
	}
	for _, r := range ranges {
		if r.Contains(a) {
			return r.class
		}
	}
	return public
}
