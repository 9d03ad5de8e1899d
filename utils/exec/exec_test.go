// SPDX-License-Identifier: GPL-3.0-or-later

package exec

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	landsys "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func shell(script string) Command { return Command{Name: "sh", Args: []string{"-c", script}} }

var policy = Policy{Allow: []string{"sh", "cat"}, Time: time.Minute}

func ran(t *testing.T, p Policy, c Command) *Result {
	t.Helper()
	r, err := Run(t.Context(), p, c)
	require.NoError(t, err)
	return r
}

// LO-918
func TestOnlyWhatIsAllowedRuns(t *testing.T) {
	for _, name := range []string{"", "bash", "cap", "/bin/sh", "./sh", "../bin/sh", "sh "} {
		_, err := Run(t.Context(), policy, Command{Name: name})
		denied, ok := errors.AsType[*DeniedError](err)
		require.True(t, ok, "%q: %v", name, err)
		require.Equal(t, name, denied.Name)
		require.ErrorContains(t, err, "allowed are sh, cat")
	}
	_, err := Run(t.Context(), policy, Command{Name: "cta"})
	require.ErrorContains(t, err, `did you mean "cat"?`)
	_, err = Run(t.Context(), Policy{}, Command{Name: "sh"})
	require.ErrorContains(t, err, "no command is")
	_, err = Run(t.Context(), Policy{Allow: []string{"no-such-program"}}, Command{Name: "no-such-program"})
	_, ok := errors.AsType[*StartError](err)
	require.True(t, ok, "%v", err)
}

// LO-918
func TestACommandHasAFolderAndABareEnvironment(t *testing.T) {
	t.Setenv("LLORCH_API_TOKEN", "secret")
	c := shell("pwd; cat in/file -; env; exit 3")
	c.Stdin, c.Files = "from stdin\n", map[string]string{"in/file": "from the file\n"}
	p := policy
	p.Env = []string{"EXTRA=1"}
	r := ran(t, p, c)
	require.Equal(t, 3, r.Code)
	dir, rest, _ := strings.Cut(r.Stdout, "\n")
	require.True(t, strings.HasPrefix(rest, "from the file\nfrom stdin\n"), rest)
	for _, line := range strings.Split(strings.TrimSpace(rest), "\n")[2:] {
		name, _, _ := strings.Cut(line, "=")
		require.Contains(t, []string{"PATH", "HOME", "TMPDIR", "LANG", "PWD", "EXTRA", "_", "SHLVL", "OLDPWD"}, name)
	}
	_, err := os.Stat(dir)
	require.ErrorIs(t, err, os.ErrNotExist, "its folder is gone")
	c.Files = map[string]string{"../out": "x"}
	_, err = Run(t.Context(), policy, c)
	require.ErrorContains(t, err, `put file "../out"`)
}

// LO-918
func TestTheWholeGroupEndsWithItsTime(t *testing.T) {
	dir := t.TempDir()
	c := shell("sleep 1000 & echo $! > pid; echo begun; wait")
	c.Dir = dir
	p := policy
	p.Time = 300 * time.Millisecond
	r := ran(t, p, c)
	require.Equal(t, "time", r.Stopped)
	require.Equal(t, "begun\n", r.Stdout)
	require.Equal(t, -1, r.Code)
	gone(t, filepath.Join(dir, "pid"))

	c.Args[1] = "sleep 1000 & echo $! > pid" // it ends by itself, and leaves something
	r = ran(t, policy, c)
	require.Empty(t, r.Stopped)
	gone(t, filepath.Join(dir, "pid"))
}

// gone waits until the process whose number a file has is not there any more.
func gone(t *testing.T, file string) {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		return err != nil || strings.Contains(string(stat), ") Z ")
	}, time.Minute, 5*time.Millisecond)
}

// LO-918
func TestACommandEndsWithItsContext(t *testing.T) {
	ctx, stop := context.WithCancelCause(t.Context())
	cause := errors.New("somebody stopped it")
	time.AfterFunc(100*time.Millisecond, func() { stop(cause) })
	_, err := Run(ctx, policy, shell("sleep 1000"))
	require.ErrorIs(t, err, cause)
}

// LO-918
func TestOutputIsBounded(t *testing.T) {
	p := policy
	p.Output = 1000
	for _, to := range []string{"1", "2"} {
		r := ran(t, p, shell("while :; do echo aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa >&"+to+"; done"))
		require.Equal(t, "output", r.Stopped)
		require.Len(t, r.Stdout+r.Stderr, 1000)
	}
}

// LO-918
func TestMemoryIsBounded(t *testing.T) {
	p := policy
	p.Memory = 256 << 20
	hungry := shell("x=aaaaaaaa; while :; do x=$x$x; done")
	r := ran(t, p, hungry)
	require.NotZero(t, r.Code)
	require.NotEqual(t, "time", r.Stopped, "it ended for want of memory; some shells break then")
	r = ran(t, p, shell("ulimit -v; ulimit -c"))
	require.Equal(t, "262144\n0\n", r.Stdout, "from its first instruction on")
}

// LO-918
func TestLandlockHoldsACommand(t *testing.T) {
	abi, err := landsys.LandlockGetABIVersion()
	outside := t.TempDir()
	secret := filepath.Join(outside, "secret")
	require.NoError(t, os.WriteFile(secret, []byte("secret"), 0o644))
	script := "cat " + secret + "; echo x > " + outside + "/made; echo in > own && cat own; cat /proc/" + strconv.Itoa(os.Getpid()) + "/environ; kill -0 " + strconv.Itoa(os.Getpid()) + " && echo signaled"
	r := ran(t, policy, shell(script))
	if err != nil { // it says so instead
		require.NotEmpty(t, r.Missing)
		require.Contains(t, r.Missing[0], "no Landlock")
		return
	}
	require.NotContains(t, r.Stdout, "secret")
	require.Contains(t, r.Stdout, "in\n")
	require.Contains(t, r.Stderr, "ermission denied")
	_, gone := os.Stat(filepath.Join(outside, "made"))
	require.ErrorIs(t, gone, os.ErrNotExist)
	if abi >= abiScoped {
		require.NotContains(t, r.Stdout, "signaled")
	}
	if abi < abiUDP {
		require.Contains(t, strings.Join(r.Missing, "\n"), "UDP")
	} else {
		require.Empty(t, r.Missing)
	}
	p := policy
	p.Read = []string{outside}
	require.Contains(t, ran(t, p, shell(script)).Stdout, "secret")
	content, err := os.ReadFile(secret)
	require.NoError(t, err, "this process is not held")
	require.Equal(t, "secret", string(content))
	require.NoError(t, os.WriteFile(filepath.Join(outside, "made"), nil, 0o600))
}

// LO-918
func TestTheNetworkIsClosed(t *testing.T) {
	abi, err := landsys.LandlockGetABIVersion()
	l, listening := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, listening)
	defer l.Close()
	p := policy
	p.Allow = []string{"bash"}
	dial := Command{Name: "bash", Args: []string{"-c", "exec 3<>/dev/tcp/127.0.0.1/" + strconv.Itoa(l.Addr().(*net.TCPAddr).Port) + " && echo connected"}}
	if err == nil && abi >= abiTCP {
		require.NotContains(t, ran(t, p, dial).Stdout, "connected")
	}
	p.Net = true
	require.Equal(t, "connected\n", ran(t, p, dial).Stdout)
}

// What leaves the group goes on, and the result says that it may.
//
// LO-918
func TestWhatLeftTheGroupIsTold(t *testing.T) {
	dir := t.TempDir()
	c := Command{Name: "sh", Args: []string{"-c", "setsid sh -c 'echo $$ > pid; exec sleep 1000' & while ! [ -s pid ]; do :; done"}, Dir: dir}
	r := ran(t, policy, c)
	text, err := os.ReadFile(filepath.Join(dir, "pid"))
	require.NoError(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	require.Contains(t, strings.Join(r.Missing, "\n"), "left the process group")
}
