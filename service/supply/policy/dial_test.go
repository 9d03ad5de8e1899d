// SPDX-License-Identifier: GPL-3.0-or-later

package policy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

// names is a resolver with the test's names.
type names map[string][]string

func (n names) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	var found []netip.Addr
	for _, text := range n[host] {
		found = append(found, netip.MustParseAddr(text))
	}
	if found == nil {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return found, nil
}

// lab is a policy whose public addresses all lead to one local server, and which writes down what is dialled.
type lab struct {
	bench
	client  *http.Client
	dialled []string
	server  *httptest.Server
}

func newLab(t *testing.T, o Options, serve http.HandlerFunc) *lab {
	t.Helper()
	l := &lab{server: httptest.NewServer(serve)}
	t.Cleanup(l.server.Close)
	o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		l.dialled = append(l.dialled, address)
		return (&net.Dialer{}).DialContext(ctx, network, l.server.Listener.Addr().String())
	}
	l.bench = setup(t, o)
	l.client = l.Client(Download)
	t.Cleanup(l.client.CloseIdleConnections)
	return l
}

func (l *lab) get(t *testing.T, url string) (string, error) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	require.NoError(t, err)
	response, err := l.client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return string(body), nil
}

func answer(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "here") }

// ORCH-3080
func TestWhatANameLeadsToIsCheckedWhenDialling(t *testing.T) {
	known := names{
		"good.example": {"1.1.1.1"}, "inside.example": {"10.0.0.7"}, "cloud.example": {"169.254.169.254"}, "self.example": {"127.0.0.1"},
		"mixed.example": {"192.168.0.9", "1.1.1.2"}, "mapped.example": {"::ffff:127.0.0.1"}, "localhost": {"10.0.0.8"},
	}
	for _, c := range []struct {
		url, rule, dialled string
		rules              Rules
	}{
		{"http://good.example/", "", "1.1.1.1:80", Rules{}},
		{"http://inside.example/", "private address", "", Rules{}},
		{"http://inside.example/", "private address", "", Rules{Allow: []string{"*", "inside.example"}}},
		{"http://inside.example/", "", "10.0.0.7:80", Rules{Allow: []string{"inside.example", "10.0.0.7"}}},
		{"http://cloud.example/", "metadata address", "", Rules{DryRun: true}},
		{"http://self.example:81/", "loopback address", "", Rules{}},
		{"http://mapped.example/", "loopback address", "", Rules{}},
		{"http://mixed.example/", "", "1.1.1.2:80", Rules{}},
		{"http://good.example/", "deny 1.1.1.0/24", "", Rules{Deny: []string{"1.1.1.0/24"}}},
		{"http://good.example/", "", "1.1.1.1:80", Rules{Deny: []string{"https://1.1.1.0/24"}}},
		{"http://localhost/", "localhost is loopback", "", Rules{Allow: []string{"localhost"}}},
	} {
		t.Run(c.url+c.rule, func(t *testing.T) {
			l := newLab(t, Options{Rules: c.rules, Resolver: known}, answer)
			body, err := l.get(t, c.url)
			own := newLab(t, Options{Rules: c.rules, Resolver: known}, answer)
			to, parseErr := url.Parse(c.url)
			require.NoError(t, parseErr)
			conn, ownErr := own.Dial(Download)(t.Context(), to)
			require.Equal(t, l.dialled, own.dialled, "a connection of one's own is judged alike")
			require.Equal(t, told(l), told(own), "and told alike")
			if c.rule == "" {
				require.NoError(t, err)
				require.Equal(t, "here", body)
				require.Equal(t, []string{c.dialled}, l.dialled)
				require.NoError(t, ownErr)
				require.NoError(t, conn.Close())
				return
			}
			require.True(t, task.HasCode(ownErr, task.PolicyDenied), "%v", ownErr)
			require.True(t, task.HasCode(err, task.PolicyDenied), "%v", err)
			require.Contains(t, task.AsError(err).Message, c.rule)
			require.Empty(t, l.dialled)
			last := l.lines.All()[l.lines.Len()-1].ContextMap()
			require.Equal(t, "dial", last["stage"])
			require.Equal(t, c.rule, last["rule"])
		})
	}
}

// told are the audit lines.
func told(l *lab) (lines []map[string]any) {
	for _, e := range l.lines.All() {
		lines = append(lines, e.ContextMap())
	}
	return lines
}

// ORCH-3080
func TestRedirectsAreDecidedAgain(t *testing.T) {
	known := names{"a.example": {"1.1.1.1"}, "evil.example": {"1.1.1.2"}}
	to, requests := "", 0
	l := newLab(t, Options{Resolver: known, Rules: Rules{Deny: []string{"evil.example"}}}, func(w http.ResponseWriter, r *http.Request) {
		requests++
		http.Redirect(w, r, to, http.StatusFound)
	})
	for to, requests = range map[string]int{
		"http://evil.example/": 0, "http://127.0.0.1:1/": 0, "http://[fd00:ec2::254]/": 0, "http://a.example/again": 0,
	} {
		_, err := l.get(t, "http://a.example/start")
		require.True(t, task.HasCode(err, task.PolicyDenied), "%s: %v", to, err)
		if strings.HasSuffix(to, "again") {
			require.Equal(t, 1+maxRedirects, requests)
		} else {
			require.Equal(t, 1, requests, to)
		}
	}

	r := &http.Request{URL: &url.URL{Scheme: "http", Host: "a.example"}}
	via := []*http.Request{{URL: &url.URL{Scheme: "https", Host: "a.example"}}}
	require.True(t, task.HasCode(l.client.CheckRedirect(r.WithContext(t.Context()), via), task.PolicyDenied), "from https to http")
}

// ORCH-3080
func TestADiallerOfItsOwnIsDecidedToo(t *testing.T) {
	l := newLab(t, Options{Resolver: names{"a.example": {"1.1.1.1"}}, Rules: Rules{Deny: []string{"b.example"}}}, answer)
	dial := l.DialContext(Adapter)
	conn, err := dial(t.Context(), "tcp", "a.example:5000")
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	require.Equal(t, "tcp://a.example:5000", l.lines.All()[0].ContextMap()["target"])
	_, err = dial(t.Context(), "tcp", "b.example:5000")
	require.True(t, task.HasCode(err, task.PolicyDenied))
	_, err = dial(t.Context(), "tcp", "unknown.example:5000")
	var lookup *net.DNSError
	require.ErrorAs(t, err, &lookup)
	_, err = dial(t.Context(), "tcp", "no port")
	require.Error(t, err)
}

// ORCH-3080
func TestAFailureOfTheNetworkIsNoRefusal(t *testing.T) {
	down := errors.New("down")
	b := setup(t, Options{Resolver: names{"a.example": {"10.0.0.1", "1.1.1.1"}}, Dial: func(context.Context, string, string) (net.Conn, error) { return nil, down }})
	_, err := b.DialContext(Download)(t.Context(), "tcp", "a.example:443")
	require.ErrorIs(t, err, down)
	require.False(t, task.HasCode(err, task.PolicyDenied))
}

// LO-803: a panic while net/http dials, in a goroutine of its own, is the end of that call alone.
func TestAPanicOfTheDialEndsOneCall(t *testing.T) {
	l := newLab(t, Options{Loopback: true, Resolver: wrongNames{}}, answer)
	_, err := l.get(t, "http://somewhere.example/")
	require.True(t, task.HasCode(err, task.Internal), "%v", err)
	require.NotContains(t, task.AsError(err).Message, "index", "that is for the log")
	got, err := l.get(t, l.server.URL)
	require.NoError(t, err)
	require.Equal(t, "here", got)
}

type wrongNames struct{}

func (wrongNames) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	panic("index out of range")
}
