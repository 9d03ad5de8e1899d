// SPDX-License-Identifier: GPL-3.0-or-later

package lenient

import (
	"regexp"
	"slices"
	"unicode/utf8"

	"github.com/llama-orch/llama-orch/service/task"
)

// The bounds of the native contract.
const (
	maxStop          = 16
	maxStopLength    = 256 // characters
	maxTemperature   = 5
	minRepeatPenalty = 0.1
	maxRepeatPenalty = 10
)

// Sampling is how tokens are to be chosen, by the names that all dialects have for it. What a dialect lacks is nil.
type Sampling struct {
	Temperature   *float64 `json:"temperature"`
	TopP          *float64 `json:"top_p"`
	TopK          *float64 `json:"top_k"`
	MinP          *float64 `json:"min_p"`
	RepeatPenalty *float64 `json:"repeat_penalty"`
}

// Read reads the numbers into a task's. In is what stands in front of their names, such as "options.". A repeat_penalty of 0 leaves it to
// the pool, and a negative top_k stands for all tokens, as for llama-server. What is out of range the configuration may still take out.
func (s *Sampling) Read(in string, q *task.Request) {
	p := &q.Params
	for _, n := range []struct {
		setting task.Setting
		v       *float64
		most    float64
		to      **float64
	}{
		{task.SetTemperature, s.Temperature, maxTemperature, &p.Temperature},
		{task.SetTopP, s.TopP, 1, &p.TopP},
		{task.SetMinP, s.MinP, 1, &p.MinP},
	} {
		var err error
		*n.to, err = within(in+string(n.setting), n.v, n.most)
		q.Lacks(n.setting, err)
	}
	if s.TopK != nil {
		k, err := 0, error(nil)
		if *s.TopK > 0 {
			k, err = Whole(in+"top_k", s.TopK, 1)
		}
		p.TopK = &k
		q.Lacks(task.SetTopK, err)
	}
	if r := s.RepeatPenalty; r != nil && *r != 0 {
		if *r < minRepeatPenalty || *r > maxRepeatPenalty {
			q.Lacks(task.SetRepeatPenalty, Bad(in+"repeat_penalty", "it must be from %g to %g, not %g", minRepeatPenalty, float64(maxRepeatPenalty), *r))
		} else {
			p.RepeatPenalty = r
		}
	}
}

// within refuses a number that is not from 0 to most.
func within(param string, v *float64, most float64) (*float64, error) {
	if v != nil && (*v < 0 || *v > most) {
		return nil, Bad(param, "it must be from 0 to %g, not %g", most, *v)
	}
	return v, nil
}

// Stops are the texts that end an answer. An empty one ends none.
func Stops(param string, texts Texts) ([]string, error) {
	texts = slices.DeleteFunc(slices.Clone(texts), func(s string) bool { return s == "" })
	if len(texts) > maxStop {
		return nil, Bad(param, "at most %d texts are possible", maxStop)
	}
	for _, s := range texts {
		if n := utf8.RuneCountInString(s); n > maxStopLength {
			return nil, Bad(param, "a text that ends an answer has at most %d characters, not %d", maxStopLength, n)
		}
	}
	return texts, nil
}

// effortWord is what the native contract takes.
var effortWord = regexp.MustCompile(`^[A-Za-z0-9_-]{1,32}$`)

// Effort is a word for the model's template, or none.
func Effort(param, word string) (string, error) {
	if word != "" && !effortWord.MatchString(word) {
		return "", Bad(param, "it is a word such as low, medium or high")
	}
	return word, nil
}
