// SPDX-License-Identifier: GPL-3.0-or-later

package llamacpp

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/task"
)

// LO-470: the hosts are told to llama-server, and are part of the fingerprint; a pool on the CPU has its layers there.
func TestHostsAreTold(t *testing.T) {
	w := engine.Worker{Workload: task.Completion, Slots: 1, Hosts: []string{"a:1", "b:2"}, Model: haikuFile, Prefixes: engine.Prefixes{Reuse: engine.ReusingWhereProven}}
	for _, cards := range []int{0, 1} {
		w.Cards = cards
		c := command(w)
		require.Equal(t, []string{"--rpc", "a:1,b:2", "-ngl", "all", "--fit", "off"}, c.Flags)
		require.Zero(t, c.Piece, "nobody has shown that KV of other hosts gives the same bytes")
	}
}

// LO-470
func TestHostsTakeAPart(t *testing.T) {
	w := engine.Worker{Model: haikuFile, Slots: 1, Cards: 1}
	alone, err := estimateOf(w, fileSize(t))
	require.NoError(t, err)
	w.Hosts = []string{"a:1", "b:2", "c:3"}
	shared, err := estimateOf(w, fileSize(t))
	require.NoError(t, err)
	require.Equal(t, alone.Cards[0]/4, shared.Cards[0])
}

// LO-470: llama-server's lines tell what it has of each host, and nothing is made up where they do not.
func TestSharesAreRead(t *testing.T) {
	require.Equal(t, []engine.Share{{Host: "10.0.0.2:50052", FreeBytes: 30 << 30, Bytes: 3<<20 + 1<<19}, {Host: "[::1]:1", FreeBytes: 1 << 20}}, shares(strings.Split(`
0.00.1 I llama_model_load_from_file_impl: using device RPC0 (10.0.0.2:50052) (unknown id) - 20480 MiB free
0.00.1 I llama_model_load_from_file_impl: using device RPC1 (10.0.0.2:50052) (unknown id) - 10240 MiB free
0.00.1 I llama_model_load_from_file_impl: using device RPC0 ([::1]:1) (unknown id) - 1 MiB free
load_tensors: RPC0[10.0.0.2:50052] model buffer size =     2.50 MiB
llama_kv_cache: RPC1[10.0.0.2:50052] KV buffer size =     1.00 MiB
load_tensors:   CPU_Mapped model buffer size =     9.00 MiB`, "\n")))
	require.Empty(t, shares([]string{"load_tensors: CPU model buffer size = 1.00 MiB", "", "RPC0[ buffer size = x MiB"}))
}

// LO-471
func TestTheLossOfAHostIsTold(t *testing.T) {
	for _, line := range []string{"ggml-rpc.cpp:512: Remote RPC server crashed or returned malformed response", "Failed to connect to 10.0.0.2:50052"} {
		require.Equal(t, engine.HostLost, deaths.Told([]string{line})[0])
	}
}
