// SPDX-License-Identifier: GPL-3.0-or-later

package provision

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/llama-orch/llama-orch/service/contain"
	"github.com/llama-orch/llama-orch/service/lines"
)

// How much of a command's output is kept for an error.
const (
	keptLines = 40
	lineBytes = 500
	askWithin = 10 * time.Second // for a command that only prints a version
)

// inherited lists the environment variables of this process that a command gets. It gets no others, so no token reaches a build.
var inherited = []string{
	"PATH", "HOME", "USER", "LOGNAME", "LANG", "TMPDIR", "XDG_*", "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
	"SSL_CERT_*", "NODE_EXTRA_CA_CERTS", "npm_config_*", "NPM_CONFIG_*", "GIT_SSL_*", "CC", "CXX", "CUDACXX", "CUDA_*", "DOCKER_*", "CONTAINER_*",
}

func environment(more []string) (env []string) {
	for _, pair := range os.Environ() {
		name, _, _ := strings.Cut(pair, "=")
		for _, pattern := range inherited {
			if ok, err := filepath.Match(pattern, name); err == nil && ok {
				env = append(env, pair)
				break
			}
		}
	}
	return append(env, more...)
}

// command runs a command in a process group of its own, which ends with ctx and with this process. It returns the end of the output. An error
// contains that too.
func command(ctx context.Context, dir string, env, argv []string, show func(line string)) (string, error) {
	// The kernel sends the parent-death signal when the thread that started the child ends. So this thread stays until the child was reaped.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir, cmd.Env = dir, environment(env)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = 2 * time.Second // a process that left the group may still hold the pipe
	var kept []string
	var panicked error
	out := &lines.Cutter{Limit: lineBytes, Each: func(line string) {
		if kept = append(kept, line); len(kept) > keptLines {
			kept = kept[1:]
		}
		if show != nil && panicked == nil { // exec.Cmd calls it from a goroutine of its own
			_, panicked = contain.Try(func() (struct{}, error) { show(line); return struct{}{}, nil })
		}
	}}
	cmd.Stdout, cmd.Stderr = out, out // one pipe, one reader
	err := cmd.Run()
	out.Flush()
	if panicked != nil {
		panic(panicked) // the caller knows whose command it was
	}
	said := strings.Join(kept, "\n")
	if err == nil {
		return said, nil
	}
	if ctx.Err() != nil {
		return said, context.Cause(ctx)
	}
	if said != "" {
		err = fmt.Errorf("%w\n%s", err, said)
	}
	return said, fmt.Errorf("%s: %w", quoted(shortened(argv)), err)
}

// shortened returns enough of a command to recognise it.
func shortened(argv []string) []string {
	const most = 4
	if len(argv) <= most {
		return argv
	}
	return append(append([]string{}, argv[:most]...), "…")
}

// ask runs a command that answers at once, and reports whether it succeeded.
func ask(ctx context.Context, dir string, env, argv []string) (said string, ok bool, err error) {
	bounded, stop := context.WithTimeout(ctx, askWithin)
	defer stop()
	said, err = command(bounded, dir, env, argv, nil)
	if ctx.Err() != nil {
		return "", false, context.Cause(ctx)
	}
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) && !errors.Is(err, exec.ErrNotFound) && bounded.Err() == nil {
		return "", false, err
	}
	return said, err == nil, nil
}
