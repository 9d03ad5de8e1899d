// SPDX-License-Identifier: GPL-3.0-or-later

package determinism

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/llama-orch/llama-orch/harness/daemon"
	"github.com/llama-orch/llama-orch/harness/process"
)

// logLines is how much of a daemon's log a proof bundle gets.
const logLines = 200

// lab is what all tests share.
type lab struct {
	*daemon.Lab

	fake string // the fake engine; the suite shows that it does not count
}

// newLab builds the programs. root is the repository.
func newLab(ctx context.Context, dir, root string) (*lab, error) {
	l, err := daemon.NewLab(ctx, dir, root, "./harness/fakeengine/cmd/fakeengine")
	if err != nil {
		return nil, err
	}
	return &lab{l, l.Program("fakeengine")}, nil
}

// pool is a pool of the configuration. It names the settings that differ from the suite's usual ones.
type pool struct {
	id           string
	replicas     int
	provisioning string
	model        string // path; default the bundled one
	profile      string // default v1
	more         string // further settings, as the inside of a YAML flow map
}

// config is a daemon's configuration.
func (l *lab) config(pools ...pool) string {
	var b strings.Builder
	b.WriteString("bind_addr: 127.0.0.1:0\ndata_dir: data\nauth: {optional_on_loopback: true}\nsampler_profiles:\n" +
		"  v1: {temperature: 0.8, top_p: 0.95, top_k: 40}\n  v2: {temperature: 1.4, top_p: 1, top_k: 0, min_p: 0.02}\npools:\n")
	for _, p := range pools {
		if p.model == "" {
			p.model = l.Model
		}
		if p.profile == "" {
			p.profile = "v1"
		}
		if !strings.Contains(p.more, "ctx:") {
			p.more = strings.TrimPrefix(p.more+", ctx: 256", ", ")
		}
		fmt.Fprintf(&b, "  - {id: %s, model: {id: haiku, ref: %q}, device: cpu, replicas: %d, sampler_profile: %s, provisioning: %s, %s}\n",
			p.id, "file:"+p.model, max(p.replicas, 1), p.profile, p.provisioning, p.more)
	}
	return b.String()
}

// life is one life of a daemon.
type life struct {
	*daemon.Daemon

	name string // such as "after a kill -9"
	runs int    // numbers the tasks that need no name of their own
}

// serve starts a daemon in a new folder and waits until it serves. A new folder, because a daemon that finds its old state
// may answer a task that it knows from the record, and the suite wants it decoded again.
func (l *lab) serve(ctx context.Context, name, config string, env map[string]string) (*life, error) {
	dir, err := os.MkdirTemp(l.Dir, "daemon-")
	if err != nil {
		return nil, fmt.Errorf("make the daemon's folder: %w", err)
	}
	return l.serveIn(ctx, dir, name, config, env)
}

// serveIn starts a daemon in a folder, which may have the state of an earlier life.
func (l *lab) serveIn(ctx context.Context, dir, name, config string, env map[string]string) (*life, error) {
	path := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		return nil, fmt.Errorf("write the daemon's configuration: %w", err)
	}
	d, err := l.Serve(ctx, daemon.Options{Config: path, Options: process.Options{
		Name: "the daemon " + name, Args: []string{"--no-self-test"}, Env: l.Env(dir, env), Keep: logLines,
	}})
	if err != nil {
		return nil, err
	}
	return &life{Daemon: d, name: name}, nil
}
