// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/gen"
)

// LO-933
func TestPs(t *testing.T) {
	t.Parallel()
	d := newDaemon()
	away := pool("away", "coder", gen.WorkloadCompletion)
	away.Loaded, away.Lifecycle, away.Device, away.State = false, gen.LifecycleOnDemand, "0,1", gen.PoolStateUnloaded
	swapped := pool("swapped", "chat", gen.WorkloadCompletion)
	swapped.Lifecycle, swapped.Device = gen.LifecycleOnDemand, "0"
	d.pools = append(d.pools[:1], away, swapped)
	d.health = func(id gen.PoolID) gen.PoolHealth {
		h := healthy(id)
		for _, p := range d.pools {
			if p.ID == id {
				h.Pool = p
			}
		}
		h.Replicas = []gen.Replica{{ID: string(id) + "-0", State: gen.ReplicaStateReady, Active: 1, Slots: 1, Cards: []int{}, LogTail: []string{}, ObservedBytes: gen.NewOptInt64(3 << 20)}}
		if id == "swapped" {
			h.Replicas[0].Cards = []int{1, 0}
		}
		return h
	}
	addr := d.serve(t)
	got := call(t.Context(), addr, "", "ps")
	require.Zero(t, got.code, got.err)
	require.Regexp(t, `(?m)^haiku +default +ready +3.0 MiB +CPU +256 +1 +3 +always$`, got.out)
	require.Regexp(t, `(?m)^chat +swapped +ready .* GPU 0,1 +256 +1 +3 +others need the room, or idle$`, got.out)
	require.NotContains(t, got.out, "away")
	require.Regexp(t, `(?m)^coder +away +unloaded .* +not loaded$`, call(t.Context(), addr, "", "ps", "-a").out)
	var shown struct{ Models []memory }
	require.NoError(t, json.Unmarshal([]byte(call(t.Context(), addr, "", "ps", "--json").out), &shown))
	require.Len(t, shown.Models, 2)
	require.Equal(t, "GPU 0,1", shown.Models[1].Processor)
}

// LO-933
func TestList(t *testing.T) {
	t.Parallel()
	d := newCatalogDaemon()
	d.pools[0].Model.Ref = d.model.Ref // the catalog's model, by the pool's name
	d.pools[0].Model.ID = "writer"
	addr := d.serve(t)
	for _, name := range []string{"list", "ls"} {
		got := call(t.Context(), addr, "", name)
		require.Zero(t, got.code, got.err)
		require.Regexp(t, `(?m)^writer +1{11}… +2.2 MiB +\d{4}-\d\d-\d\d \S+ +default +ready$`, got.out)
		require.Regexp(t, `(?m)^embedder +- +- +- +vectors +ready$`, got.out)
		require.Equal(t, 3, strings.Count(got.out, "\n"), "each once")
	}
	d.pools = d.pools[1:]
	require.Regexp(t, `(?m)^haiku .* no pool serves it$`, call(t.Context(), addr, "", "list").out)
	require.JSONEq(t, `{"models": [{"name": "embedder", "pools": ["vectors"], "state": "ready"},
		{"name": "haiku", "digest": "sha256:`+strings.Repeat("1", 64)+`", "size_bytes": 2294240, "pools": [], "state": "no pool serves it", "modified": "1970-01-01T00:16:40Z"}]}`,
		call(t.Context(), addr, "", "list", "--json").out)
}

// LO-933
func TestPull(t *testing.T) {
	t.Parallel()
	for name, ref := range map[string]string{
		"hf.co/org/repo": "hf:org/repo", "hf.co/org/repo/a.gguf": "hf:org/repo/a.gguf", "huggingface.co/org/repo:latest": "hf:org/repo", "hf:org/repo": "hf:org/repo",
		"https://host/a.gguf": "https://host/a.gguf", "oci:registry/name:tag": "oci:registry/name:tag",
	} {
		d := newCatalogDaemon()
		addr := d.serve(t)
		got := call(t.Context(), addr, "", "pull", name)
		require.Zero(t, got.code, got.err)
		require.Equal(t, ref, d.added.Ref)
		require.Contains(t, got.out, "Active")
	}
	d := newCatalogDaemon()
	addr := d.serve(t)
	got := call(t.Context(), addr, "", "pull", "haiku")
	require.Zero(t, got.code, got.err)
	require.Nil(t, d.added, "what is there is not fetched again")
	d.refuse = refusal(404, gen.ErrorCodeNOTFOUND)
	got = call(t.Context(), addr, "", "pull", "embedder:latest")
	require.Zero(t, got.code, got.err)
	require.Regexp(t, `(?m)^vectors +embedder`, got.out)
	for _, name := range []string{"llama3.2", "llama3.2:3b", "not a name"} {
		got = call(t.Context(), addr, "", "pull", name)
		require.Equal(t, exitUsage, got.code)
		require.Contains(t, got.err, name+" is no model that the server has, and no ref")
	}
	d.refuse = refusal(503, gen.ErrorCodeSHUTTINGDOWN)
	require.Equal(t, exitRefused, call(t.Context(), addr, "", "pull", "haiku").code)
}

// LO-935: what comes and goes by itself is in no snapshot, and the order of things means nothing.
func TestSnapshotIsStable(t *testing.T) {
	t.Parallel()
	d := newCatalogDaemon()
	addr := d.serve(t)
	got := call(t.Context(), addr, "", "snapshot")
	require.Zero(t, got.code, got.err)
	first := got.out
	require.Contains(t, first, `"form": "llama-orch-snapshot-1"`)
	require.Contains(t, first, `"haiku"`)
	d.pools[0], d.pools[1] = d.pools[1], d.pools[0]
	for i := range d.pools {
		p := &d.pools[i]
		p.Queue.Depth, p.ReplicasReady, p.Loaded, p.Ready, p.State, p.EngineVersion = 9, 0, false, false, gen.PoolStateLoading, ""
		p.LastError, p.Progress = gen.NewOptString("it failed"), gen.NewOptFloat64(0.5)
	}
	require.Equal(t, first, call(t.Context(), addr, "", "snapshot").out)

	file := filepath.Join(t.TempDir(), "s.json")
	require.Zero(t, call(t.Context(), addr, "", "snapshot", "-o", file).code)
	written, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, first, string(written))
	got = call(t.Context(), addr, "", "snapshot", "diff", file)
	require.Zero(t, got.code, got.err)
	require.Empty(t, got.out)
	require.Contains(t, got.err, "nothing changed")
}

// LO-935
func TestSnapshotDiff(t *testing.T) {
	t.Parallel()
	d := newCatalogDaemon()
	addr := d.serve(t)
	before := filepath.Join(t.TempDir(), "before.json")
	require.Zero(t, call(t.Context(), addr, "", "snapshot", "-o", before).code)
	d.pools[0].Slots, d.pools[0].Model.Digest = 4, gen.NewOptString("sha256:"+strings.Repeat("2", 64))
	d.pools[1] = pool("third", "llama", gen.WorkloadCompletion)
	d.model.State = gen.ModelStateRetired
	got := call(t.Context(), addr, "", "snapshot", "diff", before)
	require.Equal(t, exitFailed, got.code)
	require.Equal(t, "models.haiku.retired: new: true\npools.default.slots: 1 -> 4\npools.third: new: third\npools.vectors: gone: vectors\n", got.out)
	require.Empty(t, got.err, "a digest that was not known before is no change, and the exit code says the rest")
	after := call(t.Context(), addr, "", "snapshot").out
	got = call(t.Context(), addr, after, "snapshot", "diff", "-", before, "--json")
	require.Equal(t, exitFailed, got.code)
	var shown struct{ Changes []change }
	require.NoError(t, json.Unmarshal([]byte(got.out), &shown))
	require.Len(t, shown.Changes, 4)
	require.Equal(t, change{"pools.default.slots", 4.0, 1.0}, shown.Changes[1])
	for _, text := range []string{"", "{}", "[]", `{"form": "other"}`} {
		got = call(t.Context(), addr, text, "snapshot", "diff", "-", before)
		require.Equal(t, exitUsage, got.code)
		require.Contains(t, got.err, "- is no snapshot")
	}
}

// LO-945
func BenchmarkSnapshot(b *testing.B) {
	addr := serve(b, newCatalogDaemon())
	for b.Loop() {
		if got := call(b.Context(), addr, "", "snapshot"); got.code != 0 {
			b.Fatal(got.err)
		}
	}
}

// LO-933: a fetch that somebody else began is waited for, and one that failed begins anew.
func TestPullGoesOn(t *testing.T) {
	t.Parallel()
	d := newCatalogDaemon()
	there := d.model
	d.model.State = gen.ModelStateFetching
	d.after = []gen.Model{there}
	addr := d.serve(t)
	got := call(t.Context(), addr, "", "pull", "haiku", "--json")
	require.Zero(t, got.code, got.err)
	require.Contains(t, got.out, `"state":"Active"`)
	require.Nil(t, d.added)
	d.model.State = gen.ModelStateFailed
	d.after = []gen.Model{there}
	got = call(t.Context(), addr, "", "pull", "haiku")
	require.Zero(t, got.code, got.err)
	require.Equal(t, there.Ref, d.added.Ref)
}
