// SPDX-License-Identifier: GPL-3.0-or-later

package process

import (
	"context"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func shell(script string) Command {
	return Command{Owner: "p-0", Path: "/bin/sh", Args: []string{"-c", script}}
}

func started(t *testing.T, dir string) *Launcher {
	l := New(Options{RunDir: dir})
	require.NoError(t, l.Start(t.Context()))
	t.Cleanup(func() { require.NoError(t, l.Stop(context.Background())) })
	return l
}

// ORCH-3001
func TestAProcessIsHeardAndMourned(t *testing.T) {
	l, lost := started(t, t.TempDir()), make(chan struct{})
	p, err := l.Spawn(shell(`echo '{"listening":"127.0.0.1:9"}'; echo a word >&2; exit 3`), func() { close(lost) }, zap.NewNop())
	require.NoError(t, err)
	require.Equal(t, "127.0.0.1:9", <-p.Announced())
	<-lost
	p.End(t.Context(), time.Hour)
	require.ElementsMatch(t, []string{`{"listening":"127.0.0.1:9"}`, "a word"}, p.Tail())
	require.Equal(t, Death{Text: "the worker process ended (exit status 3); its last words: a word", ExitCode: 3}, p.Death())
}

// ORCH-3001: who ignores SIGTERM is killed, and so is what it started.
func TestAProcessEndsWithItsGroup(t *testing.T) {
	l := started(t, t.TempDir())
	p, err := l.Spawn(shell(`trap "" TERM; sleep 1000 & echo "{\"listening\":\"$!\"}"; wait`), func() {}, zap.NewNop())
	require.NoError(t, err)
	child, err := strconv.Atoi(<-p.Announced())
	require.NoError(t, err)
	fd, err := unix.PidfdOpen(child, 0)
	require.NoError(t, err)
	defer func() { require.NoError(t, unix.Close(fd)) }()
	names, err := os.ReadDir(l.o.RunDir)
	require.NoError(t, err)
	require.Len(t, names, 2, "the lock, and the file of the process")
	kill, now := context.WithCancel(t.Context())
	now()
	p.End(kill, time.Hour)
	require.Equal(t, syscall.SIGKILL, p.Death().Signal)
	require.True(t, p.Death().ByUs)
	gone := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	_, err = unix.Poll(gone, -1)
	require.NoError(t, err)
	names, err = os.ReadDir(l.o.RunDir)
	require.NoError(t, err)
	require.Len(t, names, 1)
}

// ORCH-3001
func TestALauncherStartsAndStopsInAnyOrder(t *testing.T) {
	dir := t.TempDir()
	never := New(Options{RunDir: dir})
	require.NoError(t, never.Stop(t.Context()))
	require.NoError(t, never.Start(t.Context()), "it does nothing")
	require.NoError(t, never.Stop(t.Context()))

	l := New(Options{RunDir: dir})
	require.NoError(t, l.Start(t.Context()))
	require.NoError(t, l.Start(t.Context()))
	other := New(Options{RunDir: dir})
	require.ErrorContains(t, other.Start(t.Context()), "another orchestratord")
	require.NoError(t, other.Stop(t.Context()))
	require.NoError(t, l.Stop(t.Context()))
	require.NoError(t, l.Stop(t.Context()))
	for _, over := range []*Launcher{never, l, other} {
		_, err := over.Spawn(shell("exit"), func() {}, zap.NewNop())
		require.ErrorIs(t, err, errNotRunning)
	}
}

// ORCH-3200, LO-807: each kind of program that runs containers is given the cards in its own way, and all parts of a model.
func TestAContainersArguments(t *testing.T) {
	c := Container{Argv: []string{"docker", "run", "--name", "{name}", "-p", "{port}", "-v", "{model}"}}
	named := c.Named("n", "1", []string{"m"})
	require.Equal(t, []string{"run", "--name", "n", "-p", "1", "-v", "m", "image", "-x"}, named.Args("image", nil, []string{"-x"}))
	require.Equal(t, "n", named.Name)
	require.Equal(t, "{name}", c.Argv[3], "the pool's own is left as it is")
	split := Container{Argv: []string{"docker", "--mount", "source={model},target=/models/m.gguf", "--user", "1"}, Model: "/models/m.gguf"}.Named("n", "1", []string{"/a/x-00001-of-00002.gguf", "/a/x-00002-of-00002.gguf"})
	require.Equal(t, []string{
		"docker", "--mount", "source=/a/x-00001-of-00002.gguf,target=/models/m-00001-of-00002.gguf",
		"--mount", "source=/a/x-00002-of-00002.gguf,target=/models/m-00002-of-00002.gguf", "--user", "1",
	}, split.Argv)
	require.Equal(t, "/models/m-00001-of-00002.gguf", split.Model)
	named.GPUs = []string{"--gpus", `"device={cards}"`}
	require.Contains(t, named.Args("image", []string{"0", "1"}, nil), `"device=0,1"`)
	require.Contains(t, named.Args("image", []string{"all"}, nil), "all")
	named.GPUs = []string{"--device={card}"}
	require.Subset(t, named.Args("image", []string{"0", "1"}, nil), []string{"--device=0", "--device=1"})
}
