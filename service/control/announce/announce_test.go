// SPDX-License-Identifier: GPL-3.0-or-later

package announce

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// announcer is a program that writes its process id, its arguments and its environment into a pipe, and does then.
func announcer(t *testing.T, then string) (exe string, started *bufio.Scanner) {
	t.Helper()
	dir := t.TempDir()
	pipe := filepath.Join(dir, "started")
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))
	exe = filepath.Join(dir, "announcer")
	require.NoError(t, os.WriteFile(exe, fmt.Appendf(nil, "#!/bin/sh\necho \"$$ $* [${LLORCH_API_TOKEN-no token}]\" >%s\n%s\n", pipe, then), 0o700))
	f, err := os.OpenFile(pipe, os.O_RDWR, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = f.Close() })
	return exe, bufio.NewScanner(f)
}

// LO-642: the process knows no secret, is started again when it dies, and ends with the service.
func TestTheProcessIsKeptGoing(t *testing.T) {
	t.Setenv("LLORCH_API_TOKEN", "sesame")
	exe, started := announcer(t, "read line; exit 0") // until its standard input ends
	logs, lines := observer.New(zap.InfoLevel)
	s := New(Options{Exe: exe, Name: "the box", Addr: func() string { return "192.0.2.1:8080" }, Log: zap.New(logs), FirstWait: time.Millisecond})
	require.NoError(t, s.Start(t.Context()))
	pid := 0
	for range 2 {
		require.True(t, started.Scan())
		words := started.Text()
		require.Contains(t, words, "announce --name the box --addr 192.0.2.1:8080 --tls=false [no token]")
		next, err := strconv.Atoi(words[:strings.Index(words, " ")])
		require.NoError(t, err)
		require.NotEqual(t, pid, next)
		if pid == 0 {
			require.NoError(t, syscall.Kill(next, syscall.SIGKILL))
		}
		pid = next
	}
	require.NoError(t, s.Stop(t.Context()))
	require.ErrorIs(t, syscall.Kill(pid, 0), syscall.ESRCH, "it has ended")
	require.Equal(t, 1, lines.FilterMessageSnippet("not announced on the local network for now").Len())
	require.Equal(t, "the box", lines.FilterMessageSnippet("is announced").All()[0].ContextMap()["name"])
}

// LO-642: a process that cannot announce says why, and hinders nothing.
func TestAFailureIsTold(t *testing.T) {
	exe, started := announcer(t, "echo the port 5353 is taken >&2; exit 1")
	logs, lines := observer.New(zap.WarnLevel)
	s := New(Options{Exe: exe, Addr: func() string { return "192.0.2.1:8080" }, Log: zap.New(logs), FirstWait: time.Millisecond})
	require.NoError(t, s.Start(t.Context()))
	require.True(t, started.Scan())
	require.True(t, started.Scan())
	require.NoError(t, s.Stop(t.Context()))
	require.ErrorContains(t, lines.All()[0].Context[1].Interface.(error), "the port 5353 is taken")
}

// A program that is not there is an end like another. A stop before the start does nothing.
func TestWithoutAProgram(t *testing.T) {
	s := New(Options{Exe: filepath.Join(t.TempDir(), "none"), Addr: func() string { return "" }, Log: zap.NewNop()})
	require.NoError(t, s.Start(t.Context()))
	require.NoError(t, s.Stop(t.Context()))
	s = New(Options{Log: zap.NewNop()})
	require.NoError(t, s.Stop(t.Context()))
	require.NoError(t, s.Start(t.Context()))
}

// LO-642: each interface announces its own addresses, as far as the daemon listens on them.
func TestWhereADaemonCanBeReached(t *testing.T) {
	with := func(name string, texts ...string) card {
		c := card{name: name}
		for _, text := range texts {
			c.addrs = append(c.addrs, netip.MustParsePrefix(text))
		}
		return c
	}
	cards := []card{
		with("br0", "172.17.0.1/16"), with("eth0", "192.0.2.5/24", "2001:db8::5/64", "fe80::5/64"), with("eth1", "fe80::7/64"),
		with("wlan0", "192.0.2.6/24", "fe80::8/64"), // the same network by radio
	}
	shown := func(host string) (all []string) {
		for _, p := range places(netip.MustParseAddr(host), cards) {
			all = append(all, p.card+" "+fmt.Sprint(p.ips))
		}
		return all
	}
	require.Equal(t, []string{"br0 [172.17.0.1]", "eth0 [192.0.2.5]"}, shown("0.0.0.0"))
	require.Equal(t, []string{"br0 [172.17.0.1]", "eth0 [192.0.2.5 2001:db8::5]"}, shown("::"))
	require.Equal(t, []string{"eth0 [2001:db8::5]"}, shown("2001:db8::5"))
	require.Equal(t, []string{"wlan0 [192.0.2.6]"}, shown("192.0.2.6"))
	require.Empty(t, shown("192.0.2.9"))

	cards, err := interfaces()
	require.NoError(t, err)
	for _, c := range cards {
		i, err := net.InterfaceByName(c.name)
		require.NoError(t, err)
		require.Zero(t, i.Flags&net.FlagLoopback)
	}
}

// LO-642
func TestAnAddressThatIsNone(t *testing.T) {
	for _, text := range []string{"", "box:8080", "192.0.2.1", "192.0.2.1:http"} {
		require.ErrorContains(t, Say(strings.NewReader(""), "box", text, false), "no address of a daemon", text)
	}
}

func TestTheNameOfTheMachine(t *testing.T) {
	host, err := os.Hostname()
	require.NoError(t, err)
	require.Equal(t, host, Name(""))
	require.Equal(t, "box", Name("box"))
}
