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
	"strings"
	"sync"
	"syscall"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/process"
)

const smallModel = 64 << 20 // bytes; a smaller model decodes on one thread

// plan says how a worker will be started, and which facts of it are known by then.
type plan struct {
	exe     string
	args    []string
	withCtx func(ctx int) []string // further arguments, once the context is decided on
	address string                 // where it will listen; empty: it says so itself
	cards   []int                  // that it was granted; nil: nobody grants any
	facts   Facts

	container *process.Container // nil: the program is run as it is
	image     string             // of the container; empty: no container. The arguments are for the program inside
}

// provision checks everything that a worker needs, so that whatever is missing is named before a process starts. At the end it
// reserves the worker's memory.
func (r *replica) provision(w *worker, log *zap.Logger) (*plan, error) {
	ctx, spec := w.ctx, r.spec
	facts := Facts{Engine: spec.Engine}
	if spec.Mode == External {
		facts.ModelDigest = spec.ModelDigest // nobody here can check it
		facts.Device = strings.TrimRight(spec.URLs[r.index], "/")
		return &plan{facts: facts}, nil
	}
	if spec.Device == "cpu" {
		facts.Device = cpuDevice()
	} else if r.m.opts.VRAM == nil {
		if err := r.m.opts.CheckGPU(spec.Device); err != nil {
			return nil, &loss{reason: refused, fixed: true, err: err}
		}
		facts.Device = "gpu:" + spec.Device
	}
	model, err := r.model(w, log)
	if err != nil {
		return nil, err
	}
	spec.ModelPath, w.model = model.Path, model.Path
	facts.ModelDigest = model.Digest
	facts.Threads = spec.Threads
	if facts.Threads <= 0 {
		facts.Threads = defaultThreads(model.Size, runtime.NumCPU())
	}
	var made Prepared
	if spec.Recipe != nil {
		if made, err = spec.Recipe.Prepare(ctx); err != nil {
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
	ready, err := plan(ctx, spec, facts, made)
	if err != nil {
		return nil, err
	}
	if err := r.reserve(w, spec, &ready.facts, model.Size, log); err != nil { // it comes last, because it takes from others
		return nil, err
	}
	ready.cards = w.claim.cards
	ready.args = append(ready.args, ready.withCtx(w.claim.load.Ctx)...)
	return ready, nil
}

// unprepared is a loss because the engine could not be made. Another try would fail in the same way, after the same work.
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

// newPlan is the plan of a command. It adds the command's facts.
func newPlan(exe string, facts Facts, c engine.Command) *plan {
	facts.Batch, facts.Flags = c.Batch, c.Flags
	return &plan{exe: exe, args: c.Args, withCtx: c.Sized, facts: facts}
}

func (r *replica) planBuiltin(ctx context.Context, spec Spec, facts Facts, _ Prepared) (*plan, error) {
	if spec.LibsDir != "" {
		if missing, err := r.kind.Start.Libraries(spec.LibsDir, spec.Device != "cpu"); missing != "" {
			return nil, fixable(missing, spec.LibsDir, err)
		}
		var err error
		if facts.EngineDigest, err = r.m.digests.libraries(ctx, spec.LibsDir); err != nil {
			return nil, fmt.Errorf("compute the digest of the engine's libraries: %w", err)
		}
	}
	told := spec.worker()
	told.Threads = facts.Threads
	return newPlan(r.m.opts.WorkerExe, facts, r.kind.Start.Command(told)), nil
}

func (r *replica) planBinary(ctx context.Context, spec Spec, facts Facts, made Prepared) (*plan, error) {
	program := r.kind.Start.Program
	exe, err := exec.LookPath(cmp.Or(made.Path, spec.BinaryPath))
	if err != nil {
		return nil, fixable(fmt.Sprintf("there is no such %s: %s", program, r.kind.Start.Install), spec.BinaryPath, err)
	}
	if facts.EngineDigest, err = r.m.digests.file(ctx, exe); err != nil {
		return nil, fmt.Errorf("compute the digest of %s: %w", program, err)
	}
	// Another program may take the free port before ours does. Ours then ends, and the next try takes another port. A stranger that
	// answers on the port does not know the worker's key, so it does not pass the probe.
	address, port, err := freePort(ctx)
	if err != nil {
		return nil, err
	}
	told := spec.worker()
	told.Threads, told.Host, told.Port, told.Scratch = facts.Threads, "127.0.0.1", port, os.TempDir()
	p := newPlan(exe, facts, r.kind.Start.Command(told))
	p.address = address
	return p, nil
}

// freePort finds a port of the loopback interface that is free now.
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

// fixable is a loss that lasts until somebody follows the text.
func fixable(text, path string, err error) *loss {
	text = fmt.Sprintf("%s (%s)", text, path)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil // the text says so already
	}
	return &loss{reason: refused, detail: text, err: err, fixed: true}
}

// digests computes SHA-256 digests of files. It reads a file again only if its path, time or size has changed.
type digests struct {
	mu    sync.Mutex
	known map[fileID]*digest
}

type fileID struct {
	path         string
	device, node uint64
	size, mtime  int64
}

// digest is the digest of one file. Its mutex is held while the file is read, so that the replicas of one model read it once.
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

// untilDone is a reader that fails once ctx has ended.
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
