// SPDX-License-Identifier: GPL-3.0-or-later

package config_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/config"
)

const coder = "pools: [{id: a, model: {id: coder, ref: \"file:a.gguf\"}}]\n"

// LO-427: a list alone names the dialects, and left out it is all of them.
func TestFronts(t *testing.T) {
	s := compiled(t)
	for text, serve := range map[string][]string{
		"":                                      {"openai", "anthropic", "ollama"},
		"fronts: {hold: 1s}\n":                  {"openai", "anthropic", "ollama"},
		"fronts: [ollama]\n":                    {"ollama"},
		"fronts: []\n":                          {},
		"fronts: {serve: [openai], keep: 1h}\n": {"openai"},
	} {
		require.NoError(t, valid(t, s, []byte(text+coder)), text)
		c, err := config.Parse("c.yaml", []byte(text+coder), environ())
		require.NoError(t, err, text)
		require.Equal(t, serve, c.Fronts.Serve, text)
		require.NotZero(t, c.Fronts.Hold)
		require.NotZero(t, c.Fronts.Keep)
		require.NotZero(t, c.Fronts.ReturnWithin)
	}
	for text, want := range map[string]string{
		"fronts: [gemini]\n":   `c.yaml:1:10: fronts[0] cannot be "gemini"`,
		"fronts: openai\n":     `fronts is the text "openai", but has to be a list`,
		"fronts: {on: true}\n": "c.yaml:1:10: unknown field fronts.on",
	} {
		require.Error(t, valid(t, s, []byte(text+coder)), text)
		_, err := config.Parse("c.yaml", []byte(text+coder), environ())
		require.ErrorContains(t, err, want)
	}
}

// LO-427: what passes through to engines is off, unless the file says otherwise.
func TestUpstream(t *testing.T) {
	s := compiled(t)
	for text, on := range map[string]bool{
		"": false, "fronts: [ollama]\n": false, "fronts: {upstream: false}\n": false, "fronts: {upstream: true}\n": true,
		"fronts: {serve: [], upstream: true}\n": true,
	} {
		require.NoError(t, valid(t, s, []byte(text+coder)), text)
		c, err := config.Parse("c.yaml", []byte(text+coder), environ())
		require.NoError(t, err, text)
		require.Equal(t, on, c.Fronts.Upstream, text)
	}
	_, err := config.Parse("c.yaml", []byte("fronts: {upstream: yes please}\n"+coder), environ())
	require.ErrorContains(t, err, "c.yaml:1:20: fronts.upstream")
}

// LO-428: what an alias may be, and what it stands for.
func TestAliases(t *testing.T) {
	s := compiled(t)
	const text = `aliases:
  gpt-4o: coder
  "org/name:tag": coder@32k
  "*": {model: "file:a.gguf", params: {default: {temperature: 0.5, max_tokens: 100}, override: {thinking: false}, strip: [top_p, seed]}}
` + coder
	require.NoError(t, valid(t, s, []byte(text)))
	c, err := config.Parse("c.yaml", []byte(text), environ())
	require.NoError(t, err)
	require.Equal(t, config.Alias{Model: "coder"}, c.Aliases["gpt-4o"])
	require.Equal(t, "coder@32k", c.Aliases["org/name:tag"].Model)
	params := c.Aliases["*"].Params
	require.InDelta(t, 0.5, *params.Default.Temperature, 0)
	require.Equal(t, 100, *params.Default.MaxTokens)
	require.False(t, *params.Override.Thinking)
	require.Nil(t, params.Override.Temperature)
	require.Equal(t, []string{"top_p", "seed"}, params.Strip)
	for text, want := range map[string]string{
		"aliases: {coder: coder}\n":                                           "aliases.coder is the name of a pool's model already",
		"aliases: {x: nobody}\n":                                              `aliases.x means the model "nobody", which no pool has: write one of coder`,
		"aliases: {x: nobody@32k}\n":                                          "which no pool has",
		"aliases: {\"a b\": coder}\n":                                         `"a b" is not a name`,
		"aliases: {x: {params: {}}}\n":                                        "aliases.x.model is missing",
		"aliases: {x: {model: coder, params: {strip: [heat]}}}\n":             `cannot be "heat"`,
		"aliases: {x: {model: coder, params: {default: {temperature: 9}}}}\n": "out of range",
	} {
		_, err := config.Parse("c.yaml", []byte(text+coder), environ())
		require.ErrorContains(t, err, want, text)
	}
}

// LO-428
func TestANameWithAWish(t *testing.T) {
	for name, want := range map[string]struct {
		model string
		wish  config.Wish
	}{
		"coder": {"coder", config.Wish{}}, "coder@32k": {"coder", config.Wish{Ctx: 32768}}, "coder@4096": {"coder", config.Wish{Ctx: 4096}},
		"coder@1M": {"coder", config.Wish{Ctx: 1 << 20}}, "coder@Q8_0": {"coder", config.Wish{Quantisation: "q8_0"}}, "a@b@2k": {"a@b", config.Wish{Ctx: 2048}},
		"@32k": {"@32k", config.Wish{}}, "coder@": {"coder@", config.Wish{}}, "coder@0": {"coder", config.Wish{Quantisation: "0"}},
		"coder@99m": {"coder", config.Wish{Quantisation: "99m"}}, "coder@-1": {"coder", config.Wish{Quantisation: "-1"}},
	} {
		model, wish := config.SplitName(name)
		require.Equal(t, want.model, model, name)
		require.Equal(t, want.wish, wish, name)
	}
}

// LO-603: the status page is on, unless the file says otherwise.
func TestThePage(t *testing.T) {
	s := compiled(t)
	for text, want := range map[string]string{"": config.PageOn, "page: on\n": config.PageOn, "page: off\n": "off"} {
		require.NoError(t, valid(t, s, []byte(text+coder)), text)
		c, err := config.Parse("c.yaml", []byte(text+coder), environ())
		require.NoError(t, err, text)
		require.Equal(t, want, c.Page, text)
	}
	_, err := config.Parse("c.yaml", []byte("page: maybe\n"+coder), environ())
	require.ErrorContains(t, err, "c.yaml:1:7: page")
}
