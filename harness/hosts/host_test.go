// SPDX-License-Identifier: GPL-3.0-or-later

//go:build llamarpc

package hosts_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/daemon"
	"github.com/llama-orch/llama-orch/harness/process"
	"github.com/llama-orch/llama-orch/service/supply/provision"
)

// A host speaks to the others over the network alone.
type host struct {
	*testing.T

	address string
	inside  []string // what a command begins with that runs there
}

// network makes so many hosts. The first is this one, where the daemon listens.
func network(t *testing.T, n int) (all []*host) {
	t.Helper()
	if os.Getuid() == 0 {
		if _, err := exec.LookPath("ip"); err == nil {
			return namespaces(t, n)
		}
	}
	t.Log("no network namespaces can be made here: other loopback addresses stand for hosts")
	for i := range n {
		all = append(all, &host{T: t, address: fmt.Sprintf("127.0.0.%d", i+1)})
	}
	return all
}

// namespaces joins network namespaces by a bridge of their own, which leads nowhere else.
func namespaces(t *testing.T, n int) (all []*host) {
	t.Helper()
	id := fmt.Sprintf("lo%d", os.Getpid()%100000)
	ip := func(line string) { t.Helper(); run(t, "ip", strings.Fields(line)...) }
	ip("link add " + id + " type bridge")
	t.Cleanup(func() { ip("link del " + id) })
	ip("addr add 10.214.77.1/24 dev " + id)
	ip("link set " + id + " up")
	all = append(all, &host{T: t, address: "10.214.77.1"})
	for i := 1; i < n; i++ {
		name := fmt.Sprintf("%s-%d", id, i)
		address := fmt.Sprintf("10.214.77.%d", i+1)
		ip("netns add " + name)
		t.Cleanup(func() { ip("netns del " + name) })
		ip(fmt.Sprintf("link add %s-%d type veth peer name eth0 netns %s", id, i, name))
		ip(fmt.Sprintf("link set %s-%d master %s up", id, i, id))
		ip(fmt.Sprintf("-n %s addr add %s/24 dev eth0", name, address))
		ip("-n " + name + " link set eth0 up")
		ip("-n " + name + " link set lo up")
		all = append(all, &host{T: t, address: address, inside: []string{"ip", "netns", "exec", name}})
	}
	return all
}

func run(t *testing.T, program string, args ...string) string {
	t.Helper()
	out, err := exec.Command(program, args...).CombinedOutput()
	require.NoError(t, err, "%s %v: %s", program, args, out)
	return string(out)
}

// start runs a program on the host. `ip netns exec` becomes the program, so that its process is the one that is ended.
func (h *host) start(l *process.Launcher, args ...string) *process.Process {
	h.Helper()
	args = append(append([]string(nil), h.inside...), args...)
	exe, err := exec.LookPath(args[0])
	require.NoError(h, err)
	p, err := l.Start(process.Options{Name: filepath.Base(args[len(h.inside)]), Exe: exe, Args: args[1:], Env: os.Environ()})
	require.NoError(h, err)
	h.Cleanup(p.Kill)
	return p
}

// post sends a body from the host, as a program there would.
func (h *host) post(url, token, body string) string {
	h.Helper()
	args := append(append([]string(nil), h.inside...), os.Args[0], url, token, body)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), sender+"=1")
	out, err := cmd.CombinedOutput()
	require.NoError(h, err, string(out))
	return string(out)
}

// sender says that this program is run again to send a request from a host.
const sender = "LLORCH_HOSTS_SENDER"

func TestMain(m *testing.M) {
	if os.Getenv(sender) == "" {
		os.Exit(m.Run())
	}
	r, err := http.NewRequestWithContext(context.Background(), http.MethodPost, os.Args[1], strings.NewReader(os.Args[3]))
	if err == nil {
		r.Header.Set("Authorization", "Bearer "+os.Args[2])
		r.Header.Set("Content-Type", "application/json")
		var res *http.Response
		if res, err = http.DefaultClient.Do(r); err == nil {
			defer res.Body.Close()
			fmt.Println(res.Status)
			_, err = io.Copy(os.Stdout, res.Body)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

const token = "the-token-of-the-hosts"

// lab builds the daemon.
func lab(t *testing.T) *daemon.Lab {
	t.Helper()
	l, err := daemon.NewLab(t.Context(), t.TempDir(), "../..")
	require.NoError(t, err)
	t.Cleanup(l.Close)
	return l
}

// serve starts a daemon with these pools on the first host.
func serve(t *testing.T, l *daemon.Lab, at *host, pools string) *daemon.Daemon {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config.yaml")
	text := fmt.Sprintf("bind_addr: %s:0\ndata_dir: %s\npolicy: {allow: [\"*\", \"10.214.77.0/24\"]}\npools:\n%s", at.address, t.TempDir(), pools)
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	d, err := daemon.Start(t.Context(), l.Launcher, daemon.Options{
		Config: file, Token: token,
		Options: process.Options{Exe: l.Program("orchestratord"), Args: []string{"--no-self-test"}, Env: l.Env(t.TempDir(), map[string]string{"LLORCH_API_TOKEN": token})},
	})
	require.NoError(t, err)
	t.Cleanup(d.Kill)
	return d
}

// programs are a llama-server with RPC, and what its hosts run.
func programs(t *testing.T) (llamaServer, rpcServer string) {
	t.Helper()
	llamaServer, err := provision.LocateLlamaServerRPC()
	require.NoError(t, err)
	return llamaServer, provision.RPCServer(llamaServer)
}
