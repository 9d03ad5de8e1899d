// SPDX-License-Identifier: GPL-3.0-or-later

package openai

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/go-faster/jx"

	"github.com/llama-orch/llama-orch/service/task"
)

// likely is a token as servers tell it. Logprob is null where the probability is 0, and Bytes where the server knows only the text.
type likely struct {
	Token   string       `json:"token"`
	Bytes   *task.Octets `json:"bytes"`
	Logprob *float64     `json:"logprob"`
}

func (l likely) told() task.Likely {
	bytes := task.Octets(l.Token)
	if l.Bytes != nil {
		bytes = *l.Bytes
	}
	out := task.Likely{Token: strings.ToValidUTF8(string(bytes), "\uFFFD"), Logprob: task.LeastLogprob, Bytes: bytes}
	if l.Logprob != nil {
		out.Logprob = float32(max(*l.Logprob, task.LeastLogprob))
	}
	return out
}

// Probabilities reads a list of tokens from D, if somebody asks for them.
func (f *Frame) Probabilities() error {
	if !f.Asks || f.D.Next() != jx.Array {
		return f.D.Skip()
	}
	raw, err := f.D.Raw()
	if err != nil {
		return err
	}
	var tokens []struct {
		likely

		Top []likely `json:"top_logprobs"`
	}
	if err := json.Unmarshal(raw, &tokens); err != nil {
		return err
	}
	for _, t := range tokens {
		p := task.Logprob{Likely: t.told()}
		for _, top := range t.Top {
			p.Top = append(p.Top, top.told())
		}
		f.Likely = append(f.Likely, p)
	}
	return nil
}

// logprobs reads those of a choice: of a chat, or in the older form of a completion.
func (f *Frame) logprobs() error {
	if !f.Asks || f.D.Next() != jx.Object {
		return f.D.Skip()
	}
	var old older
	err := f.D.ObjBytes(func(d *jx.Decoder, key []byte) error {
		switch string(key) {
		case "content":
			return f.Probabilities()
		case "tokens":
			return old.read(d, &old.Tokens)
		case "token_logprobs":
			return old.read(d, &old.Logprobs)
		case "top_logprobs":
			return old.read(d, &old.Top)
		}
		return d.Skip()
	})
	if err != nil {
		return err
	}
	f.Likely = append(f.Likely, old.told()...)
	return nil
}

// older is how a completion tells of its tokens: lists of the same length.
type older struct {
	Tokens   []string
	Logprobs []*float64
	Top      []map[string]float64
}

func (*older) read(d *jx.Decoder, into any) error {
	raw, err := d.Raw()
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, into)
}

func (o *older) told() (all []task.Logprob) {
	for i, token := range o.Tokens {
		l := likely{Token: token}
		if i < len(o.Logprobs) {
			l.Logprob = o.Logprobs[i]
		}
		p := task.Logprob{Likely: l.told()}
		if i < len(o.Top) {
			for token, logprob := range o.Top[i] {
				p.Top = append(p.Top, likely{Token: token, Logprob: &logprob}.told())
			}
		}
		slices.SortFunc(p.Top, func(a, b task.Likely) int {
			return cmp.Or(cmp.Compare(b.Logprob, a.Logprob), cmp.Compare(a.Token, b.Token))
		})
		all = append(all, p)
	}
	return all
}

// slack is how much the rounding of an engine may have a probability above 1.
const slack = 1e-3

// Believed are tokens with as many of the likeliest as were asked for. No probability is above 1.
func Believed(all []task.Logprob, top int) ([]task.Logprob, error) {
	for i := range all {
		p := &all[i]
		p.Top = p.Top[:min(len(p.Top), top)]
		for j := range len(p.Top) + 1 {
			l := &p.Likely
			if j > 0 {
				l = &p.Top[j-1]
			}
			if l.Logprob > slack {
				return nil, fmt.Errorf("the engine says that the logarithm of a probability is %g", l.Logprob)
			}
			l.Logprob = min(l.Logprob, 0)
		}
	}
	return all, nil
}
