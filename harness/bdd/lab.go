// SPDX-License-Identifier: GPL-3.0-or-later

package bdd

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/cucumber/godog"

	"github.com/llama-orch/llama-orch/service/supply/provision"
)

// lab is what all scenarios of a run share: the programs, the model, and one daemon for those that leave no traces.
type lab struct {
	dir      string // for the run; the caller removes it
	root     string // of the repository
	libs     string // the engine's libraries
	model    string
	daemon   string // the program
	fake     string // the program
	client   string // the program
	launcher *launcher
	logs     *logContract
	gpu      cardMaker

	once   sync.Once
	shared *daemon
	err    error
}

func newLab(dir, root string) (*lab, error) {
	libs, err := provision.LocateEngineLibs()
	if err != nil {
		return nil, err // it says what to run
	}
	// The workers are found by their program's path, which /proc shows without links.
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return nil, fmt.Errorf("resolve the folder of the run: %w", err)
	}
	l := &lab{
		dir: dir, root: root, libs: libs, model: filepath.Join(root, "models", "haiku", "haiku.gguf"),
		daemon: filepath.Join(dir, "bin", "orchestratord"), fake: filepath.Join(dir, "bin", "fakeengine"),
		client: filepath.Join(dir, "bin", "llama-orch"), logs: newLogContract(),
	}
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "bin")+"/", "./cmd/orchestratord", "./cmd/llama-orch", "./harness/fakeengine/cmd/fakeengine")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the programs: %w\n%s", err, out)
	}
	l.launcher = newLauncher()
	return l, nil
}

// close ends the shared daemon and reports what is left of any: nothing may be.
func (l *lab) close() error {
	var err error
	if l.shared != nil {
		l.shared.kill()
		err = keep(&godog.Scenario{Uri: "all", Name: "shared daemon"}, map[string]string{"daemon.log": l.shared.output()})
	}
	l.launcher.close()
	err = errors.Join(err, poll("the end of all workers", func() error {
		if left := workers(l.daemon, 0); len(left) > 0 {
			return fmt.Errorf("workers %v outlived their daemon", left)
		}
		return nil
	}))
	for _, pid := range workers(l.daemon, 0) {
		err = errors.Join(err, syscall.Kill(pid, syscall.SIGKILL))
	}
	return err
}

// env is the environment of a started program: nothing of this one's but where programs are.
func (l *lab) env(home string, more map[string]string) []string {
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, provision.EnvEngineLibs + "=" + l.libs}
	for name, value := range more {
		env = append(env, name+"="+value)
	}
	return env
}

// sharedDaemon has two fast replicas, a generous queue, and no token.
func (l *lab) sharedDaemon() (*daemon, error) {
	l.once.Do(func() {
		dir := filepath.Join(l.dir, "shared")
		if l.err = os.MkdirAll(dir, 0o700); l.err != nil {
			return
		}
		c := newSetup(dir)
		c.pool("default", l.builtin(row{"replicas", "2"}))
		l.shared, l.err = l.startDaemon(c)
		if l.err == nil {
			l.err = l.shared.ready(2)
		}
	})
	return l.shared, l.err
}
