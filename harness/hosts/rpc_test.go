// SPDX-License-Identifier: GPL-3.0-or-later

//go:build llamarpc

package hosts_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/client"
	"github.com/llama-orch/llama-orch/harness/daemon"
	"github.com/llama-orch/llama-orch/harness/watch"
)

// health is what a test reads of a pool's health.
type health struct {
	Pool struct {
		State     string `json:"state"`
		LastError string `json:"last_error"`
	} `json:"pool"`
	Replicas []struct {
		State    string   `json:"state"`
		Restarts int      `json:"restarts"`
		Error    string   `json:"last_error"`
		Tail     []string `json:"log_tail"`
		Hosts    []struct {
			Host string `json:"host"`
			Free int64  `json:"free_bytes"`
			Used int64  `json:"used_bytes"`
		} `json:"hosts"`
	} `json:"replicas"`
}

// healthy polls a pool's health until a condition holds.
func healthy(t *testing.T, d *daemon.Daemon, what string, ok func(health) bool) (h health) {
	t.Helper()
	require.NoError(t, watch.Poll(t.Context(), what, func() error {
		text, err := d.Client.Get(t.Context(), "/v1/pools/spread/health")
		if err != nil {
			return watch.Never(err)
		}
		h = health{}
		if err := json.Unmarshal(text, &h); err != nil {
			return watch.Never(err)
		}
		if !ok(h) {
			return fmt.Errorf("the pool is %s: %s", h.Pool.State, text)
		}
		return nil
	}))
	return h
}

// A model is divided over two hosts, and both say what they have of it. One of them is killed in mid-stream: the client is told, the pool says which host to
// look at, and is ready again once that host is back.
//
// LO-470, LO-471
func TestAModelIsDividedOverTwoHosts(t *testing.T) {
	llamaServer, rpcServer := programs(t)
	l, all := lab(t), network(t, 3)
	here, first, second := all[0], all[1], all[2]
	one := first.start(l.Launcher, rpcServer, "-H", first.address, "-p", "50052")
	two := second.start(l.Launcher, rpcServer, "-H", second.address, "-p", "50052")
	d := serve(t, l, here, fmt.Sprintf(`
  - {id: spread, model: {id: haiku, ref: "file:%s"}, device: cpu, ctx: 256, rpc: ["%s:50052", "%s:50052"], provisioning: {mode: binary, path: %s, args: ["--ignore-eos"]}}
`, l.Model, first.address, second.address, llamaServer))
	ready := func(h health) bool { return h.Pool.State == "ready" }
	h := healthy(t, d, "the pool", ready)
	require.Len(t, h.Replicas[0].Hosts, 2, "what llama-server has said: %s", strings.Join(h.Replicas[0].Tail, "\n"))
	for i, at := range []string{first.address, second.address} {
		require.Equal(t, at+":50052", h.Replicas[0].Hosts[i].Host)
		require.Positive(t, h.Replicas[0].Hosts[i].Free)
		require.Positive(t, h.Replicas[0].Hosts[i].Used)
	}

	told := decode(t, d, "whole", nil)
	require.Equal(t, "best_effort", told.End.Receipt.Determinism)
	require.Empty(t, told.End.Receipt.ContinuedAt)

	told = decode(t, d, "cut", func() {
		two.Kill()
		h := healthy(t, d, "the loss", func(h health) bool {
			return h.Pool.State != "ready" && strings.Contains(h.Replicas[0].Error, second.address)
		})
		require.Contains(t, h.Replicas[0].Error, second.address+":50052, of the pool's `rpc`, takes no connection: start ggml-rpc-server there")
		require.NotContains(t, h.Replicas[0].Error, first.address+":50052,")
		t.Logf("the pool is %s, and says: %s", h.Pool.State, h.Replicas[0].Error)
		metrics, err := d.Client.Get(t.Context(), "/metrics")
		require.NoError(t, err)
		require.Contains(t, string(metrics), `llorch_worker_restarts_total{pool_id="spread",reason="host_lost",replica_id="spread-0"}`)
		second.start(l.Launcher, rpcServer, "-H", second.address, "-p", "50052")
	})
	require.Len(t, told.End.Receipt.ContinuedAt, 1, "the stream has paused, and gone on behind what was sent")
	healthy(t, d, "the recovery", ready)
	decode(t, d, "again", nil)
	require.False(t, one.Ended())
	code, err := d.Stop(syscall.SIGTERM)
	require.NoError(t, err)
	require.Zero(t, code)
}

// decode runs a task to its end, and calls after its eighth token.
func decode(t *testing.T, d *daemon.Daemon, id string, after func()) *client.Log {
	t.Helper()
	_, err := d.Client.Submit(t.Context(), fmt.Appendf(nil, `{"task_id": %q, "model_ref": "haiku", "prompt": "Write a haiku about rain containing \"seven\".\n\n", "max_tokens": %d}`, id, answer))
	require.NoError(t, err)
	s, err := d.Client.Open(t.Context(), id)
	require.NoError(t, err)
	defer s.Close()
	for !s.Over() {
		_, err := s.Next()
		require.NoError(t, err)
		if after != nil && len(s.Tokens) == 8 {
			after()
			after = nil
		}
	}
	require.NotNil(t, s.End, "%+v", s.Fail)
	return s.Log
}

// answer is how many tokens an answer has, since nothing ends it before.
const answer = 200
