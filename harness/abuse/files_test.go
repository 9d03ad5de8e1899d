// SPDX-License-Identifier: GPL-3.0-or-later

package abuse_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/daemon"
	"github.com/llama-orch/llama-orch/harness/process"
)

// A data folder that somebody else may have prepared makes the daemon run nothing.
// LO-813, LO-814
func TestADataFolderOfSomebodyElses(t *testing.T) {
	exe := filepath.Join(t.TempDir(), "orchestratord")
	require.NoError(t, process.Build(t.Context(), "../..", exe, "./cmd/orchestratord"))
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	require.NoError(t, err)
	// note writes a note about a worker of an earlier run.
	note := func(t *testing.T, data, more string) {
		t.Helper()
		require.NoError(t, os.Mkdir(filepath.Join(data, "run"), 0o700))
		text := fmt.Sprintf(`{"pid":1073741824,"start":1,"boot":%q,"replica_id":"p-0",%s}`, strings.TrimSpace(string(boot)), more)
		require.True(t, json.Valid([]byte(text)))
		require.NoError(t, os.WriteFile(filepath.Join(data, "run", "1.json"), []byte(text), 0o600))
	}
	for name, c := range map[string]struct {
		prepare func(t *testing.T, data, marker string)
		refused string // what the daemon says when it does not start; empty: it starts
	}{
		"a note with a command": {prepare: func(t *testing.T, data, marker string) {
			note(t, data, fmt.Sprintf(`"remove":["/bin/touch",%q]`, marker))
		}},
		"a note with a program of its own": {prepare: func(t *testing.T, data, marker string) {
			program := filepath.Join(t.TempDir(), "docker")
			require.NoError(t, os.WriteFile(program, fmt.Appendf(nil, "#!/bin/sh\n: >%q\n", marker), 0o700))
			note(t, data, fmt.Sprintf(`"container":{"runtime":%q,"name":"llama-orch-00000000-p-0"}`, program))
		}},
		"a note with somebody else's container": {prepare: func(t *testing.T, data, marker string) {
			t.Setenv("PATH", t.TempDir()+":"+os.Getenv("PATH"))
			program := filepath.Join(filepath.SplitList(os.Getenv("PATH"))[0], "docker")
			require.NoError(t, os.WriteFile(program, fmt.Appendf(nil, "#!/bin/sh\n: >%q\n", marker), 0o700))
			note(t, data, `"container":{"runtime":"docker","name":"the-database"}`)
		}},
		"a folder that all can write": {refused: "can be written by others", prepare: func(t *testing.T, data, _ string) {
			require.NoError(t, os.Chmod(data, 0o777))
		}},
		"notes that the group can write": {refused: "can be written by others", prepare: func(t *testing.T, data, marker string) {
			note(t, data, fmt.Sprintf(`"remove":["/bin/touch",%q]`, marker))
			require.NoError(t, os.Chmod(filepath.Join(data, "run", "1.json"), 0o660))
		}},
		"a record that all can write": {refused: "can be written by others", prepare: func(t *testing.T, data, _ string) {
			require.NoError(t, os.WriteFile(filepath.Join(data, "state.db"), nil, 0o600))
			require.NoError(t, os.Chmod(filepath.Join(data, "state.db"), 0o666))
		}},
		"a note that is a pipe": {refused: "is a pipe", prepare: func(t *testing.T, data, _ string) {
			require.NoError(t, os.Mkdir(filepath.Join(data, "run"), 0o700))
			require.NoError(t, syscall.Mkfifo(filepath.Join(data, "run", "1.json"), 0o600))
		}},
		"learned figures that are a pipe": {refused: "is a pipe", prepare: func(t *testing.T, data, _ string) {
			require.NoError(t, syscall.Mkfifo(filepath.Join(data, "learned-memory.json"), 0o600))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			data, marker, config := filepath.Join(dir, "state"), filepath.Join(dir, "marker"), filepath.Join(dir, "config.yaml")
			require.NoError(t, os.Mkdir(data, 0o700))
			c.prepare(t, data, marker)
			require.NoError(t, os.WriteFile(config, []byte(`
bind_addr: 127.0.0.1:0
data_dir: state
auth: {optional_on_loopback: true}
pools:
  - {id: only, model: {id: m, ref: x}, provisioning: {mode: external, urls: ["http://127.0.0.1:9"]}}
`), 0o600))
			l := process.NewLauncher()
			defer l.Close()
			d, err := daemon.Start(t.Context(), l, daemon.Options{Config: config, Options: process.Options{Exe: exe, Env: process.Env(dir, nil)}})
			if c.refused != "" {
				require.ErrorContains(t, err, "exit code 1")
				require.ErrorContains(t, err, c.refused)
			} else {
				require.NoError(t, err)
				code, err := d.Stop(syscall.SIGTERM)
				require.NoError(t, err)
				require.Zero(t, code)
				require.NoFileExists(t, filepath.Join(data, "run", "1.json"))
			}
			require.NoFileExists(t, marker)
		})
	}
}
