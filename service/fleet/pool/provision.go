// SPDX-License-Identifier: GPL-3.0-or-later

package pool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/process"
	"github.com/llama-orch/llama-orch/service/safefile"
)

const smallModel = 64 << 20 // bytes; a smaller model decodes on one thread

// plan says how a worker will be started, and which facts of it are known by then.
type plan struct {
	exe     string
	args    []string
	sized   func(engine.Room) []string // further arguments, once it is decided what the worker gets
	address string                     // where it will listen; empty: it says so itself
	cards   []int                      // that it was granted; nil: nobody grants any
	facts   Facts
	piece   int // as in engine.Endpoint

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
		if spec.Invariant {
			facts.Flags = []string{"batch_invariant"}
		}
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
	spec.ModelPath, w.model, w.marks = model.Path, model.Path, slices.Clone(model.Marks)
	facts.ModelDigest = model.Digest
	if facts.Files, err = r.further(w); err != nil {
		return nil, err
	}
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
	if err := r.hosts(ctx); err != nil {
		return nil, err
	}
	ready, err := plan(ctx, spec, facts, made)
	if err != nil {
		return nil, err
	}
	if err := r.reserve(w, spec, &ready.facts, model.Size, log); err != nil { // it comes last, because it takes from others
		return nil, err
	}
	ready.cards = w.claim.cards
	ready.args = append(ready.args, ready.sized(engine.Room{Ctx: w.claim.load.Ctx, Share: r.share(&w.claim)})...)
	return ready, nil
}

// further returns the digests of the files that the operator's arguments name, and has the worker's look include them. Those of a container
// are inside, and the image's digest stands for them.
func (r *replica) further(w *worker) (sums []string, err error) {
	if r.spec.Mode != Binary {
		return nil, nil
	}
	models, err := safefile.Wait(w.ctx, func(context.Context) ([][]string, error) { return named(r.spec.BinaryArgs) })
	if w.ctx.Err() != nil {
		return nil, context.Cause(w.ctx)
	}
	if err != nil {
		return nil, &loss{reason: refused, fixed: true, err: err}
	}
	for _, parts := range models {
		sum, err := r.m.digests.of(w.ctx, parts...)
		if err != nil {
			return nil, fmt.Errorf("compute the digest of a file that `provisioning.args` names: %w", err)
		}
		sums, w.marks = append(sums, sum.Digest), append(w.marks, sum.Marks...)
	}
	return sums, nil
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
	return &plan{exe: exe, args: c.Args, sized: c.Sized, facts: facts, piece: c.Piece}
}

func (r *replica) planBuiltin(_ context.Context, spec Spec, facts Facts, _ Prepared) (*plan, error) {
	if spec.LibsDir != "" {
		if missing, err := r.kind.Start.Libraries(spec.LibsDir, spec.Device != "cpu"); missing != "" {
			return nil, fixable(missing, spec.LibsDir, err)
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
	// Another program may take the free port before ours does. Ours then ends, and the next try takes another port. A stranger that
	// answers on the port does not know the worker's key, so it does not pass the probe.
	address, port, err := freePort(ctx)
	if err != nil {
		return nil, err
	}
	told := spec.worker()
	told.Threads, told.Host, told.Port, told.Scratch = facts.Threads, "127.0.0.1", port, os.TempDir()
	told.Saves = r.m.opts.SaveDir
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
