// SPDX-License-Identifier: GPL-3.0-or-later

package handbook_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/daemon"
	"github.com/llama-orch/llama-orch/harness/process"
)

const root = "../.."

// lab has the programs, which are built once for all tests.
var lab *daemon.Lab

func TestMain(m *testing.M) { os.Exit(tests(m)) }

func tests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "llama-orch-handbook-")
	if err == nil {
		defer os.RemoveAll(dir)
		lab, err = daemon.NewLab(context.Background(), dir, root, "./cmd/llama-orch")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer lab.Close()
	return m.Run()
}

// place is a checkout as the documents expect it after `go tool mage up` has built the programs, with a home and an address of its own.
type place struct {
	dir  string // of the checkout
	addr string
	env  []string
}

func newPlace(t *testing.T) *place {
	t.Helper()
	tellCache(t)
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, free.Close())
	p := &place{dir: dir, addr: free.Addr().String()}
	require.NoError(t, os.Symlink(filepath.Join(lab.Dir, "bin"), filepath.Join(p.dir, "bin")))
	require.NoError(t, os.CopyFS(filepath.Join(p.dir, "examples"), os.DirFS(root+"/examples")))
	require.NoError(t, os.Symlink(filepath.Join(lab.Root, "models"), filepath.Join(p.dir, "models")))
	home := filepath.Join(p.dir, "home")
	require.NoError(t, os.Mkdir(home, 0o700))
	p.env = lab.Env(home, map[string]string{"HOME": home, "LLORCH_BIND_ADDR": p.addr, "LLORCH_ADDR": "http://" + p.addr})
	return p
}

// tellCache looks at the files that the programs are made of. Go's test cache takes note of that, and so does not keep a result for other programs.
func tellCache(t *testing.T) {
	t.Helper()
	for _, dir := range []string{"cmd", "service", "sdk", "gen", "contracts", "models"} {
		require.NoError(t, filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			_, err = os.Stat(path)
			return err
		}))
	}
}

// up starts the daemon as `go tool mage up` does.
func (p *place) up(t *testing.T) *daemon.Daemon {
	t.Helper()
	d, err := daemon.Start(t.Context(), lab.Launcher, daemon.Options{
		Config: filepath.Join(p.dir, "examples", "haiku.yaml"), Options: process.Options{Exe: lab.Program("orchestratord"), Env: p.env},
	})
	require.NoError(t, err)
	t.Cleanup(d.Kill)
	require.NoError(t, d.Answers(t.Context(), "/readyz"))
	return d
}

// hangs is how long lines may take that somebody pastes. Only what never ends takes longer.
const hangs = 5 * time.Minute

// paste runs lines in a shell, as somebody who copies them does. Only the address is another one.
func (p *place) paste(t *testing.T, lines string) (stdout, stderr string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), hangs, errors.New("it does not end"))
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-e", "-u", "-c", strings.ReplaceAll(lines, "127.0.0.1:8080", p.addr))
	cmd.Dir, cmd.Env = p.dir, p.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err = cmd.Start(); err == nil {
		defer func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }() // a daemon that a failed script left behind
		if err = cmd.Wait(); err != nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
	}
	return out.String(), errs.String(), err
}

// chapter is the text below a heading, up to the next one of the same level.
func chapter(t *testing.T, file, heading string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, file))
	require.NoError(t, err)
	_, after, found := strings.Cut(string(text), "\n"+heading+"\n")
	require.True(t, found, "%s has no chapter %q", file, heading)
	level, _, _ := strings.Cut(heading, " ")
	before, _, _ := strings.Cut(after, "\n"+level+" ")
	return before
}

var fence = regexp.MustCompile("(?s)```(\\w*)\n(.*?)```")

// fenced returns the first block of a language in a chapter.
func fenced(t *testing.T, text, language string) string {
	t.Helper()
	for _, m := range fence.FindAllStringSubmatch(text, -1) {
		if m[1] == language {
			return m[2]
		}
	}
	require.Fail(t, "there is no block of "+language)
	return ""
}

// indented returns the lines of the indented blocks of a chapter.
func indented(text string) (lines []string) {
	for line := range strings.Lines(text) {
		if command, ok := strings.CutPrefix(strings.TrimRight(line, "\n"), "    "); ok && command != "" {
			lines = append(lines, command)
		}
	}
	return lines
}
