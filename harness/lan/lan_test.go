// SPDX-License-Identifier: GPL-3.0-or-later

package lan_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/llama-orch/llama-orch/harness/daemon"
	"github.com/llama-orch/llama-orch/harness/process"
	"github.com/llama-orch/llama-orch/harness/watch"
)

// inside is set for the tests' program in the network namespace.
const inside = "LLORCH_TEST_INSIDE"

// The addresses of the ends of two cables.
const (
	here  = "10.77.0.1"
	there = "10.77.0.2"

	second = "10.78.0.1"
	far    = "10.78.0.2"
)

// TestMain runs the tests in a network namespace of their own. Where the user is not root, it takes a user namespace as well.
func TestMain(m *testing.M) {
	if os.Getenv(inside) != "" {
		if err := cables(); err != nil {
			fmt.Fprintln(os.Stderr, "laying cables in the network namespace:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if uid := os.Geteuid(); uid != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	err := cmd.Run()
	if ended, ok := errors.AsType[*exec.ExitError](err); ok {
		os.Exit(ended.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "these tests need a network namespace, so they need root, or a kernel that lets users have namespaces (sysctl kernel.unprivileged_userns_clone=1):", err)
		os.Exit(1)
	}
}

// cables makes the loopback and two cables, all of whose ends are here.
func cables() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	lay := func(name, peer string) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: peer})
	}
	if err := errors.Join(netlink.LinkSetUp(lo), lay("here", "there"), lay("second", "zfar")); err != nil {
		return err
	}
	for name, address := range map[string]string{"here": here, "there": there, "second": second, "zfar": far} {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		addr, err := netlink.ParseAddr(address + "/24")
		if err != nil {
			return err
		}
		if err := errors.Join(netlink.AddrAdd(link, addr), netlink.LinkSetUp(link)); err != nil {
			return err
		}
	}
	return nil
}

// server is one that was found.
type server struct{ Name, URL string }

// network is what the tests have of the programs.
type network struct {
	*daemon.Lab
	t *testing.T
}

func newNetwork(t *testing.T) *network {
	t.Helper()
	lab, err := daemon.NewLab(t.Context(), t.TempDir(), "../..", "./cmd/llama-orch")
	require.NoError(t, err)
	t.Cleanup(lab.Close)
	return &network{lab, t}
}

func (n *network) serve(config string) *daemon.Daemon {
	n.t.Helper()
	path := filepath.Join(n.Dir, "config.yaml")
	require.NoError(n.t, os.WriteFile(path, []byte(config), 0o600))
	d, err := n.Serve(n.t.Context(), daemon.Options{Config: path, Token: "sesame", Options: process.Options{
		Args: []string{"--no-self-test"}, Env: n.Env(n.Dir, map[string]string{"LLORCH_API_TOKEN": "sesame"}),
	}})
	require.NoError(n.t, err)
	n.t.Cleanup(d.Kill)
	return d
}

func (n *network) discover(flags ...string) (found []server, errs string) {
	n.t.Helper()
	cmd := exec.CommandContext(n.t.Context(), n.Program("llama-orch"), append([]string{"discover", "--within=2s"}, flags...)...)
	cmd.Env = n.Env(n.Dir, nil)
	var err strings.Builder
	cmd.Stderr = &err
	out, failed := cmd.Output()
	require.NoError(n.t, failed, err.String())
	if len(flags) > 0 {
		var all struct{ Servers []server }
		require.NoError(n.t, json.Unmarshal(out, &all), "%s", out)
		return all.Servers, err.String()
	}
	return nil, string(out) + err.String()
}

// await searches until the servers are as they should be.
func (n *network) await(what string, want ...server) {
	n.t.Helper()
	ctx, stop := context.WithTimeout(n.t.Context(), watch.Patience)
	defer stop()
	require.NoError(n.t, watch.Poll(ctx, what, func() error {
		if got, _ := n.discover("--json"); fmt.Sprint(got) != fmt.Sprint(want) {
			return fmt.Errorf("found %v, want %v", got, want)
		}
		return nil
	}))
}

// announcers are the processes that announce.
func (n *network) announcers() (pids []int) {
	n.t.Helper()
	for _, w := range daemon.Running(n.Program("orchestratord")) {
		if args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", w.Pid)); err == nil && strings.Contains(string(args), "\x00announce\x00") {
			pids = append(pids, w.Pid)
		}
	}
	return pids
}

const pools = `
pools:
  - {id: p, model: {id: m, ref: label}, provisioning: {mode: external, urls: ["http://127.0.0.1:9"]}}
`

// A daemon is found by its name, at the address of the side that asks for it. It goes when it stops, also by a signal that nobody can catch; whatever is sent to it, it stays, and its
// announcer comes back when it is killed.
//
// LO-642
func TestADaemonIsFound(t *testing.T) {
	n := newNetwork(t)
	_, says := n.discover()
	require.Contains(t, says, "no server answered")

	d := n.serve("bind_addr: " + here + ":0\ndata_dir: state\nannounce: {mdns: true, name: \"The box, upstairs\"}" + pools)
	box := server{"The box, upstairs", d.URL}
	require.True(t, strings.HasPrefix(d.URL, "http://"+here+":"), d.URL)
	n.await("the daemon", box)
	_, table := n.discover()
	require.Regexp(t, `(?m)^The box, upstairs +`+d.URL+`$`, table)

	pids := n.announcers()
	require.Len(t, pids, 1)
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pids[0]))
	require.NoError(t, err)
	require.NotContains(t, string(env), "sesame")

	nonsense, err := net.Dial("udp", "224.0.0.251:5353")
	if err != nil { // without a route for it, out of one end of the cable
		dialer := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(there)}}
		nonsense, err = dialer.DialContext(t.Context(), "udp", "224.0.0.251:5353")
	}
	if err == nil {
		for _, packet := range []string{"", "\x00", strings.Repeat("\xff", 1400), "\x00\x00\x84\x00\xff\xff\xff\xff\xff\xff\xff\xff\xc0\x0c\xc0\x0c"} {
			_, err = nonsense.Write([]byte(packet))
			require.NoError(t, err)
		}
		require.NoError(t, nonsense.Close())
	}
	n.await("the daemon, behind nonsense", box)

	require.NoError(t, syscall.Kill(pids[0], syscall.SIGKILL))
	n.await("the daemon, whose announcer was killed", box)
	require.NotEqual(t, pids, n.announcers())

	code, err := d.Stop(syscall.SIGTERM)
	require.NoError(t, err)
	require.Zero(t, code)
	require.Empty(t, n.announcers())
	n.await("nobody")

	d = n.serve("bind_addr: 0.0.0.0:0\ndata_dir: state\nannounce: {mdns: true, name: all}" + pools)
	_, port, err := net.SplitHostPort(strings.TrimPrefix(d.URL, "http://"))
	require.NoError(t, err)
	n.await("the daemon on all addresses, once on each cable", server{"all", "http://" + here + ":" + port}, server{"all", "http://" + second + ":" + port})
	d.Kill()
	n.await("nobody, after a kill -9")
	require.NoError(t, watch.Poll(t.Context(), "the announcer's end", func() error {
		if left := n.announcers(); len(left) > 0 {
			return fmt.Errorf("%v are left", left)
		}
		return nil
	}))
}

// It is off by default.
//
// LO-642
func TestADaemonThatIsNotAnnounced(t *testing.T) {
	n := newNetwork(t)
	n.serve("bind_addr: " + here + ":0\ndata_dir: state" + pools)
	got, _ := n.discover("--json")
	require.Empty(t, got)
	require.Empty(t, n.announcers())
}
