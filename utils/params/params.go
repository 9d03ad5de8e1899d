// SPDX-License-Identifier: GPL-3.0-or-later

// Package params defines how a task's answer is sampled and bounded, and holds a request to what the pools of its model can do.
package params

import (
	"fmt"
	"slices"
	"strings"

	"github.com/llama-orch/llama-orch/sdk"
	"github.com/llama-orch/llama-orch/utils/model"
)

// Params are a task's parameters besides its words. What is left out is as the server has it.
type Params struct {
	Temperature   *float64        `json:"temperature,omitempty"`
	TopP          *float64        `json:"top_p,omitempty"`
	TopK          *int            `json:"top_k,omitempty"`
	MinP          *float64        `json:"min_p,omitempty"`
	RepeatPenalty float64         `json:"repeat_penalty,omitempty"`
	Stop          []string        `json:"stop,omitempty"`
	Profile       string          `json:"profile,omitempty"` // a sampler profile of the server's configuration
	Seed          *int64          `json:"seed,omitempty"`
	Determinism   sdk.Determinism `json:"determinism,omitempty"`
	Priority      sdk.Priority    `json:"priority,omitempty"`
	MaxTokens     int             `json:"max_tokens,omitempty"`
	Ctx           int             `json:"ctx,omitempty"`
	DeadlineMS    int64           `json:"deadline_ms,omitempty"`
}

// Put writes the parameters into a request. Those that are left out leave it as it is.
func (p Params) Put(r *sdk.TaskRequest) {
	s := sdk.Params{}
	if r.Params != nil {
		s = *r.Params
	}
	put(&s.Temperature, p.Temperature)
	put(&s.TopP, p.TopP)
	put(&s.TopK, p.TopK)
	put(&s.MinP, p.MinP)
	put(&s.RepeatPenalty, p.RepeatPenalty)
	if p.Stop != nil {
		s.Stop = p.Stop
	}
	if s.Temperature != nil || s.TopP != nil || s.TopK != nil || s.MinP != nil || s.RepeatPenalty != 0 || s.Stop != nil {
		r.Params = &s
	}
	put(&r.SamplerProfileVersion, p.Profile)
	put(&r.Seed, p.Seed)
	put(&r.Determinism, p.Determinism)
	put(&r.Priority, p.Priority)
	put(&r.MaxTokens, p.MaxTokens)
	put(&r.Ctx, p.Ctx)
	put(&r.DeadlineMS, p.DeadlineMS)
}

func put[T comparable](to *T, value T) {
	var zero T
	if value != zero {
		*to = value
	}
}

// UnsupportedError says that no pool of a model takes a request.
type UnsupportedError struct {
	Param string // the field of the request, by its name in JSON
	Model string
	Why   string
}

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("`%s` asks for what no pool of the model %q has: %s", e.Param, e.Model, e.Why)
}

// need is something of a request that a pool must have.
type need struct {
	param string
	has   func(sdk.CapabilityPool) bool
	why   func([]sdk.CapabilityPool) string
}

// Check holds a request to what the pools of its model can do, and to the server's limits. The error is an *UnsupportedError. What a pool does not say of itself, it may have.
func Check(m *model.Model, r *sdk.TaskRequest) error {
	if err := limits(m, r); err != nil {
		return err
	}
	left := m.Pools
	for _, n := range needs(r) {
		fit := slices.DeleteFunc(slices.Clone(left), func(p sdk.CapabilityPool) bool { return !n.has(p) })
		if len(fit) > 0 {
			left = fit
			continue
		}
		why := n.why(m.Pools)
		if len(left) < len(m.Pools) && slices.ContainsFunc(m.Pools, n.has) {
			why = "a pool that has it lacks something else that the request asks for"
		}
		return &UnsupportedError{Param: n.param, Model: m.Wish.Ref, Why: why}
	}
	return nil
}

func needs(r *sdk.TaskRequest) (all []need) {
	add := func(param string, asked bool, f sdk.ChatFeature) {
		if asked {
			all = append(all, need{
				param, func(p sdk.CapabilityPool) bool { return p.Features == nil || slices.Contains(p.Features, f) },
				func(pools []sdk.CapabilityPool) string { return "they can do " + features(pools) },
			})
		}
	}
	add("tools", len(r.Tools) > 0, sdk.ChatFeatureTools)
	if r.Format != nil {
		add("format", r.Format.Type != sdk.FormatTypeGrammar, sdk.ChatFeatureFormats)
		add("format", r.Format.Type == sdk.FormatTypeGrammar, sdk.ChatFeatureGrammars)
	}
	for i, m := range r.Messages {
		image := slices.ContainsFunc(m.Content.Parts, func(p sdk.Part) bool { return p.Type == sdk.PartTypeImage })
		add(fmt.Sprintf("messages[%d].content", i), image, sdk.ChatFeatureImages)
	}
	add("template_args", len(r.TemplateArgs) > 0, sdk.ChatFeatureTemplateArguments)
	add("logit_bias", len(r.LogitBias) > 0, sdk.ChatFeatureLogitBias)
	add("logprobs", r.Logprobs, sdk.ChatFeatureLogprobs)
	context := func(param string, tokens int) {
		if tokens > 0 {
			all = append(all, need{
				param, func(p sdk.CapabilityPool) bool { return p.Ctx == 0 || p.Ctx >= tokens },
				func(pools []sdk.CapabilityPool) string {
					longest := 0
					for _, p := range pools {
						longest = max(longest, p.Ctx)
					}
					return fmt.Sprintf("%d tokens do not fit the longest context, of %d", tokens, longest)
				},
			})
		}
	}
	context("ctx", r.Ctx)
	context("max_tokens", r.MaxTokens)
	if r.Determinism == sdk.DeterminismStrict {
		all = append(all, need{
			"determinism", func(p sdk.CapabilityPool) bool { return p.Slots <= 1 || p.Engine == string(sdk.EngineNameVLLM) },
			func([]sdk.CapabilityPool) string { return "strict needs replicas with one slot" },
		})
	}
	return all
}

func features(pools []sdk.CapabilityPool) string {
	var all []string
	for _, p := range pools {
		for _, f := range p.Features {
			all = append(all, string(f))
		}
	}
	slices.Sort(all)
	if all = slices.Compact(all); len(all) == 0 {
		return "no more than text"
	}
	return strings.Join(all, ", ")
}

// limits holds a request to the limits that the server has set.
func limits(m *model.Model, r *sdk.TaskRequest) error {
	l, words, parts := m.Limits, int64(len(r.Prompt)), 0
	for _, text := range r.Inputs {
		words += int64(len(text))
	}
	for _, message := range r.Messages {
		words += int64(len(message.Content.Text))
		parts++
		for _, p := range message.Content.Parts {
			words += int64(len(p.Text))
		}
	}
	stops := 0
	if r.Params != nil {
		stops = len(r.Params.Stop)
	}
	prompt := "prompt"
	switch {
	case len(r.Messages) > 0:
		prompt = "messages"
	case len(r.Inputs) > 0:
		prompt = "inputs"
	}
	for _, bound := range []struct {
		param     string
		is, most  int64
		countable string
	}{
		{prompt, words, l.MaxPromptBytes, "bytes"},
		{"messages", int64(parts), int64(l.MaxMessages), "messages"},
		{"inputs", int64(len(r.Inputs)), int64(l.MaxInputs), "inputs"},
		{"params.stop", int64(stops), int64(l.MaxStop), "texts"},
		{"deadline_ms", r.DeadlineMS, l.MaxDeadlineMS, "milliseconds"},
	} {
		if bound.is > bound.most && bound.most > 0 {
			return &UnsupportedError{Param: bound.param, Model: m.Wish.Ref, Why: fmt.Sprintf("it has %d %s, and the server takes %d", bound.is, bound.countable, bound.most)}
		}
	}
	return nil
}
