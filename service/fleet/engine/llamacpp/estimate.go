// SPDX-License-Identifier: GPL-3.0-or-later

package llamacpp

import (
	"errors"
	"fmt"
	"math"

	parser "github.com/gpustack/gguf-parser-go"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/vram"
	"github.com/llama-orch/llama-orch/service/gguf"
)

const (
	mebi = 1 << 20
	// cardContext is what the CUDA context, its kernels and cuBLAS take on each card, in addition to the model.
	cardContext = 300 * mebi
	// processHost is what a process takes on the host, in addition to the model.
	processHost = 32 * mebi
	// guessFixed and guessShare are for a guess, if the header of a file cannot be read.
	guessFixed = 64 * mebi
	guessShare = 1.2
	maxCtx     = 1 << 24 // what the configuration allows
)

// sizer estimates what workers take, from the header of the model's file.
type sizer struct {
	w    engine.Worker
	size int64            // of the file
	file *parser.GGUFFile // nil: nobody understands its header, and everything is a guess
	own  int              // the model's own context, in tokens; 0: not known
}

// size reads the header. With an error the sizer guesses.
func size(w engine.Worker, fileBytes int64) (engine.Sizer, error) {
	s := &sizer{w: w, size: fileBytes}
	file, err := gguf.Read(w.Model)
	if err != nil {
		return s, err
	}
	s.file, s.own = file, int(min(file.Architecture().MaximumContextLength, maxCtx))
	return s, nil
}

// OwnCtx implements engine.Sizer.
func (s *sizer) OwnCtx() int { return s.own }

// At implements engine.Sizer.
func (s *sizer) At(ctx int) (e engine.Estimate, err error) {
	w := s.w
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("estimate the model's memory: %v", p)
		}
		if err != nil {
			e = guess(w, s.size)
		}
		e = divided(e, len(w.Hosts))
	}()
	if s.file == nil {
		return guess(w, s.size), nil
	}
	cpu := w.Cards == 0
	options := []parser.GGUFRunEstimateOption{
		parser.WithLLaMACppContextSize(int32(min(int64(ctx)*int64(w.Slots), math.MaxInt32))), // 0: the model's own
		parser.WithParallelSize(int32(w.Slots)),
		parser.WithLLaMACppLogicalBatchSize(batch), parser.WithLLaMACppPhysicalBatchSize(microBatch),
	}
	if cpu {
		options = append(options, parser.WithLLaMACppOffloadLayers(0))
	} else {
		options = append(options, parser.WithLLaMACppOffloadLayers(math.MaxUint64), parser.WithTensorSplitFraction(cumulated(vram.Parts(w.Split, w.Cards))))
	}
	run := s.file.EstimateLLaMACppRun(options...)
	item := run.SummarizeItem(false, processHost, cardContext)
	e.Host = int64(item.RAM.NonUMA)
	if !cpu {
		for _, card := range item.VRAMs {
			e.Cards = append(e.Cards, int64(card.NonUMA))
		}
	}
	if !sensible(e, w) {
		return e, errors.New("the estimate of the model's memory makes no sense")
	}
	return e, nil
}

// divided is what this machine takes of a model that it shares with so many hosts: an equal part, for want of better knowledge.
func divided(e engine.Estimate, hosts int) engine.Estimate {
	e.Host /= int64(1 + hosts)
	for i := range e.Cards {
		e.Cards[i] /= int64(1 + hosts)
	}
	return e
}

func sensible(e engine.Estimate, w engine.Worker) bool {
	if len(e.Cards) != w.Cards || e.Host <= 0 {
		return false
	}
	for _, bytes := range e.Cards {
		if bytes <= 0 || bytes > math.MaxInt64/1024 {
			return false
		}
	}
	return e.Host < math.MaxInt64/1024
}

// guess is for a file that the parser does not understand. The engine may understand it.
func guess(w engine.Worker, size int64) engine.Estimate {
	bytes := float64(size)*guessShare + guessFixed
	if w.Cards == 0 {
		return engine.Estimate{Host: int64(bytes)}
	}
	e := engine.Estimate{Host: processHost}
	for _, part := range vram.Parts(w.Split, w.Cards) {
		e.Cards = append(e.Cards, int64(bytes*part)+cardContext)
	}
	return e
}

// cumulated turns parts into the running sums that the parser wants. The last one is exactly 1.
func cumulated(parts []float64) []float64 {
	sums, sum := make([]float64, len(parts)), 0.0
	for i, part := range parts {
		sum += part
		sums[i] = min(sum, 1)
	}
	sums[len(sums)-1] = 1
	return sums
}
