// SPDX-License-Identifier: GPL-3.0-or-later

package pool_test

import (
	"context"
	"net"
	"net/url"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/fleet/engine/httpsse"
	"github.com/llama-orch/llama-orch/service/fleet/pool"
	"github.com/llama-orch/llama-orch/service/task"
)

// hosted is a pool whose worker computes on other hosts.
func hosted(hosts ...string) pool.Spec {
	s := plain
	s.Mode, s.BinaryPath, s.BinaryArgs, s.Hosts = pool.Binary, os.Args[0], []string{asServer}, hosts
	return s
}

func listen(t *testing.T, address string) net.Listener {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", address)
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// withModel gives the pool a model that its worker makes what it does of.
func withModel(c child) func(*bundle, *pool.Options) {
	return func(b *bundle, o *pool.Options) { o.Specs[0].ModelPath = b.model(c) }
}

// LO-470, LO-471: no worker starts while a host is away; the pool says which, and is ready once the host is back. Its tasks are best-effort.
func TestAHostThatIsAway(t *testing.T) {
	there, away := listen(t, "127.0.0.1:0"), listen(t, "127.0.0.1:0")
	address := away.Addr().String()
	require.NoError(t, away.Close())
	b := setup(t, withModel(child{}), hosted(there.Addr().String(), address))
	info := b.await("p", is(pool.Backoff))
	require.Contains(t, info.LastError, address+", of the pool's `rpc`, takes no connection: start ggml-rpc-server there")
	require.Zero(t, info.PID)
	require.False(t, info.Fixed)
	b.await("p", func(i pool.Info) bool { return i.Restarts > 8 }) // more than what a pool is given up after
	listen(t, address)
	info = b.await("p", is(pool.Ready))
	require.False(t, info.Strict)
}

// LO-471: a worker that a host took down with it is told apart from one that died by itself.
func TestAWorkerLosesItsHost(t *testing.T) {
	there := listen(t, "127.0.0.1:0")
	words := child{Crash: "/src/ggml/src/ggml-rpc/ggml-rpc.cpp:512: Remote RPC server crashed or returned malformed response"}
	b := setup(t, withModel(words), hosted(there.Addr().String()))
	info := b.await("p", is(pool.Backoff))
	require.Contains(t, info.LastError, "the connection to one of the hosts of `rpc` broke off")
	require.Contains(t, info.LastError, there.Addr().String())
	require.NoError(t, there.Close())
	b.await("p", func(i pool.Info) bool { return i.State == pool.Backoff && i.Restarts > 0 })

	b = setup(t, withModel(words), func() pool.Spec {
		s := hosted()
		return s
	}())
	info = b.await("p", is(pool.Backoff))
	require.NotContains(t, info.LastError, "rpc`", "it has no hosts")
}

// LO-470: the policy about outbound calls decides on each host.
func TestThePolicyDecidesOnHosts(t *testing.T) {
	var asked []string
	b := setup(t, func(b *bundle, o *pool.Options) {
		withModel(child{})(b, o)
		o.Outbound = &httpsse.Network{Dial: func(_ context.Context, to *url.URL) (net.Conn, error) {
			asked = append(asked, to.String())
			return nil, task.Errorf(task.PolicyDenied, "not there")
		}}
	}, hosted("10.9.8.7:50052"))
	info := b.await("p", is(pool.Failed))
	require.Equal(t, "POLICY_DENIED: not there", info.LastError)
	require.True(t, info.Fixed)
	require.Equal(t, []string{"tcp://10.9.8.7:50052"}, asked)
}
