// SPDX-License-Identifier: GPL-3.0-or-later

package process

import (
	"crypto/rand"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// hold opens a process, so that its pid means nobody else afterwards.
func hold(t *testing.T, pid int) (fd int) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) // where the test has failed
		require.NoError(t, unix.Close(fd))
	})
	return fd
}

func ended(t *testing.T, fd int, within time.Duration) bool {
	t.Helper()
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(within.Milliseconds()))
	require.NoError(t, err)
	return n > 0
}

// LO-838: what has left the group of a foreign program ends with it
func TestWhatAForeignProcessStartedEndsWithIt(t *testing.T) {
	l := started(t, t.TempDir())
	c := shell(`setsid sh -c 'echo "{\"listening\":\"$$\"}"; exec sleep 1000' & wait`)
	c.Foreign = true
	p, err := l.Spawn(c, func() {}, zap.NewNop())
	require.NoError(t, err)
	child, err := strconv.Atoi(<-p.Announced())
	require.NoError(t, err)
	fd := hold(t, child)
	p.End(t.Context(), 0)
	require.True(t, ended(t, fd, 10*time.Second))
}

// LO-838: so does one that is always about to run another program, and shows no environment then.
func TestWhatRunsOneProgramAfterAnotherEndsToo(t *testing.T) {
	l := started(t, t.TempDir())
	again := filepath.Join(t.TempDir(), "again")
	require.NoError(t, os.WriteFile(again, []byte("#!/bin/sh\nexec \"$0\"\n"), 0o700))
	for range 20 {
		c := shell(`setsid sh -c 'echo "{\"listening\":\"$$\"}"; exec ` + again + `' & wait`)
		c.Foreign = true
		p, err := l.Spawn(c, func() {}, zap.NewNop())
		require.NoError(t, err)
		child, err := strconv.Atoi(<-p.Announced())
		require.NoError(t, err)
		fd := hold(t, child)
		p.End(t.Context(), 0)
		require.True(t, ended(t, fd, 10*time.Second))
	}
}

// orphan leaves a process whose leader has ended, and returns the leader's pid and the process.
func orphan(t *testing.T, mark string) (leader, child, fd int) {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", `sleep 1000 >/dev/null 2>&1 & echo $!`)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), envMark + "=" + mark}
	out, err := cmd.Output()
	require.NoError(t, err)
	child, err = strconv.Atoi(strings.TrimSpace(string(out)))
	require.NoError(t, err)
	return cmd.Process.Pid, child, hold(t, child)
}

// write writes a note as another run of the daemon would.
func write(t *testing.T, dir string, l leftover) {
	t.Helper()
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	require.NoError(t, err)
	l.Boot, l.Replica = strings.TrimSpace(string(boot)), "p-0"
	text, err := json.Marshal(l)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, strconv.Itoa(l.PID)+".json"), text, 0o600))
}

// LO-838: the next start ends what a wrapper has started, though the wrapper is gone, and nothing of anybody else's
func TestTheNextStartEndsWhatAWrapperLeft(t *testing.T) {
	dir := t.TempDir()
	life := rand.Text()
	leader, _, left := orphan(t, life+".1")
	_, _, others := orphan(t, life+".12")
	write(t, dir, leftover{origin: origin{leader, 1}, Mark: life + ".1"})
	started(t, dir)
	require.True(t, ended(t, left, 10*time.Second))
	require.False(t, ended(t, others, 0), "another mark that begins alike")
	names, err := filepath.Glob(filepath.Join(dir, "*.json"))
	require.NoError(t, err)
	require.Empty(t, names)
}

// LO-814, LO-838: a mark is of the form that the daemon gives it, or counts for nothing
func TestAForeignMarkEndsNothing(t *testing.T) {
	for _, mark := range []string{"A", ".", "1", "home", strings.Repeat("A", 26), strings.Repeat("A", 26) + ".x"} {
		dir := t.TempDir()
		leader, _, fd := orphan(t, mark)
		write(t, dir, leftover{origin: origin{leader, 1}, Mark: mark})
		started(t, dir)
		require.False(t, ended(t, fd, 0), mark)
	}
}

// LO-838: where another daemon runs by the folder, whose locks somebody has removed, nothing is ended
func TestTheWorkersOfALivingDaemonStay(t *testing.T) {
	dir := t.TempDir()
	mark := rand.Text() + ".1"
	leader, _, left := orphan(t, mark)
	_, daemon, fd := orphan(t, "")
	start, err := startTime(daemon)
	require.NoError(t, err)
	write(t, dir, leftover{origin: origin{leader, 1}, Mark: mark, Daemon: &origin{daemon, start}})
	l := New(Options{RunDir: dir})
	require.ErrorContains(t, l.Start(t.Context()), "another orchestratord, with the pid "+strconv.Itoa(daemon))
	require.NoError(t, l.Stop(t.Context()))
	require.False(t, ended(t, left, 0))

	require.NoError(t, unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0))
	require.True(t, ended(t, fd, 10*time.Second))
	started(t, dir)
	require.True(t, ended(t, left, 10*time.Second))
}

// LO-838
func TestAGuardianEndsWhatItsDaemonLeft(t *testing.T) {
	life := rand.Text()
	_, _, one := orphan(t, life+".1")
	_, _, two := orphan(t, life+".22")
	_, _, others := orphan(t, rand.Text()+".1")
	require.NoError(t, Guard(strings.NewReader(life+".\nwhatever follows")))
	require.True(t, ended(t, one, 10*time.Second))
	require.True(t, ended(t, two, 10*time.Second))
	require.False(t, ended(t, others, 0))
	for _, said := range []string{"", "\n", "A.\n", life + "\n", life + "."} {
		require.Error(t, Guard(strings.NewReader(said)), "%q", said)
	}
}
