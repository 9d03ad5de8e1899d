// SPDX-License-Identifier: GPL-3.0-or-later

package daemon

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"

	"github.com/llama-orch/llama-orch/harness/nvmlstub"
	"github.com/llama-orch/llama-orch/harness/process"
	"github.com/llama-orch/llama-orch/service/supply/provision"
)

// Lab is what the daemons of a suite share: the programs, which are built for this run, the engine's libraries, and the bundled model.
type Lab struct {
	*process.Launcher

	Dir   string // folder of this run, without links, as /proc shows it; the caller removes it
	Root  string // of the repository
	Libs  string
	Model string
	NVML  string // folder of the stand-in for the library that finds cards
}

// NewLab builds orchestratord, and further packages of the module at root, into a folder. Its daemons find no card of this machine, so that a suite does the
// same wherever it runs (LO-851): one that is about cards gives the stand-in a state. The caller closes the Lab.
func NewLab(ctx context.Context, dir, root string, more ...string) (*Lab, error) {
	libs, err := provision.LocateEngineLibs()
	if err != nil {
		return nil, err // it says what to run
	}
	for _, path := range []*string{&dir, &root} {
		if *path, err = filepath.Abs(*path); err == nil {
			*path, err = filepath.EvalSymlinks(*path)
		}
		if err != nil {
			return nil, fmt.Errorf("find the run's folders: %w", err)
		}
	}
	l := &Lab{Dir: dir, Root: root, Libs: libs, Model: filepath.Join(root, "models", "haiku", "haiku.gguf")}
	if err := process.Build(ctx, root, filepath.Join(dir, "bin")+"/", append(more, "./cmd/orchestratord")...); err != nil {
		return nil, err
	}
	l.NVML = filepath.Join(dir, "nvml")
	if err := os.MkdirAll(l.NVML, 0o700); err != nil {
		return nil, fmt.Errorf("make a folder for the stand-in for NVML: %w", err)
	}
	if _, err := nvmlstub.Build(l.NVML); err != nil {
		return nil, err
	}
	l.Launcher = process.NewLauncher()
	return l, nil
}

// Program returns the path of a program that the Lab has built.
func (l *Lab) Program(name string) string { return filepath.Join(l.Dir, "bin", name) }

// Env returns the environment for a program that has to find the engine's libraries, and no card of this machine.
func (l *Lab) Env(home string, more map[string]string) []string {
	vars := nvmlstub.Hidden(l.NVML)
	vars[provision.EnvEngineLibs] = l.Libs
	maps.Copy(vars, more)
	return process.Env(home, vars)
}

// Workers returns the workers of all daemons of the Lab, also those that a daemon left behind.
func (l *Lab) Workers() []Worker { return Workers(l.Program("orchestratord")) }

// Serve starts a daemon of the Lab and waits until it serves.
func (l *Lab) Serve(ctx context.Context, o Options) (*Daemon, error) {
	o.Exe = l.Program("orchestratord")
	return Start(ctx, l.Launcher, o)
}
