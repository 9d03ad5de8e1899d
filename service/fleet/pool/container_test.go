// SPDX-License-Identifier: GPL-3.0-or-later

package pool_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/llama-orch/llama-orch/harness/fakedocker"
	"github.com/llama-orch/llama-orch/service/fleet/pool"
	"github.com/llama-orch/llama-orch/service/fleet/process"
)

// contained is a pool whose llama-server runs in a container of the fake.
func contained(t *testing.T, d fakedocker.Docker, gpus ...string) pool.Spec {
	t.Helper()
	s := plain
	s.Mode, s.Recipe = pool.Container, image
	s.Container = &process.Container{
		Argv: []string{
			d.Path, "run", "--rm", "--name", "{name}", "--env", "LLAMA_API_KEY", "--publish", "127.0.0.1:{port}:8080",
			"--mount", "type=bind,source={model},target=/models/model.gguf,readonly",
		},
		GPUs: gpus, Model: "/models/model.gguf", Port: 8080,
	}
	return s
}

// recipe is pool.Recipe.
type recipe func(context.Context) (pool.Prepared, error)

func (r recipe) Prepare(ctx context.Context) (pool.Prepared, error) { return r(ctx) }

var image recipe = func(context.Context) (pool.Prepared, error) {
	return pool.Prepared{Path: fakedocker.ImageID, Digest: fakedocker.ImageID, BuildRef: "llama:server"}, nil
}

func docker(t *testing.T) fakedocker.Docker {
	t.Helper()
	d, err := fakedocker.New(t.TempDir(), "docker", os.Args[0], asServer)
	require.NoError(t, err)
	return d
}

func container(t *testing.T, d fakedocker.Docker) (name string, pid int) {
	t.Helper()
	names, err := d.Containers()
	require.NoError(t, err)
	require.Len(t, names, 1)
	pid, err = d.PID(names[0])
	require.NoError(t, err)
	return names[0], pid
}

// ORCH-3200, ORCH-3002
func TestAContainerServesAndEndsWithItsReplica(t *testing.T) {
	d := docker(t)
	b := setup(t, func(b *bundle, o *pool.Options) {
		o.Specs[0].ModelPath = b.model(child{})
	}, contained(t, d))
	info := b.await("p", is(pool.Ready))
	require.NotEmpty(t, info.Fingerprint)
	name, pid := container(t, d)
	require.Regexp(t, `^llama-orch-[0-9a-f]{8}-p-0$`, name)
	calls, err := d.Calls()
	require.NoError(t, err)
	require.Len(t, calls, 2)
	require.Equal(t, "rm --force "+name, calls[0], "one that was left over would hold the name")
	require.Regexp(t, `^run --rm --name \S+ --env LLAMA_API_KEY --publish 127.0.0.1:\d+:8080 --mount type=bind,source=\S+,target=/models/model.gguf,readonly `+
		fakedocker.ImageID+` -m /models/model.gguf --parallel 1 -t 1 .* --host 0.0.0.0 --port 8080 .* -c 256 --device none -ngl 0$`, calls[1])
	require.NotContains(t, calls[1], "LLAMA_API_KEY=", "the key is on no command line")

	// The command line is killed; the container is no child of it.
	first := pidfd(t, pid)
	require.NoError(t, unix.Kill(info.PID, unix.SIGKILL))
	gone(t, first)
	b.await("p", func(i pool.Info) bool { return i.State == pool.Ready && i.Restarts == 1 })
	_, pid = container(t, d)
	second := pidfd(t, pid)
	require.NoError(t, b.m.Stop(t.Context()))
	gone(t, second)
	names, err := d.Containers()
	require.NoError(t, err)
	require.Empty(t, names)
}

// ORCH-3200, ORCH-3052
func TestAContainerGetsItsCards(t *testing.T) {
	for runtime, c := range map[string]struct {
		gpus   []string
		device string
		says   string
	}{
		"docker": {[]string{"--gpus", `"device={cards}"`}, "1,0", ` --gpus "device=1,0" ` + fakedocker.ImageID},
		"podman": {[]string{"--device", "nvidia.com/gpu={card}"}, "1,0", " --device nvidia.com/gpu=1 --device nvidia.com/gpu=0 " + fakedocker.ImageID},
		"cpu":    {[]string{"--gpus", `"device={cards}"`}, "cpu", ",readonly " + fakedocker.ImageID},
	} {
		t.Run(runtime, func(t *testing.T) {
			d := docker(t)
			spec := contained(t, d, c.gpus...)
			if spec.Device = c.device; c.device != "cpu" {
				spec.TensorSplit = []float64{3, 1}
			}
			memory := newCards(t, 24*gib, 12*gib)
			b := setup(t, func(b *bundle, o *pool.Options) {
				o.VRAM, o.Specs[0].ModelPath = memory, b.model(child{})
			}, spec)
			b.await("p", is(pool.Ready))
			calls, err := d.Calls()
			require.NoError(t, err)
			require.Contains(t, calls[1], c.says)
		})
	}
}

// ORCH-3200, ORCH-3001
func TestAContainerOfAKilledDaemonIsRemoved(t *testing.T) {
	d := docker(t)
	t.Setenv("PATH", filepath.Dir(d.Path)+":"+os.Getenv("PATH"))
	dir := t.TempDir()
	name := process.New(process.Options{RunDir: dir}).ContainerName("p-0")
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	require.NoError(t, err)
	note, err := json.Marshal(map[string]any{
		"pid": 1 << 30, "start": 1, "boot": strings.TrimSpace(string(boot)), "replica_id": "p-0",
		"container": map[string]string{"runtime": "docker", "name": name},
	})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "1.json"), note, 0o600))
	m, err := pool.New(pool.Options{RunDir: dir})
	require.NoError(t, err)
	require.NoError(t, m.Start(t.Context()))
	require.NoError(t, m.Stop(t.Context()))
	calls, err := d.Calls()
	require.NoError(t, err)
	require.Equal(t, []string{"rm --force " + name}, calls)
}

// ORCH-3200, LO-205
func TestAnEngineIsPreparedBeforeItsWorker(t *testing.T) {
	prints := map[string]bool{}
	for _, made := range []pool.Prepared{
		{Path: os.Args[0], BuildRef: "abc", Flags: []string{"-DA=1"}},
		{Path: os.Args[0], BuildRef: "abc", Flags: []string{"-DA=2"}},
		{Path: os.Args[0], BuildRef: "def", Flags: []string{"-DA=1"}},
	} {
		spec := plain
		spec.Mode, spec.BinaryArgs = pool.Binary, []string{asServer}
		spec.Recipe = recipe(func(context.Context) (pool.Prepared, error) { return made, nil })
		b := setup(t, func(b *bundle, o *pool.Options) { o.Specs[0].ModelPath = b.model(child{}) }, spec)
		prints[b.await("p", is(pool.Ready)).Fingerprint] = true
	}
	require.Len(t, prints, 3, "what an engine was built from can change bytes")

	spec := plain
	spec.Mode, spec.Recipe = pool.Binary, recipe(func(context.Context) (pool.Prepared, error) {
		return pool.Prepared{}, errors.New("missing on this machine: cmake")
	})
	b := setup(t, func(b *bundle, o *pool.Options) { o.Specs[0].ModelPath = b.model(child{}) }, spec)
	info := b.await("p", is(pool.Failed))
	require.Contains(t, info.LastError, "the engine could not be prepared")
	require.Contains(t, info.LastError, "missing on this machine: cmake")

	// A stop does not wait for a build.
	spec.Recipe = recipe(func(ctx context.Context) (pool.Prepared, error) {
		<-ctx.Done()
		return pool.Prepared{}, context.Cause(ctx)
	})
	slow := setup(t, func(b *bundle, o *pool.Options) { o.Specs[0].ModelPath = b.model(child{}) }, spec)
	slow.await("p", is(pool.Provisioning))
	require.NoError(t, slow.m.Stop(t.Context()))
}
