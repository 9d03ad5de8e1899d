// SPDX-License-Identifier: GPL-3.0-or-later

package lenient

import "github.com/llama-orch/llama-orch/service/task"

// Logprobs is the wish for log probabilities, with so many of the likeliest tokens, as chats of OpenAI's and Ollama's have it; nil: there is none.
func Logprobs(asked bool, top *float64) (*task.Logprobs, error) {
	const param = "top_logprobs"
	n, err := Alternatives(param, top)
	switch {
	case err != nil:
		return nil, err
	case !asked && n > 0:
		return nil, Bad(param, "it goes with `logprobs`, which must be true: set that, or leave it out")
	case !asked:
		return nil, nil //nolint:nilnil // nobody asks, and that is no error
	}
	return &task.Logprobs{Top: n}, nil
}

// Alternatives is how many of the likeliest tokens are asked for; 0 where it is missing.
func Alternatives(param string, n *float64) (int, error) {
	if n != nil && *n > task.MaxTopLogprobs {
		return 0, Bad(param, "it must be a whole number from 0 to %d, not %g", task.MaxTopLogprobs, *n)
	}
	return Whole(param, n, 0)
}
