// SPDX-License-Identifier: GPL-3.0-or-later

package policy

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"pgregory.net/rapid"

	"github.com/llama-orch/llama-orch/service/task"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bench is a policy with its log and its counters.
type bench struct {
	*Policy
	lines    *observer.ObservedLogs
	registry *prometheus.Registry
}

func setup(t testing.TB, o Options) bench {
	t.Helper()
	core, lines := observer.New(zapcore.DebugLevel)
	b := bench{lines: lines, registry: prometheus.NewRegistry()}
	o.Log, o.Registerer = zap.New(core), b.registry
	var err error
	b.Policy, err = New(o)
	require.NoError(t, err)
	return b
}

func target(t testing.TB, text string) Target {
	t.Helper()
	got, err := ParseTarget(text)
	require.NoError(t, err, text)
	return got
}

// ORCH-3080
func TestDecisions(t *testing.T) {
	for _, c := range []struct {
		name   string
		rules  Rules
		action Action
		target string
		rule   string
		denied bool
	}{
		{"no list lets out", Rules{}, Download, "https://hub.example/x?token=1", "no list", false},
		{"off lets nothing out", Rules{Off: true, Allow: []string{"*"}}, Download, "https://hub.example", "outbound off", true},
		{"off leaves engines on loopback", Rules{Off: true}, Adapter, "http://127.0.0.1:8080", "engines on loopback", false},
		{"off holds in a dry run", Rules{Off: true, DryRun: true}, Tool, "https://hub.example", "outbound off", true},
		{"the allow list", Rules{Allow: []string{"https://hub.example"}}, Download, "https://hub.example", "allow https://hub.example", false},
		{"another scheme", Rules{Allow: []string{"https://hub.example"}}, Download, "http://hub.example", "not in the allow list", true},
		{"another host", Rules{Allow: []string{"hub.example"}}, Download, "https://hub.example.evil", "not in the allow list", true},
		{"a suffix is no subdomain", Rules{Allow: []string{"*.hub.example"}}, Download, "https://evilhub.example", "not in the allow list", true},
		{"the base is no subdomain", Rules{Allow: []string{"*.hub.example"}}, Download, "https://hub.example", "not in the allow list", true},
		{"a subdomain of any depth", Rules{Allow: []string{"*.hub.example"}}, Download, "https://a.b.HUB.example.", "allow *.hub.example", false},
		{"a star within a label", Rules{Allow: []string{"cdn-*.hub.example"}}, Download, "https://cdn-eu.hub.example", "allow cdn-*.hub.example", false},
		{"a star ends with its label", Rules{Allow: []string{"cdn-*.example"}}, Download, "https://cdn-x.evil.example", "not in the allow list", true},
		{"stars at any depth", Rules{Allow: []string{"*.cdn-*.example"}}, Download, "https://a.b.cdn-1.example", "allow *.cdn-*.example", false},
		{"the port", Rules{Allow: []string{"hub.example:8443"}}, Download, "https://hub.example", "not in the allow list", true},
		{"the scheme's own port", Rules{Allow: []string{"hub.example:443"}}, Download, "https://hub.example", "allow hub.example:443", false},
		{"deny wins", Rules{Allow: []string{"*"}, Deny: []string{"*.evil"}}, Download, "https://a.evil", "deny *.evil", true},
		{"deny of loopback wins over engines", Rules{Deny: []string{"127.0.0.0/8"}}, Adapter, "http://127.0.0.1:1", "deny 127.0.0.0/8", true},
		{"dry run", Rules{DryRun: true, Deny: []string{"*"}}, Download, "https://hub.example", "deny *", false},
		{"dry run keeps the guard", Rules{DryRun: true}, Download, "http://169.254.169.254/latest", "metadata address", true},
		{"credentials are no host", Rules{Deny: []string{"evil.example"}}, Tool, "https://hub.example:pw@evil.example/", "deny evil.example", true},
		{"loopback is no source", Rules{}, Download, "http://127.0.0.1:80", "loopback address", true},
		{"nor is localhost", Rules{Allow: []string{"*"}}, Tool, "http://localhost:80", "loopback address", true},
		{"localhost by name", Rules{Allow: []string{"localhost"}}, Download, "http://localhost", "allow localhost", false},
		{"loopback by range", Rules{Allow: []string{"127.0.0.0/8"}}, Download, "http://127.9.9.9", "allow 127.0.0.0/8", false},
		{"a private address", Rules{Allow: []string{"*"}}, Download, "https://10.1.2.3", "private address", true},
		{"a private address, named", Rules{Allow: []string{"*", "10.0.0.0/8"}}, Download, "https://10.1.2.3", "allow *", false},
		{"an engine in the house", Rules{}, Adapter, "http://192.168.1.5:8080", "no list", false},
		{"no metadata for engines", Rules{}, Adapter, "http://169.254.169.254", "metadata address", true},
		{"IPv4 in IPv6", Rules{}, Download, "https://[::ffff:10.0.0.1]", "private address", true},
		{"IPv4 in NAT64", Rules{}, Download, "https://[64:ff9b::a9fe:a9fe]", "metadata address", true},
		{"IPv6 with a zone", Rules{}, Download, "https://[fe80::1%25eth0]", "link-local address", true},
		{"an action of nobody", Rules{}, Action("else"), "https://hub.example", "unknown action", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := setup(t, Options{Rules: c.rules})
			at, err := ParseTarget(c.target)
			require.NoError(t, err)
			err = b.Decide(WithActor(t.Context(), "token:abcdef"), c.action, at)
			require.Equal(t, c.denied, err != nil, "%v", err)
			require.Equal(t, 1, b.lines.Len())
			line := b.lines.All()[0].ContextMap()
			require.Equal(t, c.rule, line["rule"])
			require.Equal(t, "token:abcdef", line["actor"])
			require.Equal(t, string(c.action), line["action"])
			require.NotContains(t, line["target"], "pw")
			require.NotContains(t, line["target"], "?")
			if c.denied {
				require.True(t, task.HasCode(err, task.PolicyDenied))
				require.Contains(t, err.Error(), c.rule)
				require.False(t, task.AsError(err).Retriable)
			}
			if c.action == "else" {
				return
			}
			n := 0
			for _, d := range decisions() {
				n += int(testutil.ToFloat64(b.counters[c.action][d]))
			}
			require.Equal(t, 1, n)
			require.InDelta(t, 1, testutil.ToFloat64(b.counters[c.action][decision(line["decision"].(string))]), 0)
		})
	}
}

// ORCH-3080
func TestRulesAreReplacedOrRefusedWhole(t *testing.T) {
	b := setup(t, Options{})
	at := target(t, "https://hub.example")
	require.NoError(t, b.Replace(Rules{Off: true}))
	require.Error(t, b.Decide(t.Context(), Download, at))
	for _, bad := range []string{"", "a b", "https://", "x:99999", "x:0", "[::1", "x/y", "u@h", "ex[a]mple", "ü.example", "a..b", "::ffff:10.0.0.0/104", strings.Repeat("a", 300)} {
		require.Error(t, b.Replace(Rules{Allow: []string{bad}}), bad)
	}
	require.Error(t, b.Decide(t.Context(), Download, at), "the old rules hold")
	_, err := New(Options{Log: zap.NewNop()})
	require.Error(t, err)
}

// ORCH-3080
func TestAddressClasses(t *testing.T) {
	for addr, want := range map[string]class{
		"1.1.1.1": public, "2606:4700::1111": public, "127.255.255.255": loopback, "::1": loopback, "::ffff:127.0.0.1": loopback,
		"10.0.0.1": private, "172.31.0.1": private, "172.32.0.1": public, "192.168.0.1": private, "100.64.0.1": private, "fd12::1": private,
		"fec0::1": private, "169.254.1.1": linkLocal, "fe80::1": linkLocal, "169.254.169.254": metadata, "100.100.100.200": metadata,
		"fd00:ec2::254": metadata, "0.0.0.0": special, "0.1.2.3": special, "::": special, "224.0.0.1": special, "ff02::1": special,
		"255.255.255.255": special, "198.18.0.1": special, "2001:db8::1": special, "2002:7f00:1::": loopback, "64:ff9b::1.1.1.1": public,
		"::7f00:1": special, "2001:0:1::1": special,
	} {
		require.Equal(t, want, classify(netip.MustParseAddr(addr)), addr)
	}
}

// Deny wins: whatever the other rules say, a call to a target that a deny rule covers is refused.
//
// ORCH-3080
func TestWhatIsDeniedIsNeverLetOut(t *testing.T) {
	label := rapid.StringMatching(`[a-z0-9]([a-z0-9-]{0,5}[a-z0-9])?`)
	rapid.Check(t, func(r *rapid.T) {
		host := label.Draw(r, "host") + "." + label.Draw(r, "base") + ".example"
		base := host[strings.IndexByte(host, '.')+1:]
		set, err := compile(Rules{
			Allow: rapid.SliceOf(rapid.SampledFrom([]string{"*", host, "*." + base, "https://*", host + ":443"})).Draw(r, "allow"),
			Deny:  rapid.SliceOfN(rapid.SampledFrom([]string{"*", host, "*." + base, "https://" + host, "h*://*." + base, host + ":443", "*.*.example"}), 1, 3).Draw(r, "deny"),
		})
		require.NoError(r, err)
		at, err := ParseTarget("https://" + host)
		require.NoError(r, err)
		for _, a := range Actions() {
			require.Equal(r, denied, set.request(a, at, true).decision)
		}
	})
}

func FuzzTarget(f *testing.F) {
	for _, seed := range []string{
		"https://user:pw@hub.example:8443/p?q#f", "http://[::1]:80", "http://[fe80::1%25a]", "s3://bucket", "https://a\\@b", "http://1.2.3.4:", "x://[]", "a://b@c@d", "http://0x7f.1",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := ParseTarget(text)
		if err != nil {
			require.Less(t, len(err.Error()), 200)
			return
		}
		written := got.String()
		require.False(t, strings.ContainsAny(written[strings.Index(written, "://")+3:], "@/?#\\ %\n"), written)
		again, err := ParseTarget(written)
		require.NoError(t, err, written)
		require.Equal(t, got, again)
		only, err := compile(Rules{Deny: []string{written}, Allow: []string{"*"}})
		require.NoError(t, err, written)
		require.Equal(t, denied, only.request(Tool, got, true).decision, "the target as a rule covers itself: %s", written)
	})
}

func FuzzRule(f *testing.F) {
	for _, seed := range []string{"*", "https://*.hub.example:443", "10.0.0.0/8", "[::1]:80", "::1/128", "a*b.*c:*", "h*://x"} {
		f.Add(seed, "https://a.b.example")
	}
	f.Fuzz(func(t *testing.T, text, at string) {
		r, err := parseRule(text)
		if err != nil {
			require.Less(t, len(err.Error()), 500)
			return
		}
		again, err := parseRule(r.text)
		require.NoError(t, err)
		require.Equal(t, r, again)
		if got, err := ParseTarget(at); err == nil {
			_ = r.covers(got, got.addr)
		}
	})
}

// All checks together may add 20 µs to an admission. A decision among 200 rules, with its audit line, is a part of that.
func BenchmarkDecide(b *testing.B) {
	encoder := zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig())
	var rules Rules
	for i := range 100 {
		name := strings.Repeat("a", i%20+1) + ".example"
		rules.Deny = append(rules.Deny, "*."+name)
		rules.Allow = append(rules.Allow, "https://cdn-*."+name)
	}
	rules.Allow = append(rules.Allow, "https://hub.test")
	p, err := New(Options{Rules: rules, Log: zap.New(zapcore.NewCore(encoder, zapcore.AddSync(discard{}), zapcore.InfoLevel)), Registerer: prometheus.NewRegistry()})
	require.NoError(b, err)
	at := target(b, "https://hub.test")
	ctx := WithActor(context.Background(), "token:abcdef")
	b.ReportAllocs()
	for b.Loop() {
		if p.Decide(ctx, Download, at) != nil {
			b.Fatal("denied")
		}
	}
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
