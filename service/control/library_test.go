// SPDX-License-Identifier: GPL-3.0-or-later

package control

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/config"
	"github.com/llama-orch/llama-orch/service/front/ollama"
	"github.com/llama-orch/llama-orch/service/task"
)

var _ ollama.Library = (*Library)(nil)

// haikus puts copies of the bundled model into a folder, and returns their paths.
func haikus(t *testing.T, names ...string) (paths []string) {
	bytes, err := os.ReadFile("../../models/haiku/haiku.gguf")
	require.NoError(t, err)
	dir := t.TempDir()
	for _, name := range names {
		paths = append(paths, filepath.Join(dir, name))
		require.NoError(t, os.WriteFile(paths[len(paths)-1], bytes, 0o600))
	}
	return paths
}

// onFile is the pool b, which loads a model of this machine when a task needs it. Its engine cannot be started here.
func onFile(path string) string {
	return "  - {id: b, model: {id: m-b, ref: \"file:" + path + "\"}, device: cpu, lifecycle: on_demand, provisioning: {mode: binary, path: ./no-such-server}}\n"
}

// LO-425: what is known of models: from their pools, their files, and the catalog; by all their names.
func TestTheLibraryShowsModels(t *testing.T) {
	_, url := engineOf(t)
	own := haikus(t, "own.gguf")[0]
	at, err := os.Stat(own)
	require.NoError(t, err)
	o := operate(t, external("a", url), onFile(own))
	o.readies("a")
	live := o.operator.config()
	live.Aliases = map[string]config.Alias{"gpt-4o": {Model: "m-a"}, "*": {Model: "m-b"}}
	o.operator.Setup.now.Store(&live)
	l := NewLibrary(o.operator, time.Unix(9, 0))

	list := l.Models(t.Context())
	require.Len(t, list, 3)
	a, b, alias := list[0], list[1], list[2]
	require.Equal(t, "m-a", a.Name)
	require.Len(t, a.Digest, 64, "of its ref, since nobody knows its bytes")
	require.Positive(t, a.Ctx)
	require.Zero(t, a.Running.Until, "it stays")
	require.Equal(t, time.Unix(9, 0), a.Modified)
	require.Equal(t, "m-b", b.Name)
	require.Nil(t, b.Running)
	require.Equal(t, "llama", b.Architecture)
	require.Equal(t, "F16", b.Quantisation)
	require.Equal(t, at.Size(), b.Size)
	require.Equal(t, 256, b.Ctx)
	require.Equal(t, b, l.Models(t.Context())[1], "the file is not read again")
	require.Equal(t, "gpt-4o", alias.Name)
	require.True(t, alias.Alias)
	require.Equal(t, a.Digest, alias.Digest)

	d, err := l.Show(t.Context(), "gpt-4o")
	require.NoError(t, err)
	require.Equal(t, "m-a", d.Name)
	require.Empty(t, d.Settings)
	d, err = l.Show(t.Context(), "whatever") // the alias * stands for it
	require.NoError(t, err)
	require.Equal(t, "m-b", d.Name)
	require.NotEmpty(t, d.Template)
	require.EqualValues(t, 4, d.Settings["llama.block_count"])
	require.Equal(t, "default", d.Sampling.Profile)

	// A file that changes is read anew; one that is none is not known.
	require.NoError(t, os.WriteFile(own, []byte("none"), 0o600))
	require.Empty(t, l.Models(t.Context())[1].Architecture)
	require.Empty(t, l.files.known)
	d, err = l.Show(t.Context(), "m-b")
	require.NoError(t, err)
	require.Empty(t, d.Template)

	live.Aliases = nil
	o.operator.Setup.now.Store(&live)
	_, err = l.Show(t.Context(), "whatever")
	require.True(t, task.HasCode(err, task.ModelNotFound), "%v", err)
}

// LO-425: a model is pulled, shown, and deleted; a name that a pool has is pulled already, and is not deleted.
func TestTheLibraryPullsAndDeletes(t *testing.T) {
	_, url := engineOf(t)
	files := haikus(t, "own.gguf", "other.gguf")
	o := operate(t, external("a", url), onFile(files[0])) // so that its folder may be used
	l := NewLibrary(o.operator, time.Now())
	f, err := l.Pull(t.Context(), "m-a", time.Minute)
	require.NoError(t, err)
	require.Equal(t, ollama.Fetch{ID: "m-a", Over: true}, f)
	for range 2 { // the second finds it there
		f, err = l.Pull(t.Context(), "file:"+files[1], time.Minute)
		require.NoError(t, err)
		require.True(t, f.Over)
		require.Contains(t, f.Digest, "sha256:")
	}
	_, err = l.Pull(t.Context(), "llama3.2", 0)
	require.True(t, task.HasCode(err, task.ModelNotFound), "%v", err)
	require.ErrorContains(t, err, "hf:ORG/REPO")
	_, err = l.Pull(t.Context(), "ftp://x/y", 0)
	require.True(t, task.HasCode(err, task.InvalidParams), "%v", err)

	d, err := l.Show(t.Context(), f.ID)
	require.NoError(t, err)
	require.Equal(t, "llama", d.Architecture)
	require.Equal(t, 256, d.Ctx)
	require.NoError(t, l.Delete(t.Context(), f.ID))
	_, err = l.Show(t.Context(), f.ID)
	require.True(t, task.HasCode(err, task.ModelNotFound), "%v", err)
	err = l.Delete(t.Context(), f.ID)
	require.True(t, task.HasCode(err, task.ModelNotFound), "%v", err)
	err = l.Delete(t.Context(), "m-a")
	require.True(t, task.HasCode(err, task.Conflict), "%v", err)
	_, err = l.Fetched(t.Context(), f.ID, time.Millisecond)
	require.True(t, task.HasCode(err, task.NotFound), "%v", err)
}

// LO-425: a load ends when the model can answer, when it cannot be loaded, and when its time is over. Only on-demand pools are unloaded.
func TestTheLibraryLoadsAndUnloads(t *testing.T) {
	_, url := engineOf(t)
	o := operate(t, external("a", url), onFile(haikus(t, "own.gguf")[0])) // the worker of b cannot be started in this test
	o.readies("a")
	l := NewLibrary(o.operator, time.Now())
	require.NoError(t, l.Load(t.Context(), "m-a"))
	err := l.Load(t.Context(), "m-b")
	e := task.AsError(err)
	require.Contains(t, []task.Code{task.PoolUnready, task.PoolUnavailable}, e.Code, "%v", err)
	require.Equal(t, "b", e.PoolID)
	over, stop := context.WithCancel(t.Context())
	stop()
	require.True(t, task.HasCode(l.loaded(over, o.operator.config().Pools[1]), e.Code))
	require.NoError(t, l.Unload(t.Context(), "m-b"))
	err = l.Unload(t.Context(), "m-a")
	require.True(t, task.HasCode(err, task.Conflict), "%v", err)
	for _, call := range []func(context.Context, string) error{l.Load, l.Unload} {
		require.True(t, task.HasCode(call(t.Context(), "nobody"), task.ModelNotFound))
	}
	_, err = o.operator.Drain(t.Context(), "a", 0)
	require.NoError(t, err)
	o.soon(func() bool { return o.stands("a") == task.PoolDrained })
	require.True(t, task.HasCode(l.Load(t.Context(), "m-a"), task.PoolUnready))
}

// LO-425: two pools of one model are one model.
func TestTwoPoolsOfAModel(t *testing.T) {
	soon, later := time.Unix(1, 0), time.Unix(2, 0)
	a := ollama.Model{Name: "m", Ctx: 5, Features: []task.Feature{task.FeatureTools, task.FeatureImages}, Running: &ollama.Running{Bytes: 1, VRAM: 1, Until: soon}}
	b := ollama.Model{Name: "m", Ctx: 9, Features: []task.Feature{task.FeatureImages}, Running: &ollama.Running{Bytes: 2, Until: later}}
	require.Equal(t, ollama.Model{
		Name: "m", Ctx: 9, Features: []task.Feature{task.FeatureImages}, Running: &ollama.Running{Bytes: 3, VRAM: 1, Until: later},
	}, both(a, b))
	require.Equal(t, &ollama.Running{Bytes: 2}, both(ollama.Model{}, ollama.Model{Running: &ollama.Running{Bytes: 2}}).Running)
	b.Running = &ollama.Running{Bytes: 1}
	require.Zero(t, both(a, b).Running.Until, "one of them stays")
}
