// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/gen"
)

// LO-712
func TestHostsAreShown(t *testing.T) {
	t.Parallel()
	d := newDaemon()
	d.hosts = []gen.Host{
		{ID: "a", Name: "attic", Address: gen.NewOptString("https://attic:1"), Version: "1", Here: true, Up: true, SeenAt: time.Now(), Pools: []gen.HostPool{
			{PoolID: "coder", Engine: "llamacpp", ModelID: "m", Holds: true}, {PoolID: "small", Engine: "llamacpp", ModelID: "s"},
		}},
		{ID: "b", Name: "cellar", Version: "1", SeenAt: time.Now(), Pools: []gen.HostPool{}},
	}
	addr := d.serve(t)
	got := call(t.Context(), addr, "", "hosts")
	require.Zero(t, got.code, got.err)
	require.Regexp(t, `(?m)^attic +up, asked +https://attic:1 +1 +\S+ +coder +holds +m *$`, got.out)
	require.Regexp(t, `(?m)^- +- +- +- +- +small +stands by +s *$`, got.out)
	require.Regexp(t, `(?m)^cellar +down +- +1 +`, got.out)
	require.Contains(t, call(t.Context(), addr, "", "--json", "hosts").out, `"holds":`)
}

// LO-719: of several addresses the first that takes a connection is used; the scheme may be left out.
func TestSeveralAddresses(t *testing.T) {
	t.Parallel()
	d := newDaemon()
	d.hosts = []gen.Host{{ID: "a", Name: "attic", Version: "1", SeenAt: time.Now(), Pools: []gen.HostPool{}}}
	addr := d.serve(t)
	got := call(t.Context(), "127.0.0.1:1, "+addr, "", "hosts")
	require.Zero(t, got.code, got.err)
	require.Contains(t, got.out, "attic")
	require.Equal(t, exitUnreachable, call(t.Context(), "127.0.0.1:1,http://127.0.0.1:2", "", "hosts").code)
}
