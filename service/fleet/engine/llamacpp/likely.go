// SPDX-License-Identifier: GPL-3.0-or-later

package llamacpp

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/go-faster/jx"

	"github.com/llama-orch/llama-orch/service/task"
)

// likely is a token as both endpoints tell it. Logprob is null where the probability is 0.
type likely struct {
	Bytes   task.Octets `json:"bytes"`
	Logprob *float64    `json:"logprob"`
}

// probabilities reads the tokens of a frame, if somebody asks for them.
func (f *frame) probabilities() error {
	if !f.asks || f.d.Next() != jx.Array {
		return f.d.Skip()
	}
	raw, err := f.d.Raw()
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
		f.likely = append(f.likely, p)
	}
	return nil
}

// logprobs reads those of a choice of the chat endpoint.
func (f *frame) logprobs() error {
	if f.d.Next() != jx.Object {
		return f.d.Skip()
	}
	return f.d.ObjBytes(func(d *jx.Decoder, key []byte) error {
		if string(key) != "content" {
			return d.Skip()
		}
		return f.probabilities()
	})
}

func (l likely) told() task.Likely {
	out := task.Likely{Token: strings.ToValidUTF8(string(l.Bytes), replacement), Logprob: task.LeastLogprob, Bytes: l.Bytes}
	if l.Logprob != nil {
		out.Logprob = float32(max(*l.Logprob, task.LeastLogprob))
	}
	return out
}

// slack is how much the rounding of an engine may have a probability above 1.
const slack = 1e-3

// believed are tokens with as many of the likeliest as were asked for. No probability is above 1.
func believed(all []task.Logprob, top int) ([]task.Logprob, error) {
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
