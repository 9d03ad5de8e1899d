// SPDX-License-Identifier: GPL-3.0-or-later

package abuse_test

import (
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/llama-orch/llama-orch/harness/daemon"
	"github.com/llama-orch/llama-orch/harness/fakeengine"
	"github.com/llama-orch/llama-orch/harness/process"
	"github.com/llama-orch/llama-orch/harness/watch"
	"github.com/llama-orch/llama-orch/service/supply/provision"
)

// limited is a program that runs the daemon with so many files.
func limited(t *testing.T, exe string, files int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "limited")
	require.NoError(t, os.WriteFile(path, fmt.Appendf(nil, "#!/bin/sh\nulimit -n %d && exec %q \"$@\"\n", files, exe), 0o700))
	return path
}

// exhaust takes all descriptors that the daemon could still open, and returns what gives them back.
func exhaust(t *testing.T, d *daemon.Daemon) (restore func()) {
	t.Helper()
	var before unix.Rlimit
	require.NoError(t, unix.Prlimit(d.Pid(), unix.RLIMIT_NOFILE, nil, &before))
	none := before
	none.Cur = 3
	require.NoError(t, unix.Prlimit(d.Pid(), unix.RLIMIT_NOFILE, &none, nil))
	return func() { require.NoError(t, unix.Prlimit(d.Pid(), unix.RLIMIT_NOFILE, &before, nil)) }
}

// For longer than three checks of health the daemon can open nothing. The workers are the same ones afterwards, and the task that came
// meanwhile is done.
// LO-839
func TestADaemonWithoutDescriptors(t *testing.T) {
	t.Parallel()
	libs, err := provision.LocateEngineLibs()
	require.NoError(t, err)
	engine := fakeengine.New(fakeengine.Options{Slots: 4})
	fake := httptest.NewServer(engine)
	t.Cleanup(fake.Close)
	d, _ := serveWith(t, built(t), fmt.Sprintf(`
  - {id: only, model: {id: m, ref: "file:%s"}, device: cpu, ctx: 256, sampler_profile: v1, provisioning: {mode: builtin}}
  - {id: other, model: {id: x, ref: x}, sampler_profile: v1, provisioning: {mode: external, urls: ["%s"]}}
`, haiku(t), fake.URL), map[string]string{provision.EnvEngineLibs: libs})
	for _, id := range []string{"only", "other"} {
		_, err := d.Idle(t.Context(), id)
		require.NoError(t, err)
	}
	workers := d.Workers()
	require.Len(t, workers, 1)
	restore := exhaust(t, d)
	var ids []string
	for _, model := range []string{"m", "x"} { // over the connection that the client has already
		admitted, err := d.Client.Submit(t.Context(), fmt.Appendf(nil, `{"model_ref":%q,"workload":"completion","prompt":"a b c","max_tokens":4}`, model))
		if err == nil { // it is let in, or refused as retriable because its prompt cannot be counted
			ids = append(ids, admitted.TaskID)
		}
	}
	time.Sleep(17 * time.Second) // more than three checks; nothing is waited for
	restore()
	require.NoError(t, watch.Poll(t.Context(), "service", func() error {
		for _, id := range []string{"only", "other"} {
			replicas, err := d.Replicas(t.Context(), id)
			if err != nil {
				return err
			}
			if replicas[0].State != "ready" {
				return fmt.Errorf("replica %s is %s: %s", replicas[0].ID, replicas[0].State, replicas[0].LastError)
			}
		}
		return nil
	}))
	for _, id := range ids {
		s, err := d.Client.Open(t.Context(), id)
		require.NoError(t, err)
		require.NoError(t, s.Rest())
		require.NotNil(t, s.End, "%+v", s.Fail)
	}
	finishes(t, d)
	require.Equal(t, workers, d.Workers(), "no worker was ended")
	metrics, err := d.Client.Get(t.Context(), "/metrics")
	require.NoError(t, err)
	for line := range strings.Lines(string(metrics)) {
		if strings.HasPrefix(line, "llorch_worker_restarts_total{") {
			require.True(t, strings.HasSuffix(strings.TrimSpace(line), " 0"), line)
		}
	}
}

// How many files the daemon may open, and whether it works with that, though somebody opens 100 connections and says nothing.
// LO-839
func TestALowLimitOfFiles(t *testing.T) {
	t.Parallel()
	libs, err := provision.LocateEngineLibs()
	require.NoError(t, err)
	exe := built(t)
	for files, refused := range map[int]bool{16: true, 32: true, 64: false, 128: false} {
		t.Run(fmt.Sprint(files), func(t *testing.T) {
			dir := t.TempDir()
			config := filepath.Join(dir, "config.yaml")
			require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, `
bind_addr: 127.0.0.1:0
data_dir: state
auth: {optional_on_loopback: true}
pools:
  - {id: only, model: {id: m, ref: "file:%s"}, device: cpu, ctx: 256, replicas: 2, provisioning: {mode: builtin}}
`, haiku(t)), 0o600))
			l := process.NewLauncher()
			t.Cleanup(l.Close)
			d, err := daemon.Start(t.Context(), l, daemon.Options{Config: config, Options: process.Options{
				Exe: limited(t, exe, files), Args: []string{"--no-self-test"}, Env: process.Env(dir, map[string]string{provision.EnvEngineLibs: libs}),
			}})
			if refused {
				require.ErrorContains(t, err, "exit code 2")
				require.ErrorContains(t, err, fmt.Sprintf("may open %d files", files))
				require.ErrorContains(t, err, "ulimit -n 4096")
				return
			}
			require.NoError(t, err)
			t.Cleanup(d.Kill)
			replicas, err := d.Idle(t.Context(), "only")
			require.NoError(t, err)
			require.Len(t, replicas, 2)
			workers := daemon.Workers(exe)
			require.Len(t, workers, 2)
			var open []net.Conn
			for range 100 {
				c, err := net.Dial("tcp", strings.TrimPrefix(d.URL, "http://"))
				require.NoError(t, err)
				open = append(open, c)
			}
			time.Sleep(11 * time.Second) // two checks of health; nothing is waited for
			for _, c := range open {
				_ = c.Close()
			}
			finishes(t, d)
			require.Equal(t, workers, daemon.Workers(exe), "no worker was ended")
		})
	}
}
