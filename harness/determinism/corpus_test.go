// SPDX-License-Identifier: GPL-3.0-or-later

package determinism

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"syscall"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/client"
)

// contextSize is what a slot of the suite's pools holds, in tokens.
const contextSize = 256

// wild draws from all tokens nearly alike: few words are whole, and many runes come in several tokens.
var wild = map[string]any{"temperature": 5, "top_p": 1, "top_k": 0, "min_p": 0}

// scripts are prompts in what a tokenizer and a stream of UTF-8 can stumble over.
var scripts = []struct{ name, prompt string }{
	{"combined", "e\u0301a\u0308o\u0302\u0323 n\u0303\u0303\u0303"},
	{"composed", "\u00e9\u00e4\u1ed9 \u00f1"},
	{"joined", "👩\u200d👩\u200d👧\u200d👦 🏳\ufe0f\u200d🌈 🇩🇪🇪🇺"},
	{"beyond", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𒀀𒀁 \U0010fffd"},
	{"right to left", "\u202eשלום עולם\u202c مرحبا بالعالم"},
	{"spaces", "a\u00a0b\u2003c\u3000d\u200be\ufefff\u2028g\u0085h\ti\r\nj"},
	{"signs", "\u0001\u001b[31m\ufffd\uffff <|im_start|> </s> \\u0041 %s ${x}"},
	{"one rune, often", strings.Repeat("語", 40)},
	{"a long word", strings.Repeat("Donaudampfschiff", 12)},
}

// corpusOf are cases that stand at the ends of what a request may be. Those near the context's end are as long as the pool just takes.
func corpusOf(t *testing.T, d *life, poolID string) (all []testCase) {
	t.Helper()
	for i, s := range scripts {
		name := strings.ReplaceAll(strings.ReplaceAll(s.name, ",", ""), " ", "-")
		all = append(all,
			testCase{Name: name, Request: map[string]any{"seed": 900 + i, "prompt": s.prompt, "max_tokens": 40}},
			testCase{Name: name + "-wild", Request: map[string]any{"seed": 900 + i, "prompt": s.prompt, "max_tokens": 60, "params": wild}})
	}
	const longest = 8 // prompts, each a word longer than the one before, up to the longest that fits
	fits := func(words int) testCase {
		return testCase{Name: fmt.Sprintf("words-%d", words), Request: map[string]any{"seed": 1000 + words, "prompt": strings.Repeat(" snow", words), "params": wild}}
	}
	low, high := 1, 4*contextSize // the first fits, the last does not
	for low+1 < high {
		middle := (low + high) / 2
		_, err := d.ask(t.Context(), fits(middle), poolID)
		if err == nil {
			low = middle
			continue
		}
		var refused *client.RefusedError
		require.True(t, errors.As(err, &refused) && refused.Code == "INVALID_PARAMS", "%v", err)
		high = middle
	}
	for words := low - longest + 1; words <= low; words++ {
		all = append(all, fits(words))
	}
	return append(all, stopsOf(t, d, poolID)...)
}

// stopsOf are cases with stop strings that begin in one token of the answer and end in a later one.
func stopsOf(t *testing.T, d *life, poolID string) (all []testCase) {
	t.Helper()
	for seed := range 4 {
		free := testCase{Name: fmt.Sprintf("free-%d", seed), Request: map[string]any{"seed": 1100 + seed, "prompt": question("rain", 1), "max_tokens": 40}}
		if seed > 1 {
			free.Request["params"] = wild
		}
		answer := ask(t, d, free, poolID)
		all = append(all, free)
		for _, over := range []int{2, 3, 5} { // tokens that the string touches
			at := len(answer.Tokens) / 2
			if at+over > len(answer.Tokens) {
				continue
			}
			first, last := answer.Tokens[at], answer.Tokens[at+over-1]
			_, size := utf8.DecodeLastRuneInString(first)
			_, head := utf8.DecodeRuneInString(last)
			stop := first[len(first)-size:] + strings.Join(answer.Tokens[at+1:at+over-1], "") + last[:head]
			params := map[string]any{"stop": []string{"no such thing", stop}}
			if seed > 1 {
				maps.Copy(params, wild)
			}
			c := free.with(map[string]any{"params": params})
			c.Name = fmt.Sprintf("stop-%d-over-%d", seed, over)
			all = append(all, c)
			// What comes is what came without it, up to the first place of the string.
			stopped := ask(t, d, c, poolID)
			before, _, found := strings.Cut(answer.Text(), stop)
			require.True(t, found)
			require.Equal(t, before, stopped.Text(), "%s: stop at %q", c.Name, stop)
			require.Equal(t, "stop", stopped.End.FinishReason)
		}
	}
	return all
}

// Prompts up to the context's last token, text of all scripts, and stop strings that are cut across tokens: the same bytes on two replicas, in two lives of the
// daemon.
//
// LO-887, OC-TEST-7001, ORCH-3045
func TestTheEndsOfWhatCanBeAskedAreTheSame(t *testing.T) {
	for _, e := range engines(t) {
		t.Run(e.name, func(t *testing.T) {
			config := shared.config(pool{id: "one", provisioning: e.provisioning}, pool{id: "two", provisioning: e.provisioning})
			p := newProof(t.TempDir())
			var all []testCase
			full := 0
			for life := range 2 {
				d := serve(t, fmt.Sprintf("of the corpus, life %d", life), config, nil)
				ready(t, d, "one", "two")
				if life == 0 {
					all = corpusOf(t, d, "one")
				}
				for _, c := range all {
					for _, poolID := range []string{"one", "two"} { // their replicas have one fingerprint
						r, err := d.answer(t.Context(), c, poolID, poolID+"-"+c.Name)
						require.NoError(t, err)
						require.True(t, utf8.ValidString(r.Text()), c.Name)
						for _, token := range r.Tokens {
							require.True(t, utf8.ValidString(token), "%s: a rune was torn", c.Name)
						}
						if r.End.TokensIn+r.End.TokensOut >= contextSize-1 {
							full++
						}
						require.NoError(t, p.add(r))
					}
				}
				_, err := d.Stop(syscall.SIGKILL)
				require.NoError(t, err)
			}
			require.Empty(t, p.report())
			require.Positive(t, full, "some answers were to fill the context")
			say(t, "%s: %d cases at the ends (long prompts, all scripts, stop strings cut across tokens), %d runs, of which %d filled the context, no difference",
				e.name, len(all), p.runs, full)
		})
	}
}
