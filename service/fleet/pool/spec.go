// SPDX-License-Identifier: GPL-3.0-or-later

package pool

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/process"
	"github.com/llama-orch/llama-orch/service/fleet/vram"
	"github.com/llama-orch/llama-orch/service/task"
)

// Mode says where a pool's workers come from (ORCH-3200).
type Mode string

// The modes.
const (
	Builtin  Mode = "builtin"  // this program again, as `worker`
	Binary   Mode = "binary"   // the engine's own program on this machine
	External Mode = "external" // engines that somebody else runs, by URL
	// Container is that program in a container. The command that runs the container is the worker's process.
	Container Mode = "container"
)

// Spec is one pool as configured.
type Spec struct {
	ID       string
	Engine   string // its kind, one of Options.Kinds
	ModelID  string
	ModelRef string // the name by which Options.Models knows the model; else only a label
	// ModelPath is the model's file. Empty for external pools, and for a model that Options.Models fetches.
	ModelPath string
	Device    string // "cpu", "auto" (each replica gets one GPU that holds it), or a mask of GPU indices: "0", "0,1"
	// TensorSplit says what part of the model each card of the mask holds, in the order of the mask, as positive numbers (ORCH-3052).
	// Empty: no split.
	TensorSplit []float64
	Hosts       []string // that compute a part of the model, as HOST:PORT (LO-470)
	Replicas    int      // default 1; an external pool has one for each URL
	Slots       int      // default 1; the built-in worker has one
	Ctx         int      // tokens that the context of a slot holds; 0: as many as fit the cards, or on the CPU the engine's default
	// Threads that decode. Default: half the logical cores, at least 1; and 1 for a model file under 64 MB, where more threads cost
	// more than they give.
	Threads    int
	Workload   task.Workload // default completion
	Prefixes   engine.Prefixes
	Pace       float64 // built-in worker: at most this many tokens a second; 0: no bound
	Mode       Mode
	BinaryPath string   // of the engine's own program; a bare name is looked up in PATH. A Recipe gives another
	BinaryArgs []string // put after our own arguments
	// Recipe makes the engine ready before a worker starts; nil: the engine is there.
	Recipe    Recipe
	Container *process.Container // of mode Container
	URLs      []string           // base URLs of an external pool
	Key       string             // that the engines of an external pool ask for; empty: none
	ModelName string             // by which the engine knows the model, where it serves models by name
	// Invariant says that the engine promises the same bytes whatever else it computes (LO-453).
	Invariant bool
	Health    string // the path of the engine that tells whether it is well, where its kind does not know it
	Memory    int64  // that a worker is configured to take, in bytes; 0: it is estimated and learned
	NoModel   bool   // its workers need no model's file, and ModelRef is a label
	LibsDir   string // folder of the engine's libraries
	// ModelDigest is the digest that the model's file must have, "sha256:<hex>". Empty: any.
	ModelDigest string
	// OnDemand: Load loads the pool, and Start does not (LO-503).
	OnDemand bool
}

// Recipe is how an engine is made ready. Two that are deeply equal are the same.
type Recipe interface {
	// Prepare is called before every worker, by several goroutines. It returns at once if the engine is there. Its error says what
	// to do.
	Prepare(ctx context.Context) (Prepared, error)
}

// Prepared is an engine that is ready.
type Prepared struct {
	Path     string // of the program; of a container the image, by its id
	Digest   string // of a container's image
	BuildRef string
	Flags    []string // that it was built with
}

// complete fills the defaults in, and refuses a spec that cannot work.
func (s *Spec) complete(opts Options) error {
	if s.ID == "" {
		return errors.New("the pool has no id")
	}
	kind, err := opts.kind(s.Engine)
	if err != nil {
		return err
	}
	if kind.Start == nil && s.Mode != External {
		return fmt.Errorf("engines of kind %s are not started here; use provisioning mode `external`", s.Engine)
	}
	if s.Workload == "" {
		s.Workload = task.Completion
	}
	if s.Device == "" {
		s.Device = "cpu"
	}
	s.Replicas, s.Slots = max(s.Replicas, 1), max(s.Slots, 1)
	switch s.Mode {
	case Builtin:
		if opts.WorkerExe == "" {
			return errors.New("Options.WorkerExe is missing")
		}
	case Binary:
		if s.BinaryPath == "" && s.Recipe == nil {
			return fmt.Errorf("provisioning mode `binary` needs the `path` of a %s", kind.Start.Program)
		}
	case Container:
		if s.Container == nil || len(s.Container.Argv) == 0 || s.Recipe == nil {
			return errors.New("provisioning mode `container` needs its command and its image")
		}
	case External:
		s.Replicas, s.Device = len(s.URLs), "external"
		return nil
	default:
		return fmt.Errorf("unknown provisioning mode %q; one of builtin, binary, container, external", s.Mode)
	}
	if err := kind.Start.Check(s.worker()); err != nil {
		return err
	}
	if s.ModelPath == "" && s.ModelRef == "" && !s.NoModel {
		return errors.New("the pool has no model")
	}
	if kind.Start.Even && len(s.TensorSplit) == 0 && s.cards() > 1 {
		s.TensorSplit = slices.Repeat([]float64{1}, s.cards())
	}
	if len(s.Hosts) > 0 && s.Replicas > 1 {
		return errors.New("a pool with `rpc` has one replica, since a host serves one worker at a time")
	}
	return s.checkSplit()
}

func (s *Spec) checkSplit() error {
	if len(s.TensorSplit) == 0 {
		return nil
	}
	switch {
	case s.Device == "cpu" || s.Device == "auto":
		return fmt.Errorf("`tensor_split` needs the cards it is for: name them in `device`, as in \"0,1\", instead of %q", s.Device)
	case s.cards() != len(s.TensorSplit):
		return fmt.Errorf("`tensor_split` has %d shares, and `device: %s` has %d cards: give each card one share", len(s.TensorSplit), s.Device, s.cards())
	}
	for _, share := range s.TensorSplit {
		if !(share > 0) || math.IsInf(share, 0) {
			return errors.New("every share of `tensor_split` must be a positive number")
		}
	}
	return nil
}

// worker says what the engine's kind has to know of the pool's workers.
func (s *Spec) worker() engine.Worker {
	return engine.Worker{
		BuiltIn: s.Mode == Builtin, Workload: s.Workload, Model: s.ModelPath, Name: s.ModelID, Libs: s.LibsDir, Cards: s.cards(), Split: s.TensorSplit, Hosts: s.Hosts,
		Slots: s.Slots, Threads: s.Threads, Ctx: s.Ctx, Prefixes: s.Prefixes, Memory: s.Memory, Pace: s.Pace, Args: s.BinaryArgs,
	}
}

// features are what the pool's engines can have before one of them has told.
func (s *Spec) features(kind engine.Kind) []task.Feature {
	if kind.Features == nil {
		return nil
	}
	return kind.Features(s.worker())
}

// strict reports whether a worker of the pool gives the same bytes again, where its engine has so many slots (LO-453).
func (s *Spec) strict(slots int) bool {
	return s.Invariant || slots == 1 && task.Exact(s.Engine) && len(s.Hosts) == 0
}

// cards counts the cards that a replica of the pool gets.
func (s *Spec) cards() int {
	if s.Device == "cpu" || s.Mode == External {
		return 0
	}
	return strings.Count(s.Device, ",") + 1
}

// parts are the parts of the model that the cards hold. They sum to 1.
func (s *Spec) parts() []float64 { return vram.Parts(s.TensorSplit, s.cards()) }
