// SPDX-License-Identifier: GPL-3.0-or-later

package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/hybridgroup/yzma/pkg/llama"
)

// completion is the body of POST /completion. Fields that llama-server knows and that change bytes, but that are not done
// here, are in unsupported.
type completion struct {
	Prompt        json.RawMessage `json:"prompt"`
	Stream        bool            `json:"stream"`
	NPredict      *int            `json:"n_predict"`
	Temperature   *float64        `json:"temperature"`
	TopK          *int32          `json:"top_k"`
	TopP          *float64        `json:"top_p"`
	MinP          *float64        `json:"min_p"`
	RepeatPenalty *float64        `json:"repeat_penalty"`
	RepeatLastN   *int32          `json:"repeat_last_n"`
	Seed          *int64          `json:"seed"`
	Stop          stopStrings     `json:"stop"`
	Samplers      []string        `json:"samplers"`
	// CachePrompt lets the job use what the last one left in the context. Unlike in llama-server, it is off by default.
	CachePrompt bool `json:"cache_prompt"`
	// CacheExact lets the job use as much of that as is certain to give the bytes of a cold start. llama-server does not know it.
	CacheExact     bool   `json:"cache_exact"`
	ReturnProgress bool   `json:"return_progress"`
	LogitBias      []bias `json:"logit_bias"`
	// NProbs asks how likely each token was, with so many of the likeliest.
	NProbs int `json:"n_probs"`
	// Grammar binds the answer's form, in GBNF.
	Grammar string `json:"grammar"`
	unsupported
}

type unsupported struct {
	DryMultiplier    float64         `json:"dry_multiplier"`
	XTCProbability   float64         `json:"xtc_probability"`
	DynatempRange    float64         `json:"dynatemp_range"`
	Mirostat         int             `json:"mirostat"`
	TypicalP         *float64        `json:"typical_p"`
	TopNSigma        *float64        `json:"top_n_sigma"`
	FrequencyPenalty float64         `json:"frequency_penalty"`
	PresencePenalty  float64         `json:"presence_penalty"`
	MinKeep          int             `json:"min_keep"`
	PostSampling     bool            `json:"post_sampling_probs"`
	IgnoreEOS        bool            `json:"ignore_eos"`
	JSONSchema       json.RawMessage `json:"json_schema"`
}

func (u unsupported) check() error {
	for name, set := range map[string]bool{
		"dry_multiplier": u.DryMultiplier != 0, "xtc_probability": u.XTCProbability != 0, "dynatemp_range": u.DynatempRange != 0,
		"mirostat": u.Mirostat != 0, "typical_p": u.TypicalP != nil && *u.TypicalP != 1, "top_n_sigma": u.TopNSigma != nil && *u.TopNSigma > 0,
		"frequency_penalty": u.FrequencyPenalty != 0, "presence_penalty": u.PresencePenalty != 0, "min_keep": u.MinKeep > 0,
		"post_sampling_probs": u.PostSampling, "ignore_eos": u.IgnoreEOS,
		"json_schema": len(u.JSONSchema) > 0 && string(u.JSONSchema) != "null",
	} {
		if set {
			return fmt.Errorf("the built-in worker does not support %s: leave it out, or use a llama-server", name)
		}
	}
	return nil
}

// stopStrings is a string or a list of strings.
type stopStrings []string

func (s *stopStrings) UnmarshalJSON(data []byte) error {
	var one string
	if json.Unmarshal(data, &one) == nil {
		*s = stopStrings{one}
		return nil
	}
	var many []string
	if err := json.Unmarshal(data, &many); err != nil {
		return errors.New(`"stop" must be a string or an array of strings`)
	}
	*s = many
	return nil
}

// bias is a pair: a token, and what is added to its logit.
type bias struct {
	token llama.Token
	bias  float32
}

func (b *bias) UnmarshalJSON(data []byte) error {
	pair := []any{&b.token, &b.bias}
	if err := json.Unmarshal(data, &pair); err != nil || len(pair) != 2 || pair[0] == nil || pair[1] == nil {
		return errors.New(`"logit_bias" must be an array of pairs: a token's number, and what is added to its logit`)
	}
	return nil
}

func or[T any](p *T, def T) T {
	if p == nil {
		return def
	}
	return *p
}

// defaultSamplers is llama-server's order without the samplers that are off.
var defaultSamplers = []string{"penalties", "top_k", "top_p", "min_p", "temperature"}

// chain makes the sampler chain llama-server makes for the same parameters. Samplers it adds but that are off consume no
// randomness and change no logits, so leaving them out gives the same tokens.
func (m *model) chain(c *completion) llama.Sampler {
	seed := or(c.Seed, -1)
	if seed == -1 || seed == llama.DefaultSeed {
		seed = int64(rand.Uint32N(llama.DefaultSeed)) //nolint:gosec // a seed is no secret
	}
	names := c.Samplers
	if names == nil {
		names = defaultSamplers
	}
	chain := llama.SamplerChainInit(llama.SamplerChainDefaultParams())
	biases := slices.Clone(m.suppress)
	for _, b := range c.LogitBias {
		biases = append(biases, llama.LogitBias{Token: b.token, Bias: b.bias})
	}
	if len(biases) > 0 {
		llama.SamplerChainAdd(chain, llama.SamplerInitLogitBias(m.nVocab, int32(len(biases)), &biases[0]))
	}
	for _, name := range names {
		var s llama.Sampler
		switch name {
		case "penalties":
			s = llama.SamplerInitPenalties(m.nVocab, c.lastN(), float32(or(c.RepeatPenalty, 1)), 0, 0)
		case "top_k":
			s = llama.SamplerInitTopK(or(c.TopK, 40))
		case "top_p":
			s = llama.SamplerInitTopP(float32(or(c.TopP, 0.95)), 0)
		case "min_p":
			s = llama.SamplerInitMinP(float32(or(c.MinP, 0.05)), 0)
		case "temperature":
			s = llama.SamplerInitTempExt(float32(max(or(c.Temperature, 0.8), 0)), 0, 1)
		default: // off, or unknown, which llama-server ignores as well
			continue
		}
		llama.SamplerChainAdd(chain, s)
	}
	llama.SamplerChainAdd(chain, llama.SamplerInitDist(uint32(seed)))
	return chain
}

func (c *completion) lastN() int32 { return or(c.RepeatLastN, 64) }

func (c *completion) check() error {
	if p := or(c.RepeatPenalty, 1); p <= 0 || p > 1e6 {
		return errors.New(`"repeat_penalty" must be greater than 0`)
	}
	if c.lastN() < 0 || c.lastN() > 1<<20 {
		return errors.New(`"repeat_last_n" must not be negative`)
	}
	if or(c.NPredict, -1) < -1 {
		return errors.New(`"n_predict" must be -1 or more`)
	}
	if seed := or(c.Seed, -1); seed < -1 || seed > llama.DefaultSeed {
		return errors.New(`"seed" must be between 0 and 4294967294, or -1 for a random one`)
	}
	if c.NProbs < 0 || c.NProbs > maxProbs {
		return fmt.Errorf(`"n_probs" must be between 0 and %d`, maxProbs)
	}
	return c.unsupported.check()
}

// decoded is a token that was sampled.
type decoded struct {
	token  llama.Token
	n      int          // counts the tokens, from 1
	out    []byte       // the text that may be sent now
	likely *probability // nil: nobody asks
}

// outcome is how a completion ended.
type outcome struct {
	stopType string // none, eos, word, limit, as llama-server says
	stopWord string
	prompt   int
	cached   int // tokens of the prompt that were in the context already
	gen      int
	cutShort bool // the context is full
	newLine  bool
	tPrompt  time.Duration
	tGen     time.Duration
}

// generate decodes prompt and calls emit for every token. It begins with an empty context, unless the
// job may use what is in it. Before each batch of the prompt it calls told with how much of it was there and how much is decoded. It ends early with an error of emit,
// and, between two tokens or two batches of the prompt, with the cause of ctx's end.
func (m *model) generate(ctx context.Context, c *completion, prompt []llama.Token, pace float64, told func(cached, decoded int) error, emit func(decoded) error) (outcome, error) {
	o := outcome{stopType: "none", prompt: len(prompt)}
	bound, err := m.grammar(c.Grammar)
	if err != nil {
		return o, invalid("%v", err)
	}
	defer bound.free()
	chain := m.chain(c)
	defer llama.SamplerFree(chain)
	begin := time.Now()
	switch {
	case c.CacheExact:
		o.cached = m.keepExact(prompt)
	case c.CachePrompt:
		o.cached = m.keep(prompt)
	default:
		m.clear()
	}
	for pos := o.cached; pos < len(prompt); pos += m.ubatch {
		if ctx.Err() != nil {
			return o, context.Cause(ctx)
		}
		if err := told(o.cached, pos); err != nil {
			return o, err
		}
		part := prompt[pos:min(pos+m.ubatch, len(prompt))]
		if err := m.read(part, pos, pos+len(part) == len(prompt)); err != nil {
			return o, err
		}
	}
	// The penalties look back into the prompt, but no further than this.
	for _, t := range prompt[max(0, len(prompt)-int(c.lastN())):] {
		llama.SamplerAccept(chain, t)
	}
	limit := or(c.NPredict, -1)
	if limit == 0 {
		o.stopType, o.tPrompt = "limit", time.Since(begin)
		return o, nil
	}
	var (
		txt   = newText(c.Stop)
		first time.Time
		next  = make([]llama.Token, 1)
	)
	for {
		if ctx.Err() != nil {
			return o, context.Cause(ctx)
		}
		t, err := m.sample(chain, bound)
		if err != nil {
			return o, err
		}
		o.gen++
		var likely *probability
		if c.NProbs > 0 {
			if likely, err = m.probability(t, c.NProbs); err != nil {
				return o, err
			}
		}
		if o.gen == 1 {
			first = time.Now()
			o.tPrompt = first.Sub(begin)
		}
		eos := llama.VocabIsEOG(m.vocab, t)
		o.cutShort = len(prompt)+o.gen >= m.nCtx
		full := o.cutShort || (limit > 0 && o.gen >= limit)
		out, word := txt.push(m.piece(t), eos || full)
		o.newLine = o.newLine || slices.Contains(out, '\n')
		switch {
		case eos:
			o.stopType = "eos"
		case word != "":
			o.stopType, o.stopWord = "word", word
		case full:
			o.stopType = "limit"
		}
		o.tGen = time.Since(first)
		if err := emit(decoded{t, o.gen, out, likely}); err != nil {
			return o, err
		}
		if o.stopType != "none" {
			return o, nil
		}
		if pace > 0 {
			// The pace is counted from the first token, so that one slow token does not slow the others.
			if err := sleepUntil(ctx, first.Add(time.Duration(float64(o.gen)/pace*float64(time.Second)))); err != nil {
				return o, err
			}
		}
		next[0] = t
		if err := m.decode(next, len(prompt)+o.gen-1, true, false); err != nil {
			return o, err
		}
	}
}

func sleepUntil(ctx context.Context, at time.Time) error {
	wait := time.Until(at)
	if wait <= 0 {
		return nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// embed returns the pooled and normalised embedding of one text.
func (m *model) embed(tokens []llama.Token) ([]float32, error) {
	m.clear()
	if err := m.decode(tokens, 0, true, true); err != nil {
		return nil, err
	}
	v, err := llama.GetEmbeddingsSeq(m.ctx, 0, int32(m.nEmbd))
	if err != nil {
		return nil, fmt.Errorf("the model gave no embedding: %w", err)
	}
	if v == nil {
		return nil, errors.New("the model gave no embedding")
	}
	return normalise(v), nil
}
