// SPDX-License-Identifier: GPL-3.0-or-later

package provision

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
)

// libPins are the packages that carry llama.cpp's shared libraries, by platform.
var libPins = map[string]pin{
	"linux-x64": {
		name: "@node-llama-cpp/linux-x64", version: Version,
		integrity: "sha512-5uCCDNqWCNfaAm8aR/Uzxbo4HBpKgNF91kCHPepKhgMgV2OAmatoefbOlMihsqCiH2Od35E/eUHQCFbfRBJuOg==",
	},
	"linux-arm64": {
		name: "@node-llama-cpp/linux-arm64", version: Version,
		integrity: "sha512-W+7naKCXX9/eEjjFmRS8vvx91QyLXDbeFxexZc3bh/PtQABZgmRL3C0AtYYXn4YGTj/3Qor4lWZn2tpjZFPLdQ==",
	},
}

// sourcePin is the package that carries llama.cpp's source as a git bundle.
var sourcePin = pin{
	name: "node-llama-cpp", version: Version,
	integrity: "sha512-bltIipuWmc123H7tMIgDGKSsSrhmhlQYeVUC48XTjVW7XGJJiJJyCdlTMzQ/LiWoPkGDpcL4FviDpgw7qfTiDw==",
}

const sourceBundle = "package/llama/gitRelease.bundle"

func engineLibs() (artifact, error) {
	p, ok := libPins[platform()]
	if !ok {
		return artifact{}, fmt.Errorf("there are no packaged engine libraries for %s: point %s at a folder with libllama.so and libggml.so of llama.cpp %s",
			platform(), EnvEngineLibs, LlamaVersion)
	}
	return artifact{kind: "engine-libs", pin: p, make: makeEngineLibs}, nil
}

// EngineLibs returns the folder of llama.cpp's shared libraries for the built-in worker, fetching them when they are not
// in the cache or not whole there (ORCH-3200). A folder named by LLORCH_ENGINE_LIBS is used as it is.
func EngineLibs(ctx context.Context, o Options) (string, error) {
	if dir := os.Getenv(EnvEngineLibs); dir != "" {
		return givenLibs(dir)
	}
	a, err := engineLibs()
	if err != nil {
		return "", err
	}
	return a.ensure(ctx, o)
}

// LocateEngineLibs is EngineLibs without fetching: where the libraries are absent or broken, its error says how to get
// them.
func LocateEngineLibs() (string, error) {
	if dir := os.Getenv(EnvEngineLibs); dir != "" {
		return givenLibs(dir)
	}
	a, err := engineLibs()
	if err != nil {
		return "", err
	}
	return a.locate("engine:libs")
}

func givenLibs(dir string) (string, error) {
	for _, name := range []string{"libllama.so", "libggml.so", "libggml-base.so"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return "", fmt.Errorf("%s names %s, which lacks %s: point it at llama.cpp's libraries, or unset it", EnvEngineLibs, dir, name)
		}
	}
	return filepath.Abs(dir)
}

var (
	libName       = regexp.MustCompile(`^lib[A-Za-z0-9._-]+\.so$`)
	versionedName = regexp.MustCompile(`^(lib[a-z]+)\.v[0-9.]+\.so$`)
)

func makeEngineLibs(_ context.Context, o Options, tarball, dir string) error {
	o.say("unpacking the engine libraries")
	folder := "package/bins/" + platform() + "/"
	n, err := unpack(tarball, dir, func(name string) string {
		if base, ok := strings.CutPrefix(name, folder); ok && libName.MatchString(base) {
			return base
		}
		return ""
	})
	if err != nil {
		return err
	}
	if n == 0 {
		return fmt.Errorf("the tarball holds no libraries under %s", folder)
	}
	// The binding opens libllama.so and libggml.so; the package has them with the version in their names.
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if m := versionedName.FindStringSubmatch(e.Name()); m != nil {
			if err := os.Symlink(e.Name(), filepath.Join(dir, m[1]+".so")); err != nil {
				return err
			}
		}
	}
	_, err = givenLibs(dir)
	return err
}

var llamaServer = artifact{kind: "llama-server", pin: sourcePin, make: makeLlamaServer}

const serverName = "llama-server"

// LlamaServer returns the path of a llama-server built from the packaged source, building it when it is not in the cache:
// about ten minutes on two cores. A binary named by LLORCH_LLAMA_SERVER is used as it is.
func LlamaServer(ctx context.Context, o Options) (string, error) {
	if file := os.Getenv(EnvLlamaServer); file != "" {
		return givenServer(file)
	}
	dir, err := llamaServer.ensure(ctx, o)
	return filepath.Join(dir, serverName), err
}

// LocateLlamaServer is LlamaServer without building.
func LocateLlamaServer() (string, error) {
	if file := os.Getenv(EnvLlamaServer); file != "" {
		return givenServer(file)
	}
	dir, err := llamaServer.locate("engine:llamaServer")
	return filepath.Join(dir, serverName), err
}

func givenServer(file string) (string, error) {
	st, err := os.Stat(file)
	if err != nil || !st.Mode().IsRegular() || st.Mode()&0o111 == 0 {
		return "", fmt.Errorf("%s names %s, which is no program: correct it, or unset it", EnvLlamaServer, file)
	}
	return filepath.Abs(file)
}

func makeLlamaServer(ctx context.Context, o Options, tarball, dir string) error {
	if err := preflight("git", "cmake", "ninja", "c++"); err != nil {
		return err
	}
	work := filepath.Dir(dir)
	n, err := unpack(tarball, work, func(name string) string {
		if name == sourceBundle {
			return "source.bundle"
		}
		return ""
	})
	if err != nil {
		return err
	}
	if n != 1 {
		return fmt.Errorf("the tarball holds no %s", sourceBundle)
	}
	o.say("cloning llama.cpp %s", LlamaVersion)
	if err := run(ctx, work, "git", "clone", "--quiet", "source.bundle", "source"); err != nil {
		return err
	}
	o.say("configuring llama-server")
	err = run(ctx, work, "cmake", "-S", "source", "-B", "build", "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-DLLAMA_CURL=OFF",
		"-DBUILD_SHARED_LIBS=OFF", "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF")
	if err != nil {
		return err
	}
	o.say("building llama-server; this takes about ten minutes on two cores")
	err = run(ctx, work, "cmake", "--build", "build", "--target", serverName, "--parallel", strconv.Itoa(runtime.NumCPU()))
	if err != nil {
		return err
	}
	return os.Rename(filepath.Join(work, "build", "bin", serverName), filepath.Join(dir, serverName))
}

// How to get the tools that preparing needs.
var (
	debianPackage = map[string]string{"npm": "npm", "git": "git", "cmake": "cmake", "ninja": "ninja-build", "c++": "g++"}
	archPackage   = map[string]string{"npm": "npm", "git": "git", "cmake": "cmake", "ninja": "ninja", "c++": "gcc"}
)

func preflight(tools ...string) error {
	var absent []string
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			absent = append(absent, tool)
		}
	}
	return missing(absent)
}

func missing(tools []string) error {
	if len(tools) == 0 {
		return nil
	}
	var debian, arch []string
	for _, tool := range tools {
		debian, arch = append(debian, debianPackage[tool]), append(arch, archPackage[tool])
	}
	return errors.New("missing on this machine: " + strings.Join(tools, ", ") +
		". Debian: apt-get install -y " + strings.Join(debian, " ") + "; Arch: pacman -S --needed " + strings.Join(arch, " "))
}
