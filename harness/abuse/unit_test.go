// SPDX-License-Identifier: GPL-3.0-or-later

package abuse_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/daemon"
	"github.com/llama-orch/llama-orch/harness/process"
)

// A daemon as systemd has it: it hears of the start, of each reload, that the daemon is alive, and of the stop. Its pool has an engine that never answers,
// which is no reason not to be alive.
// LO-634, LO-635
func TestSystemdIsToldHowTheDaemonIs(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "s"), Net: "unixgram"})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, socket.Close()) })
	next := func() string {
		b := make([]byte, 256)
		n, err := socket.Read(b)
		require.NoError(t, err)
		word, _, _ := strings.Cut(string(b[:n]), "\n")
		return word
	}
	silent, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0") // it takes connections, and nobody reads them
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, silent.Close()) })
	config := filepath.Join(dir, "config.yaml")
	require.NoError(t, os.WriteFile(config, []byte("bind_addr: 127.0.0.1:0\ndata_dir: state\nauth: {optional_on_loopback: true}\n"+
		"pools:\n  - {id: dead, model: {id: m, ref: elsewhere}, provisioning: {mode: external, urls: ['http://"+silent.Addr().String()+"']}}\n"), 0o600))
	l := process.NewLauncher()
	t.Cleanup(l.Close)
	d, err := daemon.Start(t.Context(), l, daemon.Options{Config: config, Options: process.Options{Exe: built(t), Args: []string{"--no-self-test"}, Env: process.Env(dir, map[string]string{
		"NOTIFY_SOCKET": filepath.Join(dir, "s"), "WATCHDOG_USEC": "400000",
	})}})
	require.NoError(t, err)
	t.Cleanup(d.Kill)
	require.Equal(t, "READY=1", next())
	_, err = d.Client.Get(t.Context(), "/healthz")
	require.NoError(t, err)
	for range 3 {
		require.Equal(t, "WATCHDOG=1", next())
	}
	require.NoError(t, d.Signal(syscall.SIGHUP))
	var told []string
	for len(told) < 2 {
		if word := next(); word != "WATCHDOG=1" {
			told = append(told, word)
		}
	}
	require.Equal(t, []string{"RELOADING=1", "READY=1"}, told)
	code, err := d.Stop(syscall.SIGTERM)
	require.NoError(t, err)
	require.Zero(t, code)
	word := next()
	for word == "WATCHDOG=1" {
		word = next()
	}
	require.Equal(t, "STOPPING=1", word)
}
