// SPDX-License-Identifier: GPL-3.0-or-later

package app

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/harness/client"
	"github.com/llama-orch/llama-orch/harness/fakedocker"
	"github.com/llama-orch/llama-orch/harness/process"
	"github.com/llama-orch/llama-orch/harness/standin"
	"github.com/llama-orch/llama-orch/service/config"
	"github.com/llama-orch/llama-orch/service/control"
	"github.com/llama-orch/llama-orch/service/fleet/pool"
	"github.com/llama-orch/llama-orch/service/supply/provision"
)

// preparations keeps what was prepared.
type preparations struct {
	mu   sync.Mutex
	list []provision.Prepared
}

func (r *preparations) Prepared(e provision.Prepared) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, e)
	return nil
}

func (r *preparations) Checked(string, bool) {}

func script(t *testing.T, path, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755))
}

// sourceOf makes a git repository of a llama-server that is another program.
func sourceOf(t *testing.T, program string) string {
	t.Helper()
	dir := t.TempDir()
	text := fmt.Sprintf("#include <unistd.h>\nint main(int n, char **v) { (void)n; execv(%q, v); return 127; }\n", program)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "main.c"), []byte(text), 0o600))
	for _, args := range [][]string{{"init", "--quiet"}, {"add", "."}, {"-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "--quiet", "-m", "server"}} {
		out, err := exec.Command("git", append([]string{"-C", dir}, args...)...).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	return dir
}

// A llama-server in a container and one that is built from its source serve as one that is there does: real streams of the
// bundled model go through both. The docker command, and cmake, are fakes; the C compiler is not.
//
// ORCH-3200, OC-CAT-56, ORCH-3002
func TestEnginesOfAContainerAndOfSourceServe(t *testing.T) {
	libs, err := provision.EngineLibs(t.Context(), provision.Options{})
	require.NoError(t, err)
	model, err := filepath.Abs("../../models/haiku/haiku.gguf")
	require.NoError(t, err)
	dir := t.TempDir()
	server := filepath.Join(dir, "standin")
	require.NoError(t, standin.Build(t.Context(), "../..", server))
	docker, err := fakedocker.New(dir, "docker", server)
	require.NoError(t, err)
	script(t, filepath.Join(dir, "ninja"), "exit 1")
	script(t, filepath.Join(dir, "c++"), "exit 1")
	script(t, filepath.Join(dir, "cmake"), `[ "$1" = -S ] && exec mkdir -p build/bin
exec cc -o "build/bin/$4" source/main.c`)
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))

	path := filepath.Join(dir, "c.yaml")
	args := fmt.Sprintf("[--gpu-state, %q, --load, %q, --libs, %q]", filepath.Join(dir, "none"), model, libs)
	require.NoError(t, os.WriteFile(path, fmt.Appendf(nil, `bind_addr: 127.0.0.1:0
data_dir: data
auth: {optional_on_loopback: true}
pools:
- {id: boxed, model: {id: boxed, ref: "file:%[1]s"}, device: cpu, ctx: 256, provisioning: {mode: container, image: "llama:server", args: %[2]s}}
- {id: built, model: {id: built, ref: "file:%[1]s"}, device: cpu, ctx: 256, provisioning: {mode: source, repository: %[3]q, cmake_flags: [-DTOY=1], args: %[2]s}}
- {id: plain, model: {id: plain, ref: "file:%[1]s"}, device: cpu, ctx: 256, lifecycle: on_demand, provisioning: {mode: binary, path: %[4]q, args: %[2]s}}
`, model, args, sourceOf(t, server), server), 0o600))
	c, err := config.Load(path, func(string) string { return "" })
	require.NoError(t, err)
	plans, err := control.EnginePlans(c)
	require.NoError(t, err)
	require.Equal(t, []string{"docker"}, plans[0].Tools)
	require.Empty(t, control.Missing(plans[0]))
	require.Contains(t, plans[0].String(), "source="+model+",target=/models/model.gguf,readonly")

	kept := &preparations{}
	a, err := New(Options{
		Config: c, Log: zap.NewNop(), Env: func(string) string { return "" },
		Engines: provision.Options{CacheDir: filepath.Join(dir, "cache"), Decide: provision.ByHand{}, Record: kept},
	})
	require.NoError(t, err)
	require.NoError(t, a.Start(t.Context()))
	stopped := false
	stop := func() {
		if !stopped {
			stopped = true
			ctx, end := context.WithTimeout(context.Background(), 10*time.Second)
			defer end()
			require.NoError(t, a.Stop(ctx))
		}
	}
	t.Cleanup(stop)
	for _, id := range []string{"boxed", "built"} {
		require.Eventually(t, func() bool { return a.pools.Infos(id)[0].State == pool.Ready }, 30*time.Second, 10*time.Millisecond,
			"%+v", a.pools.Infos(id)[0])
	}
	require.NotEqual(t, a.pools.Infos("boxed")[0].Fingerprint, a.pools.Infos("built")[0].Fingerprint)

	caller := client.New("http://"+a.Addr(), "")
	defer caller.Close()
	texts := map[string]string{}
	for _, id := range []string{"boxed", "built"} {
		body := fmt.Appendf(nil, `{"model_ref":%q,"prompt":"Write a haiku about rain containing \"soft\".\n\n","seed":7,"max_tokens":24}`, id)
		admitted, err := caller.Submit(t.Context(), body)
		require.NoError(t, err)
		stream, err := caller.Open(t.Context(), admitted.TaskID)
		require.NoError(t, err)
		require.NoError(t, stream.Rest())
		stream.Close()
		require.NotNil(t, stream.Log.End)
		texts[id] = stream.Log.Text()
	}
	require.NotEmpty(t, texts["boxed"])
	require.Equal(t, texts["boxed"], texts["built"], "it is one engine in two wrappings")

	require.Eventually(t, func() bool {
		kept.mu.Lock()
		defer kept.mu.Unlock()
		return slices.ContainsFunc(kept.list, func(e provision.Prepared) bool { return e.Mode == provision.Binary && e.Path == server })
	}, 30*time.Second, 10*time.Millisecond, "one that is there is in the catalog too")
	kept.mu.Lock()
	i := slices.IndexFunc(kept.list, func(e provision.Prepared) bool { return e.Mode == provision.Container })
	k := slices.IndexFunc(kept.list, func(e provision.Prepared) bool { return e.Mode == provision.Source })
	require.Equal(t, fakedocker.ImageID, kept.list[i].Digest)
	require.Regexp(t, "^[0-9a-f]{40}$", kept.list[k].BuildRef)
	require.Contains(t, kept.list[k].Flags, "-DTOY=1")
	kept.mu.Unlock()

	running, err := docker.Containers()
	require.NoError(t, err)
	require.Len(t, running, 1)
	stop()
	running, err = docker.Containers()
	require.NoError(t, err)
	require.Empty(t, running)
}

// Servers that are no engines run in containers as they do without: one that has its model's file mounted, and one that needs none. The docker command is a fake.
//
// LO-466, LO-467
func TestServersOfAnyKindRunInContainers(t *testing.T) {
	dir := t.TempDir()
	server := filepath.Join(dir, "studio")
	require.NoError(t, process.Build(t.Context(), "../..", server, "./harness/studio/cmd/studio"))
	docker, err := fakedocker.New(dir, "docker", server)
	require.NoError(t, err)
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	pencil := filepath.Join(dir, "pencil.safetensors")
	require.NoError(t, os.WriteFile(pencil, []byte("a pencil"), 0o600))
	path := filepath.Join(dir, "c.yaml")
	require.NoError(t, os.WriteFile(path, fmt.Appendf(nil, `bind_addr: 127.0.0.1:0
data_dir: data
auth: {optional_on_loopback: true}
pools:
- {id: speech, engine: command, model: {id: voice, ref: a voice}, device: cpu, memory: 64MiB, health: /well, routes: ["/v1/audio/*"], provisioning: {mode: container, image: "speech:1", args: ["--folder", %[1]q, "--host", "{host}", "--port", "{port}"]}}
- {id: drawing, engine: command, model: {id: pencil, ref: "file:%[2]s"}, device: cpu, health: /well, lifecycle: on_demand, routes: ["/v1/images/generations"], provisioning: {mode: container, image: "drawing:1", args: ["--folder", %[1]q, "--host", "{host}", "--port", "{port}", "--model", "{model}"]}}
`, dir, pencil), 0o600))
	c, err := config.Load(path, func(string) string { return "" })
	require.NoError(t, err)
	a, err := New(Options{
		Config: c, Log: zap.NewNop(), Env: func(string) string { return "" },
		Engines: provision.Options{CacheDir: filepath.Join(dir, "cache"), Decide: provision.ByHand{}, Record: &preparations{}},
	})
	require.NoError(t, err)
	require.NoError(t, a.Start(t.Context()))
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		stop(t, a)
		running, err := docker.Containers()
		require.NoError(t, err)
		require.Empty(t, running)
	})
	require.Eventually(t, func() bool { return a.pools.Infos("speech")[0].State == pool.Ready }, 30*time.Second, 10*time.Millisecond)
	for path, body := range map[string]string{"/v1/audio/speech": `{"model":"voice","input":"rain"}`, "/v1/images/generations": `{"model":"pencil","prompt":"rain"}`} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+a.Addr()+path, strings.NewReader(body))
		require.NoError(t, err)
		r.Header.Set("Content-Type", "application/json")
		answer, err := http.DefaultClient.Do(r)
		require.NoError(t, err)
		said, err := io.ReadAll(answer.Body)
		require.NoError(t, err)
		require.NoError(t, answer.Body.Close())
		require.Equal(t, http.StatusOK, answer.StatusCode, "%s", said)
		require.Contains(t, string(said), "rain")
	}
	calls, err := docker.Calls()
	require.NoError(t, err)
	mounts := map[string]string{}
	for _, call := range calls {
		if own, told, ran := strings.Cut(call, " "+fakedocker.ImageID+" "); ran {
			_, mounts[told], _ = strings.Cut(own, "--mount ")
		}
	}
	const told = " --host 0.0.0.0 --port 8080"
	require.Len(t, mounts, 2, "%q", calls)
	require.Contains(t, mounts["--folder "+dir+told+" --model /models/model.gguf"], "source="+pencil+",target=/models/model.gguf,readonly")
	require.Empty(t, mounts["--folder "+dir+told], "nothing is mounted for a server that needs no model")
}
