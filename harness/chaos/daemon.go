// SPDX-License-Identifier: GPL-3.0-or-later

package chaos

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/llama-orch/llama-orch/harness/daemon"
	"github.com/llama-orch/llama-orch/harness/process"
)

// logLines is how much of a daemon's log is kept.
const logLines = 400

// configure writes a daemon's configuration into a folder of its own.
// The loose pool is there where its engines are.
func configure(l *daemon.Lab, dir, dataDir string, pace int, all []poolPlan, e engines) (path string, err error) {
	var b strings.Builder
	fmt.Fprintf(&b, "bind_addr: 127.0.0.1:0\ndata_dir: %q\nauth: {optional_on_loopback: true}\npools:\n", dataDir)
	for _, p := range all {
		fmt.Fprintf(&b, "  - {id: %s, model: {id: haiku, ref: %q}, device: cpu, replicas: %d, threads: 1, ctx: 256, pace: %d, "+
			"queue: {capacity: %d, full_policy: %s}}\n", p.id, "file:"+l.Model, p.replicas, pace, p.capacity, p.policy)
	}
	if len(e) > 0 {
		fmt.Fprintf(&b, "  - {id: %s, model: {id: %s, ref: scripted}, provisioning: {mode: external, urls: [%s]}, queue: {capacity: %d, full_policy: %s}}\n",
			loose.id, looseModel, e.urls(), loose.capacity, loose.policy)
	}
	if err := os.MkdirAll(filepath.Join(dir, "tmp"), 0o700); err != nil {
		return "", fmt.Errorf("make the daemon's folder: %w", err)
	}
	path = filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		return "", fmt.Errorf("write the daemon's configuration: %w", err)
	}
	return path, nil
}

// server is one life of the daemon.
type server struct{ *daemon.Daemon }

// serve starts a daemon and waits until it serves.
func serve(ctx context.Context, l *daemon.Lab, config string) (*server, error) {
	dir := filepath.Dir(config)
	d, err := l.Serve(ctx, daemon.Options{Config: config, Options: process.Options{
		Args: []string{"--no-self-test", "--stop-within", "3s"}, Env: l.Env(dir, map[string]string{"TMPDIR": filepath.Join(dir, "tmp")}), Keep: logLines,
	}})
	if err != nil {
		return nil, err
	}
	return &server{d}, nil
}

// kill ends the daemon alone, as `kill -9` does: its workers have to follow by themselves.
func (d *server) kill() { _, _ = d.Stop(syscall.SIGKILL) } // no process survives it

// stop ends the daemon with SIGTERM, and says whether it ended well.
func (d *server) stop() bool {
	code, err := d.Stop(syscall.SIGTERM)
	return err == nil && code == 0
}

// fds counts the daemon's open descriptors.
func (d *server) fds() int {
	entries, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", d.Pid()))
	return len(entries)
}

// goroutines asks the daemon's metrics.
func (d *server) goroutines(ctx context.Context) int {
	data, err := d.Client.Get(ctx, "/metrics")
	if err != nil {
		return 0
	}
	n := 0
	if _, rest, ok := bytes.Cut(data, []byte("\ngo_goroutines ")); ok {
		_, _ = fmt.Sscan(string(rest), &n)
	}
	return n
}

// ready waits until all replicas of some pools are ready and none has a task.
func (d *server) ready(ctx context.Context, all ...poolPlan) error {
	for _, p := range all {
		if _, err := d.Idle(ctx, p.id); err != nil {
			return err
		}
	}
	return nil
}

// pause waits, and returns false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
