// SPDX-License-Identifier: GPL-3.0-or-later

package pool

import (
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/llama-orch/llama-orch/service/fleet/process"
	"github.com/llama-orch/llama-orch/service/task"
)

// Mode says where a pool's workers come from (ORCH-3200).
type Mode string

// The modes.
const (
	Builtin  Mode = "builtin"  // this program again, as `worker`
	Binary   Mode = "binary"   // a llama-server on this machine
	External Mode = "external" // engines that somebody else runs, by URL
	// Container is llama-server in a container, whose command line is the worker's process.
	Container Mode = "container"
)

// Spec is one pool as configured.
type Spec struct {
	ID       string
	Engine   string // engine kind, e.g. llamacpp
	ModelID  string
	ModelRef string // what Options.Models knows the model by, else a label
	// ModelPath is the model's file. Empty for external pools, and for a model that Options.Models fetches.
	ModelPath string
	Device    string // "cpu", "auto" (each replica gets one GPU that holds it), or a mask of GPU indices: "0", "0,1"
	// TensorSplit says what part of the model each card of the mask holds, as positive shares in its order (ORCH-3052).
	// llama-server alone can split. Empty: no split.
	TensorSplit []float64
	Replicas    int // default 1; external pools have one replica a URL
	Slots       int // default 1; the built-in worker has one
	Ctx         int // tokens a slot's context holds; 0: on cards what fits them, else the engine's default
	// Threads that decode. Default: 1 for a model file under 64 MB, where more threads cost more than they give, else half
	// the logical cores, at least 1.
	Threads    int
	Workload   task.Workload // default completion
	Pace       float64       // built-in worker: at most this many tokens a second; 0: no bound
	Mode       Mode
	BinaryPath string   // of llama-server; a bare name is looked up in PATH. With a Recipe it is what that gives
	BinaryArgs []string // put after the pool's own
	// Recipe is what Options.Prepare makes the engine from before a worker starts; nil: the engine is there. Two that are
	// deeply equal are the same.
	Recipe    any
	Container *process.Container // of mode Container
	URLs      []string           // base URLs of an external pool
	LibsDir   string             // folder of the engine's libraries
	// ModelDigest is the expected digest, "sha256:<hex>"; a model file with another one is refused. Empty: none expected.
	ModelDigest string
	// OnDemand pools are not loaded at Start but by Load (LO-503).
	OnDemand bool
}

// complete fills the defaults in and refuses what cannot work.
func (s *Spec) complete(opts Options) error {
	if s.ID == "" {
		return errors.New("the pool has no id")
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
		if s.Slots != 1 {
			return errors.New("the built-in worker has one slot; raise `replicas` instead of `slots`")
		}
		if s.Workload == task.Rerank {
			return errors.New("the built-in worker does not rerank; use provisioning mode `binary` or `external`")
		}
		if opts.WorkerExe == "" {
			return errors.New("Options.WorkerExe is missing")
		}
	case Binary:
		if s.BinaryPath == "" && s.Recipe == nil {
			return errors.New("provisioning mode `binary` needs the `path` of a llama-server")
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
	if s.Recipe != nil && opts.Prepare == nil {
		return errors.New("Options.Prepare is missing")
	}
	if s.ModelPath == "" && s.ModelRef == "" {
		return errors.New("the pool has no model")
	}
	return s.checkSplit()
}

func (s *Spec) checkSplit() error {
	if len(s.TensorSplit) == 0 {
		return nil
	}
	switch {
	case s.Mode != Binary && s.Mode != Container:
		return errors.New("the built-in worker does not split a model; use provisioning mode `binary`, or leave `tensor_split` out")
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

// cards counts the cards that a replica of the pool gets.
func (s *Spec) cards() int {
	if s.Device == "cpu" || s.Mode == External {
		return 0
	}
	return strings.Count(s.Device, ",") + 1
}

// parts are the cards' parts of the model, which sum to 1.
func (s *Spec) parts() []float64 {
	if len(s.TensorSplit) == 0 {
		even := make([]float64, max(s.cards(), 1))
		for i := range even {
			even[i] = 1 / float64(len(even))
		}
		return even
	}
	sum := 0.0
	for _, share := range s.TensorSplit {
		sum += share
	}
	parts := make([]float64, len(s.TensorSplit))
	for i, share := range s.TensorSplit {
		parts[i] = share / sum
	}
	return parts
}
