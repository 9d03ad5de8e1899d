// SPDX-License-Identifier: GPL-3.0-or-later

//go:build llamarpc

package hosts_test

import (
	"encoding/json"
	"fmt"
	"net"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/daemon"
	"github.com/llama-orch/llama-orch/harness/process"
	"github.com/llama-orch/llama-orch/harness/watch"
)

// A llama-server on each of two hosts registers with the daemon, over the network and with the token. Both serve the pool. When one host is lost,
// its task goes on at the other.
//
// LO-472
func TestWorkersOfTwoHostsRegister(t *testing.T) {
	llamaServer, _ := programs(t)
	l, all := lab(t), network(t, 3)
	d := serve(t, l, all[0], `
  - {id: spread, model: {id: haiku, ref: haiku}, slots: 2, provisioning: {mode: external}}
`)
	digest := "sha256:" + run(t, "sha256sum", l.Model)[:64]
	register := func(n int) {
		h := all[n]
		said := h.post(d.URL+"/v1/workers/register", token, fmt.Sprintf(
			`{"worker_id": "host-%d", "pool_id": "spread", "url": "http://%s", "engine": "llamacpp", "engine_version": "b1", "model_digest": %q, "fingerprint": "fp", "slots": 2, "ctx": 256}`,
			n, net.JoinHostPort(h.address, "9700"), digest))
		require.Contains(t, said, "201", said)
	}
	servers := map[string]*process.Process{}
	for n := 1; n <= 2; n++ {
		p := all[n].start(l.Launcher, llamaServer, "-m", l.Model, "--host", all[n].address, "--port", "9700", "--parallel", "2", "-c", "512", "--device", "none",
			"--slot-save-path", t.TempDir(), "--no-webui", "--ignore-eos")
		servers[fmt.Sprintf("spread-host-%d", n)] = p
		require.NoError(t, watch.Poll(t.Context(), "the server", func() error {
			if p.Ended() {
				return watch.Never(fmt.Errorf("it ended:\n%s", p.Tail(20)))
			}
			conn, err := net.Dial("tcp", net.JoinHostPort(all[n].address, "9700"))
			if err != nil {
				return err
			}
			return conn.Close()
		}))
		register(n)
	}
	both := func() (ready []daemon.Replica) {
		require.NoError(t, watch.Poll(t.Context(), "both hosts", func() error {
			replicas, err := d.Replicas(t.Context(), "spread")
			if err != nil {
				return watch.Never(err)
			}
			ready = nil
			for _, r := range replicas {
				if r.State == "ready" {
					ready = append(ready, r)
				}
			}
			if len(ready) < 2 {
				return fmt.Errorf("%+v", replicas)
			}
			return nil
		}))
		return ready
	}
	require.Len(t, both(), 2)

	// Their model writes an answer in a blink, so they are stopped before, and the other one goes on when one is gone.
	for _, p := range servers {
		require.NoError(t, p.Signal(syscall.SIGSTOP))
	}
	_, err := d.Client.Submit(t.Context(), []byte(`{"task_id": "moved", "model_ref": "haiku", "prompt": "Write a haiku about rain containing \"seven\".\n\n", "max_tokens": 64, "determinism": "best_effort"}`))
	require.NoError(t, err)
	lost := ""
	require.NoError(t, watch.Poll(t.Context(), "the dispatch", func() error {
		text, err := d.Client.Get(t.Context(), "/v1/tasks/moved")
		if err != nil {
			return watch.Never(err)
		}
		var status struct {
			Replica string `json:"replica_id"`
		}
		if err := json.Unmarshal(text, &status); err != nil || status.Replica == "" {
			return fmt.Errorf("%s: %w", text, err)
		}
		lost = status.Replica
		return nil
	}))
	require.Contains(t, servers, lost)
	for id, p := range servers {
		if id == lost {
			p.Kill()
		} else {
			require.NoError(t, p.Signal(syscall.SIGCONT))
		}
	}
	s, err := d.Client.Open(t.Context(), "moved")
	require.NoError(t, err)
	require.NoError(t, s.Rest())
	require.NotNil(t, s.End, "%+v", s.Fail)
	require.NotEqual(t, lost, s.End.Receipt.ReplicaID, "it went on at the other host")
}
