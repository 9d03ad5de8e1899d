// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/gen"
)

// LO-502
func TestExplainAsks(t *testing.T) {
	t.Parallel()
	d := newDaemon()
	addr := d.serve(t)
	require.Zero(t, call(t.Context(), addr, "", "explain", "--model", "m").code)
	require.Equal(t, &gen.ExplainRequest{ModelRef: "m", Workload: gen.NewOptExplainRequestWorkload("completion")}, d.explain)

	got := call(t.Context(), addr, "", "explain", "-m", "m", "--pool", "p", "--avoid", "a", "--avoid", "b", "--workload", "embedding",
		"--engine", "llamacpp", "--determinism", "strict", "--ctx", "512")
	require.Zero(t, got.code, got.err)
	require.Equal(t, &gen.ExplainRequest{
		ModelRef: "m", Workload: gen.NewOptExplainRequestWorkload("embedding"), Engine: gen.NewOptEngineName("llamacpp"), Ctx: gen.NewOptInt(512),
		Determinism: gen.NewOptDeterminism(gen.DeterminismStrict), Placement: gen.NewOptPlacementWish(gen.PlacementWish{
			Mode: gen.NewOptPlacementWishMode("pin"), PoolID: gen.NewOptPoolID("p"), Avoid: []gen.PoolID{"a", "b"},
		}),
	}, d.explain)
	require.Zero(t, call(t.Context(), addr, "", "explain", "-m", "m", "--prefer", "p").code)
	require.Equal(t, gen.PlacementWishModePrefer, d.explain.Placement.Value.Mode.Value)
}

// ORCH-2101
func TestDrainAsks(t *testing.T) {
	t.Parallel()
	d := newDaemon()
	require.Zero(t, call(t.Context(), d.serve(t), "", "pool", "drain", "p", "--deadline", "1500ms").code)
	require.EqualValues(t, 1500, d.drained.DeadlineMs)
}

// ORCH-2101, LO-502
func TestBadUseOfControl(t *testing.T) {
	t.Parallel()
	d := newDaemon()
	addr := d.serve(t)
	for _, args := range [][]string{
		{"pool"},
		{"pool", "drain"},
		{"pool", "drain", "p", "--deadline", "soon"},
		{"pool", "drain", "p", "--deadline=-1s"},
		{"pool", "drain", "p", "--deadline", "25h"},
		{"pool", "reload", "p"},
		{"pool", "reload", "p", ""},
		{"pool", "health"},
		{"explain"},
		{"explain", "-m", "m", "--pool", "a", "--prefer", "b"},
		{"explain", "-m", "m", "--ctx=-1"},
		{"explain", "-m", "m", "--determinism", "lax"},
		{"config"},
		{"gpus", "0"},
	} {
		got := call(t.Context(), addr, "", args...)
		require.Equal(t, exitUsage, got.code, "%v: %s", args, got.err)
		require.Contains(t, got.err, "error: ")
	}
	require.Nil(t, d.drained)
	require.Nil(t, d.explain)

	d = newDaemon()
	d.refuse = refusal(409, gen.ErrorCodeCONFLICT)
	addr = d.serve(t)
	for _, args := range [][]string{{"pool", "reload", "p", "file:x.gguf"}, {"config", "reload"}} {
		got := call(t.Context(), addr, "", args...)
		require.Equal(t, exitFailed, got.code)
		require.Contains(t, got.err, "error: not so (CONFLICT)")
	}
}

// LO-501
func TestGPUsWithoutADriver(t *testing.T) {
	t.Parallel()
	d := newDaemon()
	d.gpus = gen.GPUList{Problem: gen.NewOptString("there is no NVIDIA driver"), Gpus: []gen.GPU{}}
	addr := d.serve(t)
	require.Equal(t, "no GPU can be used: there is no NVIDIA driver\n", call(t.Context(), addr, "", "gpus").out)
	require.Contains(t, call(t.Context(), addr, "", "top").out, "waiting\nno GPU can be used: there is no NVIDIA driver\n\nPOOL")
}

// LO-466, LO-470
func TestAPoolShowsItsHostsAndRoutes(t *testing.T) {
	t.Parallel()
	d := newDaemon()
	d.health = func(id gen.PoolID) gen.PoolHealth {
		h := healthy(id)
		h.Pool.Routes = []string{"/v1/audio/*"}
		h.Replicas[0].Hosts = []gen.RPCHost{{Host: "10.0.0.2:50052", FreeBytes: gen.NewOptInt64(3 << 30), UsedBytes: gen.NewOptInt64(1 << 30)}, {Host: "10.0.0.3:50052"}}
		return h
	}
	got := call(t.Context(), d.serve(t), "", "pools", "p")
	require.Zero(t, got.code, got.err)
	require.Regexp(t, `(?m)^10\.0\.0\.2:50052 +\S+ +3072 MiB +1024 MiB`, got.out)
	require.Regexp(t, `(?m)^10\.0\.0\.3:50052 +\S+ +- +- *$`, got.out, "what is not told is not shown")
	require.Regexp(t, `(?m)^ROUTE *\n/v1/audio/\*`, got.out)
}
