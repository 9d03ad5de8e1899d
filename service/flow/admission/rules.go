// SPDX-License-Identifier: GPL-3.0-or-later

package admission

import (
	"slices"

	"github.com/llama-orch/llama-orch/service/task"
)

// Rules change what requests ask for (LO-429). The zero value changes nothing.
type Rules struct {
	Default, Override Settings
	Strip             []task.Setting
}

// Settings are values that a request may have; nil: nothing is said.
type Settings struct {
	Temperature   *float64
	TopP          *float64
	TopK          *int
	MinP          *float64
	RepeatPenalty *float64
	MaxTokens     *int
	Seed          *int
	Thinking      *bool
	Effort        *string
}

// Apply returns the request as the rules have it. It shares nothing with q that it changed.
func (r Rules) Apply(q task.Request) task.Request {
	if len(r.Strip) == 0 && r.Default == (Settings{}) && r.Override == (Settings{}) {
		return q
	}
	chat := task.Chat{}
	if q.Chat != nil {
		chat = *q.Chat
	}
	s := asked(q, chat)
	q.Unfit = slices.DeleteFunc(slices.Clone(q.Unfit), func(u task.Unfit) bool { return slices.Contains(r.Strip, u.Setting) || r.Override.has(u.Setting) })
	for _, name := range r.Strip {
		s.strip(name)
	}
	s.fill(r.Default)
	over := r.Override
	over.fill(s)
	q.Params.Temperature, q.Params.TopP, q.Params.MinP, q.Params.RepeatPenalty = over.Temperature, over.TopP, over.MinP, over.RepeatPenalty
	q.Params.TopK = over.TopK
	if slices.Contains(r.Strip, task.SetStop) {
		q.Params.Stop = nil
	}
	q.MaxTokens, q.Seed = 0, nil
	if over.MaxTokens != nil {
		q.MaxTokens = *over.MaxTokens
	}
	if over.Seed != nil {
		seed := uint32(*over.Seed)
		q.Seed = &seed
	}
	if len(q.Messages) == 0 { // a prompt has no template that could be told to think
		return q
	}
	chat.Reasoning.Enabled, chat.Reasoning.Effort = over.Thinking, ""
	if over.Effort != nil {
		chat.Reasoning.Effort = *over.Effort
	}
	if q.Chat != nil || chat.Reasoning != (task.Reasoning{}) {
		q.Chat = &chat
	}
	return q
}

// asked are the settings that a request has.
func asked(q task.Request, chat task.Chat) Settings {
	s := Settings{
		Temperature: q.Params.Temperature, TopP: q.Params.TopP, MinP: q.Params.MinP, RepeatPenalty: q.Params.RepeatPenalty, TopK: q.Params.TopK,
		Thinking: chat.Reasoning.Enabled,
	}
	if q.MaxTokens > 0 {
		s.MaxTokens = &q.MaxTokens
	}
	if q.Seed != nil {
		seed := int(*q.Seed)
		s.Seed = &seed
	}
	if chat.Reasoning.Effort != "" {
		s.Effort = &chat.Reasoning.Effort
	}
	return s
}

func (s *Settings) strip(name task.Setting) {
	switch name {
	case task.SetTemperature:
		s.Temperature = nil
	case task.SetTopP:
		s.TopP = nil
	case task.SetTopK:
		s.TopK = nil
	case task.SetMinP:
		s.MinP = nil
	case task.SetRepeatPenalty:
		s.RepeatPenalty = nil
	case task.SetMaxTokens:
		s.MaxTokens = nil
	case task.SetSeed:
		s.Seed = nil
	case task.SetThinking:
		s.Thinking = nil
	case task.SetEffort:
		s.Effort = nil
	case task.SetStop: // no setting has it
	}
}

// has reports whether a value is said.
func (s *Settings) has(name task.Setting) bool {
	without := *s
	without.strip(name)
	return without != *s
}

// fill takes what s does not say from others.
func (s *Settings) fill(others Settings) {
	or(&s.Temperature, others.Temperature)
	or(&s.TopP, others.TopP)
	or(&s.MinP, others.MinP)
	or(&s.RepeatPenalty, others.RepeatPenalty)
	or(&s.TopK, others.TopK)
	or(&s.MaxTokens, others.MaxTokens)
	or(&s.Seed, others.Seed)
	or(&s.Thinking, others.Thinking)
	or(&s.Effort, others.Effort)
}

func or[T any](to **T, other *T) {
	if *to == nil {
		*to = other
	}
}
