// SPDX-License-Identifier: GPL-3.0-or-later

package abuse_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/client"
	"github.com/llama-orch/llama-orch/harness/daemon"
	"github.com/llama-orch/llama-orch/harness/process"
	"github.com/llama-orch/llama-orch/service/supply/provision"
)

// A backup of a daemon that is at work, from which another one goes on when the first is dead and its disk is lost.
// LO-631, LO-632
func TestADaemonAtWorkIsBackedUpAndRestored(t *testing.T) {
	t.Parallel()
	libs, err := provision.LocateEngineLibs()
	require.NoError(t, err)
	exe := built(t)
	model, err := filepath.Abs("../../models/haiku/haiku.gguf")
	require.NoError(t, err)
	l := process.NewLauncher()
	t.Cleanup(l.Close)
	config := func(dir string) string {
		at := filepath.Join(dir, "config.yaml")
		require.NoError(t, os.WriteFile(at, fmt.Appendf(nil, `
bind_addr: 127.0.0.1:0
data_dir: state
auth: {optional_on_loopback: true}
sampler_profiles: {v1: {temperature: 0.8}}
pools:
  - {id: fast, model: {id: m, ref: "file:%[1]s"}, device: cpu, ctx: 256, sampler_profile: v1, provisioning: {mode: builtin}}
  - {id: slow, model: {id: m, ref: "file:%[1]s"}, device: cpu, ctx: 256, sampler_profile: v1, pace: 10, provisioning: {mode: builtin}}
`, model), 0o600))
		return at
	}
	serve := func(at string) *daemon.Daemon {
		d, err := daemon.Start(t.Context(), l, daemon.Options{Config: at, Options: process.Options{
			Exe: exe, Args: []string{"--no-self-test"}, Env: process.Env(filepath.Dir(at), map[string]string{provision.EnvEngineLibs: libs}),
		}})
		require.NoError(t, err)
		t.Cleanup(d.Kill)
		return d
	}
	run := func(want int, args ...string) string {
		p, err := l.Start(process.Options{Name: args[0], Exe: exe, Args: args, Env: process.Env(t.TempDir(), nil)})
		require.NoError(t, err)
		code, err := p.Exit()
		require.NoError(t, err)
		require.Equal(t, want, code, p.Tail(20))
		return p.Output()
	}
	submit := func(d *daemon.Daemon, id, pool string) {
		_, err := d.Client.Submit(t.Context(), fmt.Appendf(nil,
			`{"task_id":%q,"model_ref":"m","prompt":"A haiku about \"seven\".\n\n","max_tokens":24,"seed":7,"placement":{"mode":"pin","pool_id":%q}}`, id, pool))
		require.NoError(t, err)
	}
	end := func(d *daemon.Daemon, id string) *client.Stream {
		s, err := d.Client.Open(t.Context(), id)
		require.NoError(t, err)
		require.NoError(t, s.Rest())
		require.NotNil(t, s.End, "%+v", s.Fail)
		return s
	}

	first := config(t.TempDir())
	d := serve(first)
	for _, pool := range []string{"fast", "slow"} {
		_, err := d.Idle(t.Context(), pool)
		require.NoError(t, err)
	}
	stored, err := d.Client.Post(t.Context(), "/v1/artifacts", []byte(`{"kind":"plan","content":"a plan"}`), 201)
	require.NoError(t, err)
	var artifact struct{ ID string }
	require.NoError(t, json.Unmarshal(stored, &artifact))
	submit(d, "done", "fast")
	before := end(d, "done")
	var accepted []string
	for i := range 3 { // one runs, the others wait
		accepted = append(accepted, fmt.Sprint("slow-", i))
		submit(d, accepted[i], "slow")
	}
	running, err := d.Client.Open(t.Context(), "slow-0")
	require.NoError(t, err)
	for len(running.Tokens) < 2 {
		_, err := running.Next()
		require.NoError(t, err)
	}
	stop := make(chan struct{})
	var load sync.WaitGroup
	load.Go(func() { // the ledger is written to all the time, by one task behind the other: the queue never fills, however slow the machine is
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				id := fmt.Sprint("load-", i)
				submit(d, id, "fast")
				end(d, id)
			}
		}
	})
	backup := filepath.Join(t.TempDir(), "backup")
	require.Contains(t, run(0, "backup", "--config", first, backup), "Backed up to "+backup)
	close(stop)
	load.Wait()
	d.Kill()

	second := config(t.TempDir())
	data := filepath.Join(filepath.Dir(second), "state")
	require.Contains(t, run(0, "restore", "--data-dir", data, backup), "Restored to "+data)
	d = serve(second)
	after := end(d, "done")
	require.Equal(t, before.Text(), after.Text())
	require.Equal(t, before.End.Receipt, after.End.Receipt)
	for _, id := range accepted {
		require.Equal(t, before.Text(), end(d, id).Text(), "the same seed, on a replica of the same fingerprint")
	}
	content, err := d.Client.Get(t.Context(), "/v1/artifacts/"+artifact.ID+"/content")
	require.NoError(t, err)
	require.Equal(t, "a plan", string(content))
	require.Contains(t, run(1, "restore", "--config", second, backup), "another orchestratord uses the data folder")
	code, err := d.Stop(syscall.SIGTERM)
	require.NoError(t, err)
	require.Zero(t, code)
}
