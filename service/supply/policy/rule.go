// SPDX-License-Identifier: GPL-3.0-or-later

package policy

import (
	"fmt"
	"net/netip"
	"path"
	"strings"

	"github.com/llama-orch/llama-orch/service/task"
)

// rule is one line of the allow list or the deny list. A part that is left out matches anything.
type rule struct {
	text   string
	scheme string // may hold *
	host   string // may hold *; empty if prefix is set
	prefix netip.Prefix
	port   string
}

const (
	maxRules = 1000
	maxQuote = 64 // bytes of what the configuration says that a message repeats
)

// parseRule reads `[scheme://]host[:port]`. The host is a name, `*` for any name, or `*.NAME` for every name below NAME; any other * stands
// for letters within one label. Or the host is an address or a range such as 10.0.0.0/8; IPv6 needs brackets if a port follows.
func parseRule(text string) (rule, error) {
	r := rule{text: strings.ToLower(strings.TrimSpace(text))}
	bad := func(what string) (rule, error) {
		return rule{}, fmt.Errorf("the policy rule %q %s: write [SCHEME://]HOST[:PORT], where HOST is a name, *.NAME, *, an address, or a range such as 10.0.0.0/8", task.Clip(text, maxQuote), what)
	}
	rest := r.text
	if scheme, after, ok := strings.Cut(rest, "://"); ok {
		if !word(scheme, "+.-*", 32) {
			return bad("has no valid scheme")
		}
		r.scheme, rest = scheme, after
	}
	if prefix, ok := parsePrefix(rest); ok {
		r.prefix = prefix
		return r, nil
	}
	if i := strings.LastIndexByte(rest, ':'); i >= 0 && !strings.HasSuffix(rest, "]") {
		if r.port = rest[i+1:]; r.port != "*" && !validPort(r.port) {
			return bad("has no valid port")
		}
		rest = rest[:i]
	}
	if prefix, ok := parsePrefix(strings.TrimSuffix(strings.TrimPrefix(rest, "["), "]")); ok {
		r.prefix = prefix
		return r, nil
	}
	rest = strings.TrimSuffix(rest, ".")
	if !validHost(rest, "*") {
		return bad("has no valid host")
	}
	r.host = rest
	return r, nil
}

func parsePrefix(text string) (netip.Prefix, bool) {
	if addr, err := netip.ParseAddr(text); err == nil && addr.Zone() == "" {
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), true
	}
	prefix, err := netip.ParsePrefix(text)
	return prefix.Masked(), err == nil && !prefix.Addr().Is4In6()
}

// covers reports whether the rule matches the target. If addr is valid, the question is about the address that the target's name leads to, and only
// a rule with addresses can match.
func (r *rule) covers(t Target, addr netip.Addr) bool {
	if r.port != "" && r.port != "*" && r.port != t.port {
		return false
	}
	if r.scheme != "" && r.scheme != t.scheme && !glob(r.scheme, t.scheme) {
		return false
	}
	if r.prefix.IsValid() {
		return addr.IsValid() && r.prefix.Contains(addr)
	}
	return matchHost(r.host, t.host, t.addr.IsValid())
}

func matchHost(pattern, host string, isAddr bool) bool {
	if pattern == "*" || pattern == host {
		return true
	}
	if isAddr || !strings.Contains(pattern, "*") {
		return false
	}
	if base, ok := strings.CutPrefix(pattern, "*."); ok && !strings.Contains(base, "*") {
		return len(host) > len(base)+1 && strings.HasSuffix(host, pattern[1:])
	}
	labels, patterns := strings.Count(host, "."), strings.Count(pattern, ".")
	if tail, ok := strings.CutPrefix(pattern, "*."); ok && labels > patterns { // *.a-*.example matches below any number of labels
		for range labels - patterns + 1 {
			_, host, _ = strings.Cut(host, ".")
		}
		pattern = tail
	} else if labels != patterns {
		return false
	}
	for pattern != "" {
		var p, h string
		p, pattern, _ = strings.Cut(pattern, ".")
		h, host, _ = strings.Cut(host, ".")
		if !glob(p, h) {
			return false
		}
	}
	return true
}

// glob matches a * against any run of bytes. Neither side can hold other characters that are special to path.Match.
func glob(pattern, s string) bool {
	ok, err := path.Match(pattern, s)
	return ok && err == nil
}

// ruleSet has a policy's rules in a form that is ready to be asked.
type ruleSet struct {
	off, dry    bool
	allow, deny []rule
}

func compile(r Rules) (*ruleSet, error) {
	set := &ruleSet{off: r.Off, dry: r.DryRun}
	for _, list := range []struct {
		from []string
		to   *[]rule
	}{{r.Allow, &set.allow}, {r.Deny, &set.deny}} {
		if len(list.from) > maxRules {
			return nil, fmt.Errorf("a list of the policy has %d rules, and %d are the most: join some by *", len(list.from), maxRules)
		}
		for _, text := range list.from {
			parsed, err := parseRule(text)
			if err != nil {
				return nil, err
			}
			*list.to = append(*list.to, parsed)
		}
	}
	return set, nil
}

// request decides before a call, by the target's scheme, host and port.
func (s *ruleSet) request(a Action, t Target, loopbackToo bool) verdict {
	if s.off && !t.local() {
		return s.outboundOff(t)
	}
	v := s.listed(a, t, t.addr)
	if v.decision == denied || !t.addr.IsValid() && !t.local() {
		return v
	}
	if refusal, ok := s.guard(a, t, t.addr, loopbackToo); !ok {
		return refusal
	}
	return v
}

// listed asks the two lists.
func (s *ruleSet) listed(a Action, t Target, addr netip.Addr) verdict {
	if r := first(s.deny, t, addr); r != nil {
		return verdict{s.refusal(), "deny " + r.text, denyTodo}
	}
	if a == Adapter && t.local() {
		return verdict{decision: allowed, rule: "engines on loopback"} // the built-in workers always need this
	}
	if r := first(s.allow, t, addr); r != nil {
		return verdict{decision: allowed, rule: "allow " + r.text}
	}
	if len(s.allow) > 0 {
		return verdict{s.refusal(), "not in the allow list", fmt.Sprintf("Add %s to policy.allow if the call is wanted, or use another source.", t)}
	}
	return verdict{decision: allowed, rule: "no list"}
}

// guard reports whether an address may be dialled. It refuses addresses that do not belong to the internet, unless a rule with addresses, or the
// action, allows them. For the name localhost, addr is not valid.
func (s *ruleSet) guard(a Action, t Target, addr netip.Addr, loopbackToo bool) (verdict, bool) {
	is := loopback
	if addr.IsValid() {
		addr = addr.WithZone("").Unmap()
		is = classify(addr)
	}
	switch {
	case is == public:
		return verdict{}, true
	case is == loopback && (loopbackToo || a == Adapter && t.local()):
		return verdict{}, true
	case is == private && a == Adapter: // the operator has configured this address
		return verdict{}, true
	}
	for i := range s.allow {
		r := &s.allow[i]
		named := r.prefix.IsValid() || r.host == "localhost" && t.host == "localhost" && is == loopback
		if named && r.covers(t, addr) {
			return verdict{}, true
		}
	}
	where := "localhost"
	if addr.IsValid() {
		where = addr.String()
	}
	return verdict{
		denied, string(is) + " address",
		fmt.Sprintf("It leads to %s, which is no public address: add %s to policy.allow if that is meant (and * too, where the list was empty).", where, where),
	}, false
}

// dial decides again when a connection to one of the target's addresses is made.
func (s *ruleSet) dial(a Action, t Target, addr netip.Addr, loopbackToo bool) verdict {
	addr = addr.WithZone("").Unmap()
	is := classify(addr)
	if is != loopback && (s.off || t.local()) {
		return s.outboundOff(t)
	}
	if !t.addr.IsValid() { // if the target is an address itself, request has asked the lists about it already
		if r := first(s.deny, t, addr); r != nil && r.prefix.IsValid() {
			return verdict{s.refusal(), "deny " + r.text, denyTodo}
		}
	}
	if refusal, ok := s.guard(a, t, addr, loopbackToo); !ok {
		return refusal
	}
	return verdict{decision: allowed}
}

const denyTodo = "Take that rule out of policy.deny if the call is wanted, or use another source."

// refusal is the verdict on a call that the two lists do not allow: denied, or a report in a dry run.
func (s *ruleSet) refusal() decision {
	if s.dry {
		return wouldDeny
	}
	return denied
}

func (s *ruleSet) outboundOff(t Target) verdict {
	if t.local() {
		return verdict{denied, "localhost is loopback", "The name leads to another machine here: correct /etc/hosts, or write the address."}
	}
	return verdict{denied, "outbound off", "Nothing may leave this machine: set policy.outbound to on, or use what is already here (file:)."}
}

func first(rules []rule, t Target, addr netip.Addr) *rule {
	for i := range rules {
		if rules[i].covers(t, addr) {
			return &rules[i]
		}
	}
	return nil
}
