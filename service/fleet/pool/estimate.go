// SPDX-License-Identifier: GPL-3.0-or-later

package pool

import (
	"errors"
	"fmt"
	"math"
	"os"

	gguf "github.com/gpustack/gguf-parser-go"

	"github.com/llama-orch/llama-orch/service/fleet/vram"
	"github.com/llama-orch/llama-orch/service/task"
)

const (
	mebi = 1 << 20
	// cardContext is what the CUDA context, its kernels and cuBLAS take on each card beside the model.
	cardContext = 300 * mebi
	// processHost is what a process takes on the host beside the model.
	processHost = 32 * mebi
	// guessFixed and guessShare make a guess of a file whose header cannot be read.
	guessFixed = 64 * mebi
	guessShare = 1.2
	maxCtx     = 1 << 24 // what the configuration allows
)

// estimate is what a worker is expected to take. Bytes.
type estimate struct {
	cards []int64 // on each card of the split, in its order; empty on the CPU
	host  int64
}

// sizer estimates what workers of a spec take, by the header of the model's file.
type sizer struct {
	spec Spec
	size int64          // of the file
	file *gguf.GGUFFile // nil: its header is not understood, and everything is a guess
	own  int            // the model's own context, in tokens; 0: not known
}

// newSizer reads the header. With an error the sizer guesses.
func newSizer(spec Spec, size int64) (s *sizer, err error) {
	s = &sizer{spec: spec, size: size}
	defer func() {
		if p := recover(); p != nil { // the parser's, about a header that contradicts itself
			s.file, s.own, err = nil, 0, fmt.Errorf("read the model's header: %v", p)
		}
	}()
	file, err := gguf.ParseGGUFFile(spec.ModelPath, gguf.UseMMap())
	if err != nil {
		return s, fmt.Errorf("read the model's header: %w", err)
	}
	s.file, s.own = file, int(min(file.Architecture().MaximumContextLength, maxCtx))
	return s, nil
}

// at estimates a worker whose slots have such a context; 0: the engine's default.
func (s *sizer) at(ctx int) (e estimate, err error) {
	spec := s.spec
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("estimate the model's memory: %v", p)
		}
		if err != nil {
			e = guess(spec, s.size)
		}
	}()
	if s.file == nil {
		return guess(spec, s.size), nil
	}
	cpu := spec.Device == "cpu"
	options := []gguf.GGUFRunEstimateOption{
		gguf.WithLLaMACppContextSize(int32(min(int64(ctx)*int64(spec.Slots), math.MaxInt32))), // 0: the model's own
		gguf.WithParallelSize(int32(spec.Slots)),
		gguf.WithLLaMACppLogicalBatchSize(batch), gguf.WithLLaMACppPhysicalBatchSize(microBatch),
	}
	if cpu {
		options = append(options, gguf.WithLLaMACppOffloadLayers(0))
	} else {
		options = append(options, gguf.WithLLaMACppOffloadLayers(math.MaxUint64), gguf.WithTensorSplitFraction(cumulated(spec.parts())))
	}
	run := s.file.EstimateLLaMACppRun(options...)
	item := run.SummarizeItem(false, processHost, cardContext)
	e.host = int64(item.RAM.NonUMA)
	if !cpu {
		for _, card := range item.VRAMs {
			e.cards = append(e.cards, int64(card.NonUMA))
		}
	}
	if !e.sensible(spec) {
		return e, errors.New("the estimate of the model's memory makes no sense")
	}
	return e, nil
}

// expectFile is what a worker of the spec is expected to take of the cards, or of the host where it has none; 0 where there
// is no file.
func expectFile(spec Spec) int64 {
	stat, err := os.Stat(spec.ModelPath)
	if err != nil || !stat.Mode().IsRegular() {
		return 0
	}
	s, _ := newSizer(spec, stat.Size()) // a guess will do; the load says that it is one
	ctx := spec.Ctx
	if spec.fitsCtx() { // the swap is planned for the least, and the load takes what there is beyond it
		ctx = s.least()
	}
	e, _ := s.at(ctx)
	return e.expected(spec)
}

// expected is all of it together: on the cards, or on the host where there are none.
func (e estimate) expected(spec Spec) int64 {
	if len(e.cards) == 0 {
		return e.host
	}
	return vram.Sum(e.cards, spec.parts())
}

func (e estimate) sensible(spec Spec) bool {
	if len(e.cards) != spec.cards() || e.host <= 0 {
		return false
	}
	for _, bytes := range e.cards {
		if bytes <= 0 || bytes > math.MaxInt64/1024 {
			return false
		}
	}
	return e.host < math.MaxInt64/1024
}

// guess is for a file that the parser does not understand: its engine may.
func guess(spec Spec, size int64) estimate {
	bytes := float64(size)*guessShare + guessFixed
	if spec.Device == "cpu" {
		return estimate{host: int64(bytes)}
	}
	e := estimate{host: processHost}
	for _, part := range spec.parts() {
		e.cards = append(e.cards, int64(bytes*part)+cardContext)
	}
	return e
}

// cumulated turns parts into the running sums that the parser wants, the last of which is exactly 1.
func cumulated(parts []float64) []float64 {
	sums, sum := make([]float64, len(parts)), 0.0
	for i, part := range parts {
		sum += part
		sums[i] = min(sum, 1)
	}
	sums[len(sums)-1] = 1
	return sums
}

// size writes bytes for people.
func size(bytes int64) string {
	if bytes >= 1<<30 {
		return fmt.Sprintf("%.1f GiB", float64(bytes)/(1<<30))
	}
	return fmt.Sprintf("%.0f MiB", math.Ceil(float64(bytes)/mebi))
}

func unavailable(format string, args ...any) *task.Error {
	return task.Errorf(task.PoolUnavailable, format, args...)
}
