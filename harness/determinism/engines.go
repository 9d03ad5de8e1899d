// SPDX-License-Identifier: GPL-3.0-or-later

package determinism

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"

	"github.com/llama-orch/llama-orch/service/supply/provision"
)

// requireReal makes the suite fail if there is no llama-server (`REQUIRE_REAL_LLAMA=1`).
const requireReal = "REQUIRE_REAL_LLAMA"

// engine is an engine under test.
type engine struct {
	name         string
	provisioning string                                        // in YAML
	versions     *regexp.Regexp                                // matches what a real engine says about itself
	slots        bool                                          // it can have several slots
	other        func(*lab) (engine, map[string]string, error) // another build, and the environment a daemon needs for it
}

var (
	builtinVersion = regexp.MustCompile(`^llama\.cpp v\d+\.\d+\.\d+ built-in$`)
	serverVersion  = regexp.MustCompile(`^b\d+-[0-9a-f]{7,}$`)
)

// Real reports whether an engine's version is that of a real llama.cpp: the built-in worker or a llama-server.
func Real(version string) bool {
	return builtinVersion.MatchString(version) || serverVersion.MatchString(version)
}

// RequiresReal reports whether only real engines count (`REQUIRE_REAL_LLAMA=1`).
func RequiresReal() bool {
	required, _ := strconv.ParseBool(os.Getenv(requireReal))
	return required
}

// LlamaServer returns the path of this machine's llama-server. If there is none, absent says why; if one is required, that is the error.
func LlamaServer() (path string, absent, err error) {
	path, err = provision.LocateLlamaServer()
	switch {
	case err == nil:
		return path, nil, nil
	case RequiresReal():
		return "", nil, fmt.Errorf("%s=1 wants a real llama-server beside the built-in worker: %w", requireReal, err)
	case os.Getenv(provision.EnvLlamaServer) != "":
		return "", nil, err // somebody wants it to run
	}
	return "", err, nil
}

// engines lists the engines of this machine, and says why the others are missing. The built-in engine is never missing.
func (l *lab) engines() (present []engine, absent []string, err error) {
	present = []engine{{name: "built-in", provisioning: "{mode: builtin}", versions: builtinVersion, other: otherLibs}}
	server, why, err := LlamaServer()
	switch {
	case err != nil:
		return nil, nil, err
	case why != nil:
		absent = append(absent, fmt.Sprintf("llama-server: not run, because it is not there: %v", why))
	default:
		present = append(present, llamaServer(server))
	}
	return present, absent, nil
}

func llamaServer(path string) engine {
	return engine{
		name: "llama-server", provisioning: binary(path), versions: serverVersion, slots: true,
		other: func(l *lab) (engine, map[string]string, error) {
			other := filepath.Join(l.Dir, "llama-server-other")
			return llamaServerAt(other), nil, appended(path, other)
		},
	}
}

func llamaServerAt(path string) engine { return engine{provisioning: binary(path)} }

func binary(path string) string { return fmt.Sprintf("{mode: binary, path: %q}", path) }

// otherLibs makes a copy of the built-in engine's libraries. One library has a further byte at its end, where nothing reads it.
func otherLibs(l *lab) (engine, map[string]string, error) {
	dir := filepath.Join(l.Dir, "libs-other")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return engine{}, nil, fmt.Errorf("make a folder of other libraries: %w", err)
	}
	entries, err := os.ReadDir(l.Libs)
	if err != nil {
		return engine{}, nil, fmt.Errorf("list the engine's libraries: %w", err)
	}
	const changed = "libggml-base.so"
	for _, e := range entries {
		from, to := filepath.Join(l.Libs, e.Name()), filepath.Join(dir, e.Name())
		if e.Name() == changed {
			err = appended(from, to)
		} else if from, err = filepath.EvalSymlinks(from); err == nil {
			err = os.Symlink(from, to)
		}
		if err != nil {
			return engine{}, nil, fmt.Errorf("make other libraries: %w", err)
		}
	}
	return engine{provisioning: "{mode: builtin}"}, map[string]string{provision.EnvEngineLibs: dir}, nil
}

// appended copies a program or library with one byte more.
func appended(from, to string) error {
	return rewritten(from, to, func(data []byte) []byte { return append(data, 0) })
}

func rewritten(from, to string, change func([]byte) []byte) error {
	in, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("open what is to be copied: %w", err)
	}
	defer func() { _ = in.Close() }()
	data, err := io.ReadAll(in)
	if err != nil {
		return fmt.Errorf("read what is to be copied: %w", err)
	}
	if err := os.WriteFile(to, change(data), 0o700); err != nil { // some of them are programs
		return fmt.Errorf("write a changed copy: %w", err)
	}
	return nil
}
