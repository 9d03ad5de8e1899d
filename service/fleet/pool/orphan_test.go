// SPDX-License-Identifier: GPL-3.0-or-later

package pool_test

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/fleet/pool"
)

// ORCH-3001, LO-202
func TestNoWorkerOutlivesAKilledDaemon(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "plain"), []byte(`{}`), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "stubborn"), []byte(`{"ignore_stdin":true}`), 0o600))
	daemon := command("daemon", dir, os.Args[0])
	daemon.Stderr = os.Stderr
	out, err := daemon.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, daemon.Start())
	var pids []int
	require.NoError(t, json.NewDecoder(out).Decode(&pids))
	require.Len(t, pids, 2)
	workers := []int{pidfd(t, pids[0]), pidfd(t, pids[1])}
	require.NoError(t, daemon.Process.Kill())
	require.Error(t, daemon.Wait())
	for _, fd := range workers {
		gone(t, fd)
	}
}

// ORCH-3001
func TestLeftOversAreReapedAndStrangersAreNot(t *testing.T) {
	start := func() (pid int, stdin io.Closer, wait func() error) {
		stubborn := filepath.Join(t.TempDir(), "model")
		require.NoError(t, os.WriteFile(stubborn, []byte(`{}`), 0o600))
		cmd := command("worker", "--model", stubborn)
		in, err := cmd.StdinPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		return cmd.Process.Pid, in, cmd.Wait
	}
	left, _, leftWait := start()
	stranger, strangerIn, strangerWait := start()

	dir := t.TempDir()
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	require.NoError(t, err)
	note := func(pid int, ticks, name, boot string) {
		text := fmt.Sprintf(`{"pid":%d,"start":%s,"boot":%q,"replica_id":"p-0"}`, pid, ticks, boot)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	thisBoot := strings.TrimSpace(string(boot))
	note(left, startTicks(t, left), "1.json", thisBoot)
	note(stranger, "12345", "2.json", thisBoot)
	note(stranger, startTicks(t, stranger), "3.json", "another boot")
	note(1, startTicks(t, 1), "4.json", thisBoot)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "5.json"), []byte(`{`), 0o600))

	options := pool.Options{RunDir: dir}
	m, err := pool.New(options)
	require.NoError(t, err)
	require.NoError(t, m.Start(t.Context()))
	other, err := pool.New(options)
	require.NoError(t, err)
	require.ErrorContains(t, other.Start(t.Context()), "another orchestratord")
	require.NoError(t, m.Stop(t.Context()))

	require.ErrorContains(t, leftWait(), "signal: killed")
	names, err := filepath.Glob(filepath.Join(dir, "*.json"))
	require.NoError(t, err)
	require.Empty(t, names)
	require.NoError(t, strangerIn.Close()) // and so it ends by itself
	require.NoError(t, strangerWait())
}

// startTicks reads a start time the long way round.
func startTicks(t *testing.T, pid int) string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	require.NoError(t, err)
	_, rest, ok := strings.Cut(string(data), ") ")
	require.True(t, ok)
	return strings.Fields(rest)[19]
}
