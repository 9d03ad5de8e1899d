// SPDX-License-Identifier: GPL-3.0-or-later

package chaos

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/llama-orch/llama-orch/harness/daemon"
)

func TestMain(m *testing.M) {
	if code, ran := asMounter(); ran {
		os.Exit(code)
	}
	goleak.VerifyTestMain(m)
}

// envMounter marks the process that asMounter has made.
const envMounter = "LLORCH_CHAOS_MOUNTER"

// asMounter runs these tests in namespaces of their own, as the same user, where that lets them mount a disk and they may not as they are. Without root this is
// how a disk can be filled.
func asMounter() (code int, ran bool) {
	if os.Getenv(envMounter) != "" || mayMount() {
		return 0, false
	}
	runtime.LockOSThread() // the child ends with the thread
	const capSysAdmin = 21
	self := exec.Command("/proc/self/exe", os.Args[1:]...)
	self.Env = append(os.Environ(), envMounter+"=1")
	self.Stdin, self.Stdout, self.Stderr = os.Stdin, os.Stdout, os.Stderr
	self.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS, AmbientCaps: []uintptr{capSysAdmin}, Pdeathsig: syscall.SIGKILL,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getuid(), HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}},
	}
	if self.Start() != nil { // namespaces are not allowed either: the tests that need a disk say so
		return 0, false
	}
	_ = self.Wait()
	return self.ProcessState.ExitCode(), true
}

// LO-852
func TestADiskIsFilledToTheLastByte(t *testing.T) {
	d, err := newDisk(filepath.Join(t.TempDir(), "data"))
	require.NoError(t, err)
	defer func() { require.NoError(t, d.close()) }()
	file := filepath.Join(d.path, "file")
	require.NoError(t, d.fill())
	require.ErrorIs(t, os.WriteFile(file, []byte("x"), 0o600), syscall.ENOSPC)
	require.NoError(t, d.empty())
	require.NoError(t, os.WriteFile(file, []byte("x"), 0o600))
}

const (
	envScale  = "LLORCH_CHAOS"        // "long": the long run
	envSeed   = "LLORCH_CHAOS_SEED"   // repeats a schedule
	envReport = "LLORCH_CHAOS_REPORT" // a file that the report is added to: `go test` shows a passing test's lines to nobody
)

func say(t *testing.T, text string) {
	t.Helper()
	t.Log(text)
	path := os.Getenv(envReport)
	if path == "" {
		return
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	require.NoError(t, err)
	_, err = fmt.Fprintln(f, text)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

// ORCH-3051, LO-852, LO-201, LO-202, LO-203, LO-208, LO-209, LO-402, LO-407, LO-430, LO-431, LO-432, LO-434, LO-437, LO-438, LO-439, ORCH-3026, ORCH-3004
func TestNothingAcceptedIsLost(t *testing.T) {
	seed := uint64(time.Now().UnixNano()) % 1_000_000
	if given := os.Getenv(envSeed); given != "" {
		var err error
		seed, err = strconv.ParseUint(given, 10, 64)
		require.NoError(t, err, envSeed)
	}
	size := short
	if os.Getenv(envScale) == long.name {
		size = long
	}
	say(t, fmt.Sprintf("chaos: a %s run with seed %d; %s=%d repeats its schedule", size.name, seed, envSeed, seed))
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	dir := t.TempDir()
	l, err := daemon.NewLab(t.Context(), dir, root)
	require.NoError(t, err)
	t.Cleanup(l.Close)

	began := time.Now()
	r, err := perform(t.Context(), l, draw(seed, size), func(format string, args ...any) {
		t.Logf("%6.1f s: %s", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
	})
	require.NoError(t, err)
	findings := check(r.history)
	say(t, r.table(findings))
	for _, f := range findings {
		for _, b := range f.breaches[:min(len(f.breaches), 20)] {
			t.Errorf("%s: %s", f.property, b)
		}
		require.NotZero(t, f.judged, "nothing could be judged of: %s", f.property)
	}

	f := r.figures()
	require.Equal(t, size.fills, f.faults[fillDisk], "the disk was not filled as often as the schedule has it")
	require.Positive(t, f.acrossLives+f.hitByWorker, "no fault hit a stream that then went on: this proves nothing")
	if size.name == long.name {
		require.Positive(t, f.acrossLives, "no stream went on after the daemon's death")
		require.Positive(t, f.hitByWorker, "no strict task lost its worker within its stream")
		on := r.frontFigures()
		require.Positive(t, on.joined, "nobody joined an answer")
		require.Positive(t, on.acrossLives, "no response's stream went on after the daemon's death")
		require.Positive(t, on.hitByWorker, "no strict answer of a front lost its worker within its stream")
		require.Positive(t, on.hitByDaemon, "no strict answer of a front lost its daemon within its stream")
		require.Positive(t, on.continued, "no best-effort answer went on elsewhere")
		require.Positive(t, on.canceled, "no batch was canceled")
		require.GreaterOrEqual(t, f.accepted, 500)
		require.GreaterOrEqual(t, f.faults[killWorker], 30)
		require.GreaterOrEqual(t, f.faults[killDaemon], 30)
	}
	mounts, err := os.ReadFile("/proc/mounts")
	require.NoError(t, err)
	require.NotContains(t, string(mounts), dir, "the small file system is still mounted")
}

// ORCH-3051
func TestASeedIsASchedule(t *testing.T) {
	for _, s := range []scale{short, long} {
		drawn, again := draw(7, s), draw(7, s)
		require.Equal(t, drawn, again)
		require.NotEqual(t, draw(7, s).tasks, draw(8, s).tasks)
		done := map[faultKind]int{}
		for _, f := range draw(7, s).faults {
			done[f.kind]++
		}
		require.GreaterOrEqual(t, done[killWorker], s.workerKills)
		require.GreaterOrEqual(t, done[killDaemon], s.daemonKills)
		require.Equal(t, s.fills, done[fillDisk])
		require.Equal(t, s.fills, done[emptyDisk])
	}
}
