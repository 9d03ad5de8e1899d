// SPDX-License-Identifier: GPL-3.0-or-later

package hub

import (
	"errors"
	"math"
	"os"
	"strconv"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/vram"
)

const (
	gibi = 1 << 30
	// cardFixed is what a worker takes on each card beside weights and KV: CUDA's context, activations, captured graphs, buffers of NCCL.
	cardFixed = 2 * gibi
	// hostFixed is what its processes take of the host's memory. The weights are read through the page cache.
	hostFixed = 4 * gibi
	// kvBlock is the least KV that is worth a start, in tokens.
	kvBlock = 256
)

// size estimates the workers of one model.
type size struct {
	w       engine.Worker
	weights int64
	token   int64 // of KV; 0: not known
	own     int
}

// Size reads from a model's folder what the memory of its workers depends on.
func Size(w engine.Worker, _ int64) (engine.Sizer, error) {
	s := size{w: w}
	files, err := Files(w.Model)
	for _, file := range files {
		if at, err := os.Stat(file); err == nil && isWeights(file) {
			s.weights += at.Size()
		}
	}
	c, unread := read(w.Model)
	if unread == nil {
		s.token, s.own = 2*int64(c.Layers)*int64(c.KVHeads)*int64(c.HeadSize)*c.element(), c.Ctx
	}
	return s, errors.Join(err, unread)
}

// element is the bytes of a figure of the KV cache.
func (c config) element() int64 {
	if c.Dtype == "float32" {
		return 4
	}
	return 2
}

// OwnCtx implements engine.Sizer.
func (s size) OwnCtx() int { return s.own }

// At implements engine.Sizer. A model is split evenly, its KV too.
func (s size) At(ctx int) (engine.Estimate, error) {
	var err error
	if s.token == 0 || s.weights == 0 {
		err = errors.New("the model's folder does not tell how large its KV is")
	}
	if ctx == 0 {
		ctx = s.own
	}
	kv := float64(s.token) * float64(max(ctx, kvBlock)) * float64(max(s.w.Slots, 1))
	all := float64(s.weights) + kv
	if all > math.MaxInt64/1024 {
		return engine.Estimate{Cards: make([]int64, s.w.Cards), Host: hostFixed}, errors.New("the estimate of the model's memory makes no sense")
	}
	e := engine.Estimate{Host: hostFixed}
	for _, part := range vram.Parts(s.w.Split, s.w.Cards) {
		e.Cards = append(e.Cards, int64(all*part)+cardFixed)
	}
	return e, err
}

// Fraction writes a share of a card's memory as engines take it, rounded down.
func Fraction(share float64) string {
	const digits = 1000
	return strconv.FormatFloat(math.Floor(share*digits)/digits, 'f', 3, 64)
}
