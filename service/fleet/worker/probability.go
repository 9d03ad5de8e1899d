// SPDX-License-Identifier: GPL-3.0-or-later

package worker

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/hybridgroup/yzma/pkg/llama"
)

// maxProbs bounds n_probs, as fronts bound what they ask for.
const maxProbs = 20

// probability is how likely the model holds a token, in llama-server's form. Of the token that was sampled, Top are the likeliest ones in its place.
type probability struct {
	ID      llama.Token   `json:"id"`
	Token   string        `json:"token"`
	Bytes   []int         `json:"bytes"`
	Logprob float32       `json:"logprob"`
	Top     []probability `json:"top_logprobs,omitempty"`
}

// probability tells how likely the sampled token was, with the n likeliest. It is taken of the raw logits, before any sampler, as llama-server takes it.
func (m *model) probability(sampled llama.Token, n int) (*probability, error) {
	logits, err := llama.GetLogitsIth(m.ctx, -1, int(m.nVocab))
	if err != nil || logits == nil {
		return nil, fmt.Errorf("the model has no logits of a token: %w", err)
	}
	most := float64(slices.Max(logits))
	sum := 0.0
	for _, l := range logits {
		sum += math.Exp(float64(l) - most)
	}
	whole := most + math.Log(sum)
	tell := func(t llama.Token, piece []byte) probability {
		p := probability{ID: t, Token: strings.ToValidUTF8(string(piece), string(replacement)), Bytes: make([]int, len(piece))}
		for i, b := range piece {
			p.Bytes[i] = int(b)
		}
		p.Logprob = float32(max(float64(logits[t])-whole, -math.MaxFloat32)) // JSON has no infinity
		return p
	}
	p := tell(sampled, m.piece(sampled))
	for _, t := range likeliest(logits, n) {
		p.Top = append(p.Top, tell(t, m.named(t)))
	}
	return &p, nil
}

// likeliest are the n tokens with the largest logits, the largest first. Of equal ones the first comes first.
func likeliest(logits []float32, n int) []llama.Token {
	best := make([]llama.Token, 0, n+1)
	for t, l := range logits {
		if len(best) == n && (n == 0 || l <= logits[best[n-1]]) {
			continue
		}
		at := len(best)
		for at > 0 && logits[best[at-1]] < l {
			at--
		}
		best = slices.Insert(best, at, llama.Token(t))
		best = best[:min(len(best), n)]
	}
	return best
}

// named is a token's bytes, and the name of a control token.
func (m *model) named(t llama.Token) []byte {
	if p := m.piece(t); len(p) > 0 {
		return p
	}
	buf := make([]byte, 64)
	n := llama.TokenToPiece(m.vocab, t, buf, 0, true)
	return buf[:max(n, 0)]
}
