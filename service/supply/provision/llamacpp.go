// SPDX-License-Identifier: GPL-3.0-or-later

package provision

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// libPins are the packages that carry llama.cpp's shared libraries, by platform and back end.
var libPins = map[string]pin{
	"linux-x64": {
		name: "@node-llama-cpp/linux-x64", version: Version,
		integrity: "sha512-5uCCDNqWCNfaAm8aR/Uzxbo4HBpKgNF91kCHPepKhgMgV2OAmatoefbOlMihsqCiH2Od35E/eUHQCFbfRBJuOg==",
	},
	"linux-x64-cuda": {
		name: "@node-llama-cpp/linux-x64-cuda", version: Version,
		integrity: "sha512-8rQCjyNNLZJUFit+YpjwlC4hwkKgOMIkB2wuycKBf8NU2O3ySKbiWZQ8aw9ku2nUTXjSnUIrE6KB88itduTBuA==",
	},
	"linux-arm64": {
		name: "@node-llama-cpp/linux-arm64", version: Version,
		integrity: "sha512-W+7naKCXX9/eEjjFmRS8vvx91QyLXDbeFxexZc3bh/PtQABZgmRL3C0AtYYXn4YGTj/3Qor4lWZn2tpjZFPLdQ==",
	},
}

// llamaSource is llama.cpp's source as a git bundle. The bundle's only ref is HEAD.
var llamaSource = artifact{
	kind: "llama-source",
	pin: pin{
		name: "node-llama-cpp", version: Version,
		integrity: "sha512-bltIipuWmc123H7tMIgDGKSsSrhmhlQYeVUC48XTjVW7XGJJiJJyCdlTMzQ/LiWoPkGDpcL4FviDpgw7qfTiDw==",
	},
	make: func(_ context.Context, _ Options, tarball, dir string) error {
		n, err := unpack(tarball, dir, func(name string) string {
			if name == "package/llama/gitRelease.bundle" {
				return sourceFile
			}
			return ""
		})
		if err == nil && n != 1 {
			err = errors.New("the tarball holds no bundle of llama.cpp")
		}
		return err
	},
}

const sourceFile = "source.bundle"

// libsFor returns the pin of the libraries for a platform; with gpu, of those for GPUs if there are any.
func libsFor(platform string, gpu bool) (artifact, error) {
	kind, backend := "engine-libs", platform
	if gpu {
		kind, backend = kind+"-cuda", platform+"-cuda"
	}
	p, ok := libPins[backend]
	if !ok {
		return artifact{}, fmt.Errorf("there are no packaged engine libraries for %s: point %s at a folder with libllama.so and libggml.so of llama.cpp %s",
			backend, EnvEngineLibs, LlamaVersion)
	}
	return artifact{kind: kind, pin: p, make: libsMaker("package/bins/" + backend + "/")}, nil
}

// EngineLibs returns the folder of llama.cpp's shared libraries for the built-in worker. It fetches them if the cache does not have them whole
// (ORCH-3200). A folder that LLORCH_ENGINE_LIBS names is used as it is.
func EngineLibs(ctx context.Context, o Options) (string, error) {
	return libs(false, func(a artifact) (string, error) { return a.ensure(ctx, o) })
}

// LocateEngineLibs is EngineLibs without fetching. If the libraries are absent or broken, its error says how to get them.
func LocateEngineLibs() (string, error) {
	return libs(false, func(a artifact) (string, error) { return a.locate("orchestratord libs") })
}

// CUDALibs is EngineLibs for the libraries with the back end for NVIDIA's GPUs.
func CUDALibs(ctx context.Context, o Options) (string, error) {
	return libs(true, func(a artifact) (string, error) { return a.ensure(ctx, o) })
}

// LocateCUDALibs is CUDALibs without fetching.
func LocateCUDALibs() (string, error) {
	return libs(true, func(a artifact) (string, error) { return a.locate("orchestratord libs --cuda") })
}

// packaged is where a package has the libraries for the CPU, seen from the folder of the programs.
const packaged = "../lib/llama-orch"

// libs returns the folder that LLORCH_ENGINE_LIBS names, or that of the package whose program this is, or else what get makes of this platform's libraries.
func libs(cuda bool, get func(artifact) (string, error)) (string, error) {
	if dir := os.Getenv(EnvEngineLibs); dir != "" {
		return givenLibs(dir)
	}
	if exe, err := os.Executable(); err == nil && !cuda {
		if dir := filepath.Join(filepath.Dir(exe), packaged); lacks(dir) == "" {
			return dir, nil
		}
	}
	a, err := libsFor(platform(), cuda)
	if err != nil {
		return "", err
	}
	return get(a)
}

func givenLibs(dir string) (string, error) {
	if name := lacks(dir); name != "" {
		return "", fmt.Errorf("%s names %s, which lacks %s: point it at llama.cpp's libraries, or unset it", EnvEngineLibs, dir, name)
	}
	return filepath.Abs(dir)
}

// lacks names a library that a folder should have and has not.
func lacks(dir string) string {
	for _, name := range []string{"libllama.so", "libggml.so", "libggml-base.so"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return name
		}
	}
	return ""
}

var (
	libName       = regexp.MustCompile(`^lib[A-Za-z0-9._-]+\.so$`)
	versionedName = regexp.MustCompile(`^(lib[a-z]+)(\.cuda)?\.v[0-9.]+\.so$`)
)

// libsMaker returns a function that unpacks the libraries of one folder of a tarball.
func libsMaker(folder string) func(context.Context, Options, string, string) error {
	return func(_ context.Context, o Options, tarball, dir string) error {
		o.say("unpacking the engine libraries")
		n, err := unpack(tarball, dir, func(name string) string {
			if base, ok := strings.CutPrefix(name, folder); ok && libName.MatchString(base) {
				return base
			}
			return ""
		})
		if err == nil && n == 0 {
			err = fmt.Errorf("the tarball holds no libraries under %s", folder)
		}
		if err != nil {
			return err
		}
		return linkLibs(dir)
	}
}

func linkLibs(dir string) error {
	// The binding opens libllama.so and libggml.so, but the package's names contain the version.
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

// built is a program of llama.cpp from the packaged source: what is built, and how people name and make it.
type built struct {
	want   Want
	env    string // names a program to be used instead
	target string
}

var (
	server = built{Want{Pool: serverName, Mode: Source}, EnvLlamaServer, "engine:llamaServer"}
	// serverRPC is a llama-server that computes on other hosts too, with the program that those hosts run (LO-470).
	serverRPC = built{Want{Pool: serverName + " with RPC", Mode: Source}.WithRPC(), EnvLlamaServerRPC, "engine:llamaServerRPC"}
)

// rpcName is the program that lends a host's devices to a llama-server elsewhere.
const rpcName = "ggml-rpc-server"

// WithRPC is the same engine, built from source so that it computes on other hosts too, with the program that those run beside it.
func (w Want) WithRPC() Want {
	w.CMakeFlags, w.Beside = append([]string{"-DGGML_RPC=ON"}, w.CMakeFlags...), []string{rpcName}
	return w
}

func (b built) plan(o Options) (Plan, error) {
	m, err := ThisMachine(o)
	if err != nil {
		return Plan{}, err
	}
	return MakePlan(b.want, m)
}

func (b built) make(ctx context.Context, o Options) (string, error) {
	if file := os.Getenv(b.env); file != "" {
		return b.given(file)
	}
	p, err := b.plan(o)
	if err != nil {
		return "", err
	}
	o.Decide = ByHand{}
	e, err := Run(ctx, o, p)
	return e.Path, err
}

func (b built) locate() (string, error) {
	if file := os.Getenv(b.env); file != "" {
		return b.given(file)
	}
	p, err := b.plan(Options{})
	if err != nil {
		return "", err
	}
	e, ok := p.cached()
	if !ok {
		return "", fmt.Errorf("%s is not built, or not whole: run `go tool mage %s`", b.want.Pool, b.target)
	}
	return e.Path, nil
}

// LlamaServer returns the path of a llama-server from the packaged source. If the cache has none, it builds one, which takes about ten minutes
// on two cores. A program that LLORCH_LLAMA_SERVER names is used as it is.
func LlamaServer(ctx context.Context, o Options) (string, error) { return server.make(ctx, o) }

// LocateLlamaServer is LlamaServer without building.
func LocateLlamaServer() (string, error) { return server.locate() }

// LlamaServerRPC is LlamaServer for one that knows llama.cpp's RPC back end. Beside it is ggml-rpc-server (RPCServer). A program that
// LLORCH_LLAMA_SERVER_RPC names is used as it is, with its neighbour.
func LlamaServerRPC(ctx context.Context, o Options) (string, error) { return serverRPC.make(ctx, o) }

// LocateLlamaServerRPC is LlamaServerRPC without building.
func LocateLlamaServerRPC() (string, error) { return serverRPC.locate() }

// RPCServer returns the path of the ggml-rpc-server of a llama-server with RPC.
func RPCServer(llamaServer string) string { return filepath.Join(filepath.Dir(llamaServer), rpcName) }

func (b built) given(file string) (string, error) {
	st, err := os.Stat(file)
	if err != nil || !st.Mode().IsRegular() || st.Mode()&0o111 == 0 {
		return "", fmt.Errorf("%s names %s, which is no program: correct it, or unset it", b.env, file)
	}
	return filepath.Abs(file)
}
