// SPDX-License-Identifier: GPL-3.0-or-later

package abuse_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/llama-orch/llama-orch/harness/client"
	"github.com/llama-orch/llama-orch/harness/fakeengine"
	"github.com/llama-orch/llama-orch/harness/process"
	"github.com/llama-orch/llama-orch/harness/watch"
)

// unread makes a pipe that holds a page and is full, and returns the end to write to. If gone, nobody can read it either.
func unread(t *testing.T, gone bool) *os.File {
	t.Helper()
	read, write, err := os.Pipe()
	require.NoError(t, err)
	t.Cleanup(func() { _ = write.Close() })
	if gone {
		require.NoError(t, read.Close())
		return write
	}
	t.Cleanup(func() { _ = read.Close() })
	size, err := unix.FcntlInt(write.Fd(), unix.F_SETPIPE_SZ, os.Getpagesize())
	require.NoError(t, err)
	n, err := write.Write(make([]byte, size))
	require.NoError(t, err)
	require.Equal(t, size, n)
	return write
}

// logged is a daemon whose output goes where nobody reads it.
type logged struct {
	*process.Process
	client *client.Client
	engine *fakeengine.Engine
}

// serveInto starts a daemon with one external engine, and waits until its pool is ready.
func serveInto(t *testing.T, exe string, stdout, stderr *os.File, args ...string) *logged {
	t.Helper()
	engine := fakeengine.New(fakeengine.Options{})
	fake := httptest.NewServer(engine)
	t.Cleanup(fake.Close)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := free.Addr().String()
	require.NoError(t, free.Close())
	dir := t.TempDir()
	config := filepath.Join(dir, "config.yaml")
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, `
bind_addr: %s
data_dir: state
auth: {optional_on_loopback: true}
log: {level: debug}
pools:
  - {id: only, model: {id: m, ref: x}, provisioning: {mode: external, urls: ["%s"]}}
`, addr, fake.URL), 0o600))
	l := process.NewLauncher()
	t.Cleanup(l.Close)
	p, err := l.Start(process.Options{
		Name: "orchestratord", Exe: exe, Args: append([]string{"serve", "--config", config}, args...), Env: process.Env(dir, nil), Stdout: stdout, File: stderr,
	})
	require.NoError(t, err)
	t.Cleanup(p.Kill)
	d := &logged{p, client.New("http://"+addr, ""), engine}
	t.Cleanup(d.client.Close)
	require.NoError(t, watch.Poll(t.Context(), "readiness", func() error {
		if d.Ended() {
			code, _ := d.Exit()
			return watch.Never(fmt.Errorf("the daemon ended with code %d", code))
		}
		_, err := d.client.Get(t.Context(), "/readyz")
		return err
	}))
	return d
}

// task is the body of a request for so many tokens.
func task(tokens int) []byte {
	return fmt.Appendf(nil, `{"model_ref":"m","workload":"completion","prompt":"a b c","max_tokens":%d,"seed":1}`, tokens)
}

// Whatever becomes of the daemon's output, tasks, cancels and stops go on.
// LO-810, LO-811, LO-812
func TestALogThatNobodyReads(t *testing.T) {
	exe := built(t)
	for name, where := range map[string]func(t *testing.T) (stdout, stderr *os.File){
		"stderr is a pipe that nobody reads":  func(t *testing.T) (*os.File, *os.File) { return devNull(t), unread(t, false) },
		"stderr is a pipe without a reader":   func(t *testing.T) (*os.File, *os.File) { return devNull(t), unread(t, true) },
		"stdout is a pipe that nobody reads":  func(t *testing.T) (*os.File, *os.File) { return unread(t, false), devNull(t) },
		"stdout is a pipe without a reader":   func(t *testing.T) (*os.File, *os.File) { return unread(t, true), devNull(t) },
		"both are full disks":                 func(t *testing.T) (*os.File, *os.File) { return device(t, "/dev/full"), device(t, "/dev/full") },
		"both are one pipe that nobody reads": func(t *testing.T) (*os.File, *os.File) { w := unread(t, false); return w, w },
	} {
		t.Run(name, func(t *testing.T) {
			stdout, stderr := where(t)
			d := serveInto(t, exe, stdout, stderr)
			ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
			defer stop()
			for range 60 {
				admitted, err := d.client.Submit(ctx, task(4))
				require.NoError(t, err)
				stream, err := d.client.Open(ctx, admitted.TaskID)
				require.NoError(t, err)
				require.NoError(t, stream.Rest())
				require.NotNil(t, stream.End)
			}
			d.engine.SetScript(fakeengine.Script{Stepped: true})
			held, err := d.client.Submit(ctx, task(4))
			require.NoError(t, err)
			outcome, err := d.client.Cancel(ctx, held.TaskID)
			require.NoError(t, err)
			require.Equal(t, "canceled", outcome.Outcome)
			code, err := d.Stop(syscall.SIGTERM)
			require.NoError(t, err)
			require.Zero(t, code)
		})
	}
	t.Run("a second signal ends a stop that takes long", func(t *testing.T) {
		w := unread(t, false)
		d := serveInto(t, exe, w, w, "--stop-within", "1h")
		d.engine.SetScript(fakeengine.Script{Stepped: true})
		_, err := d.client.Submit(t.Context(), task(4))
		require.NoError(t, err)
		_, err = d.engine.Wait(t.Context(), func(s fakeengine.State) bool { return s.Busy == 1 }) // a stop waits for tasks that run
		require.NoError(t, err)
		require.NoError(t, d.Signal(syscall.SIGTERM))
		require.NoError(t, watch.Poll(t.Context(), "the stop", func() error {
			if d.Ended() {
				return watch.Never(errors.New("it did not wait for its task"))
			}
			_, err := d.client.Submit(t.Context(), task(1))
			if refused, ok := errors.AsType[*client.RefusedError](err); !ok || refused.Code != "SHUTTING_DOWN" {
				return fmt.Errorf("it does not stop yet: %w", err)
			}
			return nil
		}))
		code, err := d.Stop(syscall.SIGTERM)
		require.NoError(t, err)
		require.Equal(t, -1, code, "the signal ended it")
	})
}

func devNull(t *testing.T) *os.File {
	t.Helper()
	return device(t, os.DevNull)
}

func device(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = f.Close() })
	return f
}
