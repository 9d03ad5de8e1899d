// SPDX-License-Identifier: GPL-3.0-or-later

package determinism

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/llama-orch/llama-orch/service/supply/provision"
)

// lab is what all tests share: the programs, built once, and the model.
type lab struct {
	dir   string // for the run; the caller removes it
	exe   string // orchestratord
	fake  string // the fake engine, of which the suite shows that it does not count
	model string
	libs  string // of the built-in engine

	starts chan func() // runs on one thread that stays
}

// newLab builds the programs. root is the repository.
func newLab(dir, root string) (*lab, error) {
	libs, err := provision.LocateEngineLibs()
	if err != nil {
		return nil, err // it says what to run
	}
	bin := filepath.Join(dir, "bin")
	l := &lab{
		dir: dir, exe: filepath.Join(bin, "orchestratord"), fake: filepath.Join(bin, "fakeengine"),
		model: filepath.Join(root, "models", "haiku", "haiku.gguf"), libs: libs, starts: make(chan func()),
	}
	build := exec.Command("go", "build", "-o", bin+"/", "./cmd/orchestratord", "./harness/fakeengine/cmd/fakeengine")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the daemon and the fake engine: %w\n%s", err, out)
	}
	// The parent-death signal, by which no daemon outlives a test run that is killed, is sent when the thread ends that
	// started the daemon.
	go func() { // ends with close
		runtime.LockOSThread()
		for start := range l.starts {
			start()
		}
	}()
	return l, nil
}

func (l *lab) close() { close(l.starts) }

func (l *lab) start(cmd *exec.Cmd) error {
	result := make(chan error)
	l.starts <- func() { result <- cmd.Start() }
	return <-result
}

// pool is a pool of the configuration, with the settings that differ from the suite's usual ones.
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
			p.model = l.model
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

// env is a daemon's environment: nothing of this one's but where programs are.
func (l *lab) env(home string, more map[string]string) []string {
	vars := map[string]string{"PATH": os.Getenv("PATH"), "HOME": home, provision.EnvEngineLibs: l.libs}
	maps.Copy(vars, more)
	var env []string
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		env = append(env, name+"="+vars[name])
	}
	return env
}
