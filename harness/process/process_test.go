// SPDX-License-Identifier: GPL-3.0-or-later

package process_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/llama-orch/llama-orch/harness/process"
	"github.com/llama-orch/llama-orch/harness/watch"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// shell starts a script that ends with the test.
func shell(t *testing.T, script string, o process.Options) *process.Process {
	t.Helper()
	l := process.NewLauncher()
	t.Cleanup(l.Close)
	o.Name, o.Exe, o.Args = "the script", "/bin/sh", []string{"-c", script}
	p, err := l.Start(o)
	require.NoError(t, err)
	t.Cleanup(p.Kill)
	return p
}

func is(want string) func(string) bool { return func(line string) bool { return line == want } }

func TestWhatItWritesIsKept(t *testing.T) {
	var echo strings.Builder
	p := shell(t, `echo one; echo >&2 two; echo '{"level":"debug"}'; printf three`, process.Options{Echo: &echo, Env: process.Env(t.TempDir(), nil)})
	require.NoError(t, p.Said("a line", is("two")))
	require.NoError(t, p.Said("a line before it", is("one")))
	code, err := p.Exit()
	require.NoError(t, err)
	require.Zero(t, code)
	require.Equal(t, []string{"one", "two", `{"level":"debug"}`, "three"}, p.Lines())
	require.Equal(t, "two\nthree", p.Tail(2), "people need no debug lines")
	require.Equal(t, "one\ntwo\n{\"level\":\"debug\"}\nthree", echo.String())
	require.EqualError(t, p.Said("its address", is("four")), "the script ended with exit code 0 before it gave its address")
}

func TestOldLinesAreDropped(t *testing.T) {
	p := shell(t, `seq 1 100; read -r _; exit 3`, process.Options{Keep: 5})
	require.NoError(t, p.Said("the last line", is("100")))
	require.Equal(t, "96\n97\n98\n99\n100", p.Output())
	p.Kill()
	require.Error(t, p.Said("the first line", is("1")), "it is not kept")
}

func TestAFileTakesAllOutput(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "log"))
	require.NoError(t, err)
	p := shell(t, `echo begun; sleep 0.05; echo >&2 ready; read -r _`, process.Options{File: file})
	require.NoError(t, file.Close())
	require.NoError(t, p.Said("readiness", is("ready")))
	require.Equal(t, "begun\nready", p.Output())
	p.Kill()
	require.EqualError(t, p.Said("its address", is("four")), "the script ended with exit code -1 before it gave its address")
}

func TestTheGroupEndsWithItsLeader(t *testing.T) {
	p := shell(t, `sleep 1000 & echo $!; wait`, process.Options{})
	var child string
	require.NoError(t, p.Said("the child's number", func(line string) bool { child = line; return true }))
	p.Kill()
	require.True(t, p.Ended())
	require.NoError(t, watch.Poll(t.Context(), "the end of the child", func() error {
		stat, err := os.ReadFile("/proc/" + child + "/stat") // gone, or a zombie that nobody has reaped yet
		if err == nil && !strings.Contains(string(stat), ") Z ") {
			return errors.New(string(stat))
		}
		return nil
	}))
}

func TestStopGivesTheExitCode(t *testing.T) {
	p := shell(t, `trap 'exit 7' TERM; echo begun; while :; do sleep 0.01; done`, process.Options{})
	require.NoError(t, p.Said("its begin", is("begun")))
	code, err := p.Stop(syscall.SIGTERM)
	require.NoError(t, err)
	require.Equal(t, 7, code)
	code, err = p.Stop(syscall.SIGTERM)
	require.NoError(t, err, "it may have ended before")
	require.Equal(t, 7, code)
}

func TestAProgramThatIsNotThere(t *testing.T) {
	l := process.NewLauncher()
	defer l.Close()
	_, err := l.Start(process.Options{Name: "nothing", Exe: filepath.Join(t.TempDir(), "nothing")})
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorContains(t, err, "start nothing")
	require.ErrorContains(t, process.Build(t.Context(), t.TempDir(), "x", "./missing"), "build ./missing")
}

func TestTheEnvironmentIsOurs(t *testing.T) {
	t.Setenv("LLORCH_API_TOKEN", "left over")
	require.Equal(t, []string{"A=b", "HOME=/home", "PATH=" + os.Getenv("PATH")}, process.Env("/home", map[string]string{"A": "b"}))
}
