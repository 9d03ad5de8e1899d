// SPDX-License-Identifier: GPL-3.0-or-later

package worker

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"strings"

	"github.com/hybridgroup/yzma/pkg/llama"
)

// Bounds of a grammar. llama.cpp reads groups and looks for recursion with recursive functions of its own, so that a deep grammar would end the
// process.
const (
	maxRules  = 2000
	maxGroups = 100 // within one another
)

// grammar binds an answer's form. The zero grammar binds nothing.
type grammar struct {
	sampler llama.Sampler
	tokens  []llama.TokenData // all of the vocabulary, to sample from
}

// grammar reads a grammar in GBNF. Free it at the end.
func (m *model) grammar(text string) (g grammar, err error) {
	if text == "" {
		return g, nil
	}
	if err := checkGrammar(text); err != nil {
		return g, err
	}
	if g.sampler = llama.SamplerInitGrammar(m.vocab, text, "root"); g.sampler == 0 {
		return g, errors.New(`"grammar" cannot be read: it must be a grammar in GBNF with a rule "root", without left recursion`)
	}
	g.tokens = make([]llama.TokenData, m.nVocab)
	return g, nil
}

// checkGrammar refuses a grammar that is too deep to be read.
func checkGrammar(text string) error {
	if strings.ContainsRune(text, 0) {
		return errors.New(`"grammar" holds a NUL, behind which nothing is read`)
	}
	if n := strings.Count(text, "::="); n > maxRules {
		return fmt.Errorf(`"grammar" has %d rules, and may have %d at most`, n, maxRules)
	}
	depth := 0
	for _, c := range text { // a bracket in a literal is counted as well, which only matters for grammars that nobody writes
		switch c {
		case '(':
			depth++
		case ')':
			depth = max(depth-1, 0)
		}
		if depth > maxGroups {
			return fmt.Errorf(`"grammar" has groups within groups, more than %d deep`, maxGroups)
		}
	}
	return nil
}

func (g grammar) free() {
	if g.sampler != 0 {
		llama.SamplerFree(g.sampler)
	}
}

// errNoToken is the end of an answer whose grammar allows nothing that the model could say.
var errNoToken = invalid(`"grammar" allows no token of the model at this place of the answer`)

// sample takes the next token. With a grammar it does what llama-server does: it samples, and only if the token does not fit, it samples again
// among those that do.
func (m *model) sample(chain llama.Sampler, g grammar) (llama.Token, error) {
	if g.sampler == 0 {
		return llama.SamplerSample(chain, m.ctx, -1), nil
	}
	logits, err := llama.GetLogitsIth(m.ctx, -1, int(m.nVocab))
	if err != nil || logits == nil {
		return 0, fmt.Errorf("the model has no logits of a token: %w", err)
	}
	t, fits := g.draw(chain, logits, false)
	if fits {
		one := []llama.TokenData{{Id: t, Logit: 1}}
		apply(g.sampler, one)
		fits = !lost(one[0])
	}
	if !fits {
		if t, fits = g.draw(chain, logits, true); !fits {
			return 0, errNoToken
		}
	}
	llama.SamplerAccept(g.sampler, t)
	llama.SamplerAccept(chain, t)
	return t, nil
}

// draw samples a token of those with the logits, or only of those that fit the grammar. It returns false where there is none.
func (g grammar) draw(chain llama.Sampler, logits []float32, fitting bool) (llama.Token, bool) {
	for t, l := range logits {
		g.tokens[t] = llama.TokenData{Id: llama.Token(t), Logit: l}
	}
	if fitting {
		apply(g.sampler, g.tokens)
		all := true
		for _, t := range g.tokens {
			all = all && lost(t)
		}
		if all {
			return 0, false
		}
	}
	chosen := apply(chain, g.tokens)
	if chosen < 0 || chosen >= int64(len(g.tokens)) {
		return 0, false
	}
	return g.tokens[chosen].Id, !lost(g.tokens[chosen])
}

// lost reports whether a sampler has taken a token out.
func lost(t llama.TokenData) bool { return math.IsInf(float64(t.Logit), -1) }

// apply has a sampler work on tokens, and returns which of them it selected; -1: none.
func apply(s llama.Sampler, tokens []llama.TokenData) int64 {
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&tokens[0])
	all := llama.TokenDataArray{Data: &tokens[0], Size: uint64(len(tokens)), Selected: -1}
	llama.SamplerApply(s, &all)
	return all.Selected
}
