// SPDX-License-Identifier: GPL-3.0-or-later

package config_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/config"
)

// An engine that takes models of the hub is started from a folder, on all cards of its mask.
//
// LO-461
func TestAPoolThatStartsAnEngineOfTheHub(t *testing.T) {
	for engine, program := range map[string]string{"vllm": "vllm", "tgi": "text-generation-launcher"} {
		c := parse(t, "pools: [{id: a, engine: "+engine+", model: {ref: file:llama}, device: [0, 1], slots: 8, ctx: 8192, provisioning: {mode: binary}}]")
		require.Equal(t, program, c.Pools[0].Provisioning.Path)
		require.Equal(t, "/etc/llama-orch/llama", c.Pools[0].Model.Path)
		require.Equal(t, config.Device("0,1"), c.Pools[0].Device)
		c = parse(t, "pools: [{id: a, engine: "+engine+", model: {ref: file:llama}, provisioning: {mode: container, image: example.org/engine:1}}]")
		require.Equal(t, config.Device("auto"), c.Pools[0].Device)
		c = parse(t, "pools: [{id: a, engine: "+engine+", model: {ref: anything}, provisioning: {mode: external, urls: [\"http://127.0.0.1:1\"]}}]")
		require.Empty(t, c.Pools[0].Model.Path)
	}
}

// LO-461
func TestWhatSuchAPoolCannotHave(t *testing.T) {
	for text, want := range map[string][2]string{
		"engine: tgi, model: {ref: file:m}":                                                                      {"cannot have provisioning.mode builtin", "external or binary or container"},
		"engine: vllm, model: {ref: file:m}, provisioning: {mode: source}":                                       {"cannot have provisioning.mode source", "external or binary or container"},
		"engine: triton, model: {ref: file:m}, provisioning: {mode: binary, path: tritonserver}":                 {"cannot have provisioning.mode binary", "set provisioning.mode to external"},
		"engine: tgi, model: {ref: \"hf:org/m\"}, provisioning: {mode: binary}":                                  {"fetches none", "hf download org/m --local-dir FOLDER` does, and write file:FOLDER"},
		"engine: vllm, model: {ref: \"hf:org/m/a.safetensors\"}, provisioning: {mode: binary}":                   {"fetches none", "hf download org/m --local-dir"},
		"engine: vllm, model: {ref: \"s3:bucket/m\"}, provisioning: {mode: binary}":                              {"fetches none", "into a folder, and write file:FOLDER"},
		"engine: tgi, model: {ref: file:m}, device: cpu, provisioning: {mode: binary}":                           {"needs a GPU", "device: [0]"},
		"engine: vllm, model: {ref: file:m}, device: [0, 1], tensor_split: [2, 1], provisioning: {mode: binary}": {"evenly", "remove tensor_split"},
		"engine: vllm, model: {ref: file:m}, workload: embedding, provisioning: {mode: binary}":                  {"completions only", "external"},
		"engine: vllm, model: {ref: file:m}, threads: 4, provisioning: {mode: binary}":                           {"threads has no effect", "remove it"},
		"engine: vllm, model: {ref: file:m}, determinism: {batch_invariant: true}, provisioning: {mode: binary}": {"VLLM_BATCH_INVARIANT", "external"},
	} {
		all := problems(t, "pools: [{id: a, "+text+"}]")
		require.NotEmpty(t, all, text)
		require.Contains(t, all[0].What, want[0], text)
		require.Contains(t, all[0].Remedy, want[1], text)
	}
}

// LO-461
func TestCheckLooksAtTheFolderOfAModel(t *testing.T) {
	folder := t.TempDir()
	c := parse(t, "auth: {optional_on_loopback: true}\npools: [{id: a, engine: vllm, model: {id: m, ref: \"file:"+folder+"\"}, provisioning: {mode: binary, path: sh}}]")
	require.ErrorContains(t, c.Check(), "config.json")
	require.NoError(t, os.WriteFile(filepath.Join(folder, "config.json"), []byte("{}"), 0o600))
	require.NoError(t, c.Check())
	c.Pools[0].Model.Path = filepath.Join(folder, "config.json")
	require.ErrorContains(t, c.Check(), "is no folder")
	c.Pools[0].Model.Path, c.Pools[0].Provisioning.Path = folder, "no-such-program"
	require.ErrorContains(t, c.Check(), "install vllm")
}
