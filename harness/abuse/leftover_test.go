// SPDX-License-Identifier: GPL-3.0-or-later

package abuse_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/daemon"
	"github.com/llama-orch/llama-orch/harness/process"
	"github.com/llama-orch/llama-orch/harness/standin"
	"github.com/llama-orch/llama-orch/harness/watch"
	"github.com/llama-orch/llama-orch/service/supply/provision"
)

// How an engine is started by a script, and that nothing of it is left soon after a kill -9 of the daemon.
// LO-838
func TestAnEngineBehindAScript(t *testing.T) {
	exe := built(t)
	libs, err := provision.LocateEngineLibs()
	require.NoError(t, err)
	engine, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	engine = filepath.Join(engine, "engine")
	require.NoError(t, standin.Build(t.Context(), "../..", engine))
	// The engine's own standard input stays open, as that of one which does not look at it.
	for name, script := range map[string]string{
		"it waits for the engine":          `tail -f /dev/null | "$engine" "$@" & wait`,
		"it gives it a session of its own": `tail -f /dev/null | setsid "$engine" "$@" & wait`,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			wrapper := filepath.Join(dir, "wrapper")
			require.NoError(t, os.WriteFile(wrapper, fmt.Appendf(nil, "#!/bin/sh\nengine=%q\n%s\n", engine, script), 0o700))
			args, err := json.Marshal(standin.Args(filepath.Join(dir, "cards"), haiku(t), libs))
			require.NoError(t, err)
			d, _ := serveWith(t, exe, fmt.Sprintf(`
  - {id: only, model: {id: m, ref: "file:%s"}, device: cpu, ctx: 256, sampler_profile: v1, provisioning: {mode: binary, path: %q, args: %s}}
`, haiku(t), wrapper, args), nil)
			_, err = d.Idle(t.Context(), "only")
			require.NoError(t, err)
			finishes(t, d)
			require.Len(t, daemon.Running(engine), 1)
			d.Kill()
			require.NoError(t, watch.Poll(t.Context(), "the end of the engine", func() error {
				if left := daemon.Running(engine); len(left) > 0 {
					return fmt.Errorf("%v are there", left)
				}
				if left := daemon.Running(exe); len(left) > 0 {
					return errors.New("the guardian is there")
				}
				return nil
			}))
		})
	}
}

// What somebody removes from the data folder of a daemon that runs, before starting a second one: that one is refused, and ends nothing.
// LO-838
func TestASecondDaemonInOneFolder(t *testing.T) {
	exe := built(t)
	libs, err := provision.LocateEngineLibs()
	require.NoError(t, err)
	for name, removed := range map[string][]string{
		"nothing":                  {},
		"the locks":                {"lock", "run/lock"},
		"the locks and the record": {"lock", "run/lock", "state.db", "state.db-wal", "state.db-shm"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			config := filepath.Join(dir, "config.yaml")
			require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, `
bind_addr: 127.0.0.1:0
data_dir: state
auth: {optional_on_loopback: true}
pools:
  - {id: only, model: {id: m, ref: "file:%s"}, device: cpu, ctx: 256, provisioning: {mode: builtin}}
`, haiku(t)), 0o600))
			l := process.NewLauncher()
			t.Cleanup(l.Close)
			o := daemon.Options{Config: config, Options: process.Options{
				Exe: exe, Args: []string{"--no-self-test"}, Env: process.Env(dir, map[string]string{provision.EnvEngineLibs: libs}),
			}}
			d, err := daemon.Start(t.Context(), l, o)
			require.NoError(t, err)
			t.Cleanup(d.Kill)
			_, err = d.Idle(t.Context(), "only")
			require.NoError(t, err)
			workers := d.Workers()
			require.Len(t, workers, 1)
			for _, file := range removed {
				require.NoError(t, os.Remove(filepath.Join(dir, "state", file)))
			}
			_, err = daemon.Start(t.Context(), l, o)
			require.ErrorContains(t, err, "exit code 1")
			require.ErrorContains(t, err, "another orchestratord")
			require.Equal(t, workers, d.Workers())
			code, err := d.Stop(syscall.SIGTERM)
			require.NoError(t, err)
			if len(removed) <= 2 {
				require.Zero(t, code)
			}
		})
	}
}
