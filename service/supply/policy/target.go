// SPDX-License-Identifier: GPL-3.0-or-later

package policy

import (
	"errors"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// Target says where a call goes. It never holds credentials, a path or a query.
type Target struct {
	scheme, host, port string     // in lower case; host has no brackets and no final dot; port is empty only for a scheme without ports
	addr               netip.Addr // valid if the host is an address
}

// The reasons why a text is no target. They repeat none of the text, since it may hold credentials.
var (
	errTargetShape  = errors.New("no target: write SCHEME://HOST or SCHEME://HOST:PORT")
	errTargetScheme = errors.New("no scheme of a target: it begins with a letter and has letters, digits and +.- alone")
	errTargetHost   = errors.New("no host: write a name of letters, digits, dots, dashes and underscores (others as punycode), or an address")
	errTargetPort   = errors.New("no port: it is a number from 1 to 65535")
)

const maxHost = 253 // RFC 1035, without the final dot

var defaultPorts = map[string]string{"http": "80", "ws": "80", "https": "443", "wss": "443"}

// ParseTarget reads SCHEME://[credentials@]HOST[:PORT][/…] and keeps scheme, host and port.
func ParseTarget(text string) (Target, error) {
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok {
		return Target{}, errTargetShape
	}
	if i := strings.IndexAny(rest, "/?#\\"); i >= 0 {
		if rest[i] == '\\' { // some clients read a backslash as a slash, others as part of the host
			return Target{}, errTargetHost
		}
		rest = rest[:i]
	}
	rest = rest[strings.LastIndexByte(rest, '@')+1:]
	host, port := rest, ""
	if strings.HasPrefix(rest, "[") || strings.Count(rest, ":") == 1 {
		var err error
		if host, port, err = splitPort(rest); err != nil {
			return Target{}, err
		}
	}
	return newTarget(scheme, host, port)
}

func splitPort(rest string) (host, port string, err error) {
	if strings.HasSuffix(rest, "]") {
		return rest[1 : len(rest)-1], "", nil
	}
	host, port, err = net.SplitHostPort(rest)
	if err != nil {
		return "", "", errTargetHost
	}
	return host, port, nil
}

// TargetOf is the target of a URL.
func TargetOf(u *url.URL) (Target, error) { return newTarget(u.Scheme, u.Hostname(), u.Port()) }

func newTarget(scheme, host, port string) (Target, error) {
	t := Target{scheme: strings.ToLower(scheme), host: strings.TrimSuffix(strings.ToLower(host), "."), port: port}
	if !validScheme(t.scheme) {
		return Target{}, errTargetScheme
	}
	if addr, err := netip.ParseAddr(t.host); err == nil {
		t.addr = addr.WithZone("").Unmap()
		t.host = t.addr.String()
	} else if !validHost(t.host, "") {
		return Target{}, errTargetHost
	}
	if t.port == "" {
		t.port = defaultPorts[t.scheme]
		return t, nil
	}
	if !validPort(t.port) {
		return Target{}, errTargetPort
	}
	return t, nil
}

func validScheme(s string) bool { return word(s, "+.-", 32) && 'a' <= s[0] && s[0] <= 'z' }

// validHost accepts a name of labels between dots. The labels may also hold the bytes in also.
func validHost(host, also string) bool {
	if host == "" || len(host) > maxHost {
		return false
	}
	for label := range strings.SplitSeq(host, ".") {
		if !word(label, "-_"+also, 63) {
			return false
		}
	}
	return true
}

func validPort(port string) bool {
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0 && strconv.FormatUint(n, 10) == port
}

func word(s, also string, most int) bool {
	for _, b := range []byte(s) {
		if ('a' > b || b > 'z') && ('0' > b || b > '9') && strings.IndexByte(also, b) < 0 {
			return false
		}
	}
	return s != "" && len(s) <= most
}

// String returns the target as audit lines and errors show it: without the port if it is the scheme's default.
func (t Target) String() string {
	host := t.host
	if t.addr.Is6() {
		host = "[" + host + "]"
	}
	if t.port != "" && t.port != defaultPorts[t.scheme] {
		host += ":" + t.port
	}
	return t.scheme + "://" + host
}

// local reports whether the target names this machine, in a spelling that cannot mean anything else.
func (t Target) local() bool {
	return t.host == "localhost" || strings.HasSuffix(t.host, ".localhost") || (t.addr.IsValid() && classify(t.addr) == loopback)
}
