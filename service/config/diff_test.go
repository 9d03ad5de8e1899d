// SPDX-License-Identifier: GPL-3.0-or-later

package config_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/config"
)

// ORCH-2101, HME-003
func TestDiffNamesWhatChanged(t *testing.T) {
	const pool = "- id: a\n  model: {ref: file:a.gguf}\n"
	before := parse(t, "pools:\n"+pool+"- {id: gone, model: {ref: file:b.gguf}}\n- {id: same, model: {ref: file:c.gguf}}\n")
	require.Empty(t, config.Diff(before, before))
	after := parse(t, "log: {level: debug}\nsampler_profiles: {x: {temperature: 0.1}}\npools:\n"+pool+
		"  replicas: 2\n  queue: {capacity: 9}\n- {id: new, model: {ref: file:b.gguf}}\n- {id: same, model: {ref: file:c.gguf}}\n")
	require.Equal(t, []string{"log.level", "pools.a.queue.capacity", "pools.a.replicas", "pools.gone", "pools.new", "sampler_profiles.x"}, config.Diff(before, after))
}

// ORCH-2101
func TestModelAtTakesRefs(t *testing.T) {
	c := parse(t, minimal)
	m, err := c.ModelAt("file:other.gguf")
	require.NoError(t, err)
	require.Equal(t, config.Model{Ref: "file:other.gguf", Canonical: "file:/etc/llama-orch/other.gguf", Path: "/etc/llama-orch/other.gguf"}, m)
	fetched, err := c.ModelAt("hf:org/repo")
	require.NoError(t, err)
	require.Equal(t, config.Model{Ref: "hf:org/repo", Canonical: "hf:org/repo"}, fetched, "no path until it is fetched")
	for _, ref := range []string{"other", "ftp:x/y", ""} {
		_, err := c.ModelAt(ref)
		require.ErrorContains(t, err, "file:PATH", ref)
	}
}
