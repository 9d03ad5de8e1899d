// SPDX-License-Identifier: GPL-3.0-or-later

package pool

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/fleet/process"
	"github.com/llama-orch/llama-orch/service/task"
)

const (
	smallModel = 64 << 20 // bytes; a smaller model decodes on one thread
	batch      = 2048     // llama-server's own defaults, said aloud so that a new version cannot change them
	microBatch = 512
)

// plan is a worker about to be started, and the facts known of it by then.
type plan struct {
	exe     string
	args    []string
	withCtx func(ctx int) []string // the arguments of a context, once it is decided on
	address string                 // where it will listen; empty where it says so itself
	cards   []int                  // granted; nil where Memory grants none
	facts   Facts

	container *process.Container // nil: the program is run as it is
	image     string             // of the container; the arguments are those of its program
}

// provision checks everything a worker needs, so that what is missing is named before a process starts, and reserves its
// memory.
func (r *replica) provision(w *worker, log *zap.Logger) (*plan, error) {
	ctx, spec := w.ctx, r.spec
	facts := Facts{Engine: spec.Engine}
	if spec.Mode == External {
		facts.ModelDigest = spec.ModelDigest // as it says itself
		facts.Device = strings.TrimRight(spec.URLs[r.index], "/")
		return &plan{facts: facts}, nil
	}
	if spec.Device == "cpu" {
		facts.Device = cpuDevice()
	} else if r.m.opts.Memory == nil {
		if err := r.m.opts.CheckGPU(spec.Device); err != nil {
			return nil, &loss{reason: refused, fixed: true, err: err}
		}
		facts.Device = "gpu:" + spec.Device
	}
	model, err := r.model(w, log)
	if err != nil {
		return nil, err
	}
	facts.ModelDigest = model.Digest
	facts.Threads = spec.Threads
	if facts.Threads <= 0 {
		facts.Threads = defaultThreads(model.Size, runtime.NumCPU())
	}
	var made Prepared
	if spec.Recipe != nil {
		if made, err = r.m.opts.Prepare(ctx, spec.Recipe); err != nil {
			return nil, unprepared(ctx, err)
		}
		facts.BuildRef, facts.BuildFlags = made.BuildRef, made.Flags
	}
	plan := r.planBuiltin
	switch spec.Mode {
	case Binary:
		plan = r.planBinary
	case Container:
		plan = r.planContainer
	case Builtin, External:
	}
	ready, err := plan(ctx, facts, made)
	if err != nil {
		return nil, err
	}
	if err := r.reserve(w, &ready.facts, model.Size, log); err != nil { // last: it takes from others
		return nil, err
	}
	ready.cards = w.claim.cards
	ready.args = append(ready.args, ready.withCtx(w.claim.load.Ctx)...)
	return ready, nil
}

// unprepared is a loss for want of an engine. Trying again soon would do the same work again for nothing, unless the engine
// could not be fetched.
func unprepared(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return &loss{reason: refused, detail: "the engine could not be prepared", err: err, fixed: true}
}

func defaultThreads(modelSize int64, cores int) int {
	if modelSize < smallModel {
		return 1
	}
	return max(cores/2, 1)
}

func (r *replica) planBuiltin(ctx context.Context, facts Facts, _ Prepared) (*plan, error) {
	spec := r.spec
	if spec.LibsDir != "" {
		if _, err := os.Stat(filepath.Join(spec.LibsDir, "libllama.so")); err != nil {
			return nil, fixable("the engine's libraries are not there: run `go tool mage engine:libs`", spec.LibsDir, err)
		}
		if spec.Device != "cpu" {
			if found, err := filepath.Glob(filepath.Join(spec.LibsDir, "libggml-cuda*")); err != nil || len(found) == 0 {
				return nil, fixable("the engine's libraries have no CUDA back end, and a GPU pool never falls back to the CPU: "+
					"fetch libraries with CUDA (`go tool mage engine:libsCUDA`), or say `device: cpu`", spec.LibsDir, err)
			}
		}
		var err error
		if facts.EngineDigest, err = r.m.digests.libraries(ctx, spec.LibsDir); err != nil {
			return nil, fmt.Errorf("compute the digest of the engine's libraries: %w", err)
		}
	}
	facts.Flags = []string{"workload=" + string(spec.Workload)}
	return &plan{exe: r.m.opts.WorkerExe, facts: facts, args: []string{
		"worker", "--model", spec.ModelPath, "--libs", spec.LibsDir, "--threads", strconv.Itoa(facts.Threads),
		"--pace", strconv.FormatFloat(spec.Pace, 'g', -1, 64), "--workload", string(spec.Workload),
	}, withCtx: func(ctx int) []string { return []string{"--ctx", strconv.Itoa(ctx)} }}, nil
}

func (r *replica) planBinary(ctx context.Context, facts Facts, made Prepared) (*plan, error) {
	spec := r.spec
	exe, err := exec.LookPath(cmp.Or(made.Path, spec.BinaryPath))
	if err != nil {
		return nil, fixable("there is no such llama-server: install it, or build it with `go tool mage engine:llamaServer`, "+
			"and correct `provisioning.path`", spec.BinaryPath, err)
	}
	if facts.EngineDigest, err = r.m.digests.file(ctx, exe); err != nil {
		return nil, fmt.Errorf("compute the digest of llama-server: %w", err)
	}
	// A port found free may be taken before llama-server binds it. It then ends, and the next try takes another; a stranger
	// that answers on it meanwhile does not know the worker's key, and does not pass the probe.
	address, port, err := freePort(ctx)
	if err != nil {
		return nil, err
	}
	args, withCtx, facts := r.serverArgs(facts, spec.ModelPath, "127.0.0.1", port)
	return &plan{exe: exe, args: args, withCtx: withCtx, address: address, facts: facts}, nil
}

// serverArgs is what llama-server is told, up to its context and from there, and the facts that this makes.
func (r *replica) serverArgs(facts Facts, model, host, port string) (args []string, withCtx func(ctx int) []string, _ Facts) {
	spec := r.spec
	facts.Batch = batch
	if spec.Device == "cpu" {
		facts.Flags = []string{"--device", "none", "-ngl", "0"}
	} else { // all layers or none: what does not fit must fail, not move to the CPU
		facts.Flags = []string{"-ngl", "all", "--fit", "off"}
	}
	if len(spec.TensorSplit) > 0 {
		shares := make([]string, len(spec.TensorSplit))
		for i, share := range spec.TensorSplit {
			shares[i] = strconv.FormatFloat(share, 'g', -1, 64)
		}
		facts.Flags = append(facts.Flags, "--tensor-split", strings.Join(shares, ","))
	}
	switch spec.Workload {
	case task.Completion:
	case task.Embedding:
		facts.Flags = append(facts.Flags, "--embedding")
	case task.Rerank:
		facts.Flags = append(facts.Flags, "--embedding", "--pooling", "rank", "--reranking")
	}
	facts.Flags = append(facts.Flags, spec.BinaryArgs...)
	slots := os.TempDir()
	if spec.Mode == Container {
		slots = "/tmp"
	}
	args = []string{
		"-m", model, "--parallel", strconv.Itoa(spec.Slots), "-t", strconv.Itoa(facts.Threads),
		"-b", strconv.Itoa(batch), "-ub", strconv.Itoa(microBatch),
		"--host", host, "--port", port, "--cache-ram", "0", "--no-webui", "--offline", "--log-colors", "off",
		"--slot-save-path", slots, // without a folder it does not erase slots either; nothing is ever saved
	}
	withCtx = func(ctx int) []string {
		var sized []string
		if ctx > 0 { // llama-server divides it among the slots
			sized = []string{"-c", strconv.Itoa(ctx * spec.Slots)}
		}
		return append(sized, facts.Flags...)
	}
	return args, withCtx, facts
}

// freePort finds a port of the loopback that is free now.
func freePort(ctx context.Context) (address, port string, err error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", "", fmt.Errorf("find a free port: %w", err)
	}
	address = listener.Addr().String()
	if err := listener.Close(); err != nil {
		return "", "", fmt.Errorf("find a free port: %w", err)
	}
	_, port, err = net.SplitHostPort(address)
	return address, port, err
}

// fixable is a loss that lasts until somebody does what the text says.
func fixable(text, path string, err error) *loss {
	text = fmt.Sprintf("%s (%s)", text, path)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil // the text says it
	}
	return &loss{reason: refused, detail: text, err: err, fixed: true}
}

// digests computes SHA-256 digests of files, once a file as long as its path, time and size stay.
type digests struct {
	mu    sync.Mutex
	known map[fileID]*digest
}

type fileID struct {
	path         string
	device, node uint64
	size, mtime  int64
}

// digest is one file's. Its mutex is held while it is computed, so that replicas of one model read it once.
type digest struct {
	mu  sync.Mutex
	hex string
}

func identify(path string) (fileID, error) {
	stat, err := os.Stat(path)
	if err != nil {
		return fileID{}, err
	}
	id := fileID{path: path, size: stat.Size(), mtime: stat.ModTime().UnixNano()}
	if sys, ok := stat.Sys().(*syscall.Stat_t); ok {
		id.device, id.node = sys.Dev, sys.Ino
	}
	return id, nil
}

// file returns "sha256:<hex>" of a file's content.
func (d *digests) file(ctx context.Context, path string) (string, error) {
	id, err := identify(path)
	if err != nil {
		return "", err
	}
	d.mu.Lock()
	if d.known == nil {
		d.known = map[fileID]*digest{}
	}
	entry := d.known[id]
	if entry == nil {
		entry = &digest{}
		d.known[id] = entry
	}
	d.mu.Unlock()

	entry.mu.Lock()
	defer entry.mu.Unlock()
	if entry.hex != "" {
		return entry.hex, nil
	}
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = file.Close() }()
	hash := sha256.New()
	if _, err := io.CopyBuffer(hash, untilDone{ctx, file}, make([]byte, 1<<20)); err != nil {
		return "", err
	}
	if now, err := identify(path); err != nil || now != id {
		return "", errors.Join(fmt.Errorf("%s changed while it was read", path), err)
	}
	entry.hex = "sha256:" + hex.EncodeToString(hash.Sum(nil))
	return entry.hex, nil
}

// libraries returns one digest for all shared libraries of a folder.
func (d *digests) libraries(ctx context.Context, dir string) (string, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.so*")) // sorted
	if err != nil {
		return "", err
	}
	hash := sha256.New()
	for _, name := range names {
		sum, err := d.file(ctx, name)
		if err != nil {
			return "", err
		}
		_, _ = fmt.Fprintf(hash, "%s %s\n", filepath.Base(name), sum)
	}
	return "sha256:" + hex.EncodeToString(hash.Sum(nil)), nil
}

// untilDone is a reader that ends with ctx.
type untilDone struct {
	ctx context.Context
	r   io.Reader
}

func (u untilDone) Read(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.r.Read(p)
}
