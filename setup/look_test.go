// SPDX-License-Identifier: GPL-3.0-or-later

package setup_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/nvmlstub"
	"github.com/llama-orch/llama-orch/service/task"
	"github.com/llama-orch/llama-orch/setup"
)

// cards makes the stand-in for the driver tell of the reference machine's cards.
func cards(t *testing.T) {
	t.Helper()
	state := filepath.Join(t.TempDir(), "state")
	require.NoError(t, nvmlstub.Reference().Write(state))
	t.Setenv(nvmlstub.Env, state)
}

func (b box) weights() string {
	raw, err := os.ReadFile(haiku)
	require.NoError(b.t, err)
	return string(raw)
}

func (b box) meminfo() string {
	return b.file("meminfo", "MemTotal:       65536000 kB\nMemFree: 1 kB\n", 0o644)
}

func (b box) look() setup.Seen {
	return setup.Look(b.t.Context(), setup.Options{NVML: nvml, Meminfo: b.meminfo(), Bundled: []string{haiku}, Env: b.env})
}

// devices is a llama-server that says what it can compute on.
const devices = "#!/bin/sh\n[ \"$1\" = --list-devices ] || exit 1\necho 'Available devices:'\n%s"

// LO-930: both cards, the memory, the programs and the models are seen, each once.
func TestLook(t *testing.T) {
	cards(t)
	b := newBox(t, "docker")
	b.file("bin/llama-server", fmt.Sprintf(devices, "echo '  CUDA0: RTX 3090 (24 MiB)'\necho '  CUDA1: RTX 3060 (12 MiB)'\n"), 0o755)
	b.file("bin/vllm", "not a program", 0o644)
	weights := b.weights()
	b.file("home/models/One.GGUF", weights, 0o644)
	b.file("home/models/deep/er/two-Q8_0.gguf", weights, 0o644)
	require.NoError(t, os.Symlink("deep/er/two-Q8_0.gguf", filepath.Join(b.dir, "home/models/link.gguf")))
	require.NoError(t, os.Symlink(".", filepath.Join(b.dir, "home/models/circle")))
	b.file("home/models/broken.gguf", "GGUF\x03\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff", 0o644)
	b.file("home/models/empty.gguf", "", 0o644)
	b.file("home/models/part-00002-of-00003.gguf", weights, 0o644)
	b.file("home/models/part-00001-of-00003.gguf", weights, 0o644)
	b.file("home/.cache/llama.cpp/org_repo-GGUF_three.gguf", weights, 0o644)
	blob := b.file("home/.cache/huggingface/hub/models--org--Four-GGUF/blobs/abc", weights, 0o644)
	snapshot := b.file("home/.cache/huggingface/hub/models--org--Four-GGUF/snapshots/rev/README.md", "", 0o644)
	require.NoError(t, os.Symlink(blob, filepath.Join(filepath.Dir(snapshot), "four.gguf")))
	b.file("home/.cache/huggingface/hub/models--Qwen--Five-8B/snapshots/rev/config.json", `{"num_hidden_layers": 2, "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 4096}`, 0o644)
	b.file("home/.cache/huggingface/hub/models--Qwen--Five-8B/snapshots/rev/model.safetensors", "x", 0o644)
	b.file("home/.cache/huggingface/hub/models--x--tokenizer/snapshots/rev/config.json", `{}`, 0o644)

	s := b.look()
	require.Equal(t, []setup.Card{{Index: 0, Name: "RTX 3090", Total: 24 * gib, Free: 24*gib - 300<<20}, {Index: 1, Name: "RTX 3060", Total: 12 * gib, Free: 12*gib - 200<<20}}, s.Cards)
	require.EqualValues(t, 65536000<<10, s.Memory)
	require.Equal(t, []setup.Engine{
		{Name: "llama-server", Path: filepath.Join(b.dir, "bin/llama-server"), Devices: 2}, {Name: "docker", Path: filepath.Join(b.dir, "bin/docker"), Devices: -1},
	}, s.Engines)
	found := map[string]setup.Model{}
	for _, m := range s.Models {
		require.NotContains(t, found, m.Name)
		found[m.Name] = m
	}
	require.Len(t, found, 5, "%v", found)
	require.Equal(t, "~/models", found["one"].From)
	require.Equal(t, "llama.cpp's cache", found["three"].From)
	require.Equal(t, "the Hugging Face cache", found["four"].From)
	require.True(t, found["Five-8B"].Hub)
	require.Equal(t, 4096, found["Five-8B"].Ctx)
	one := found["one"]
	require.Equal(t, "llama", one.Architecture)
	require.Equal(t, task.Completion, one.Workload)
	require.Equal(t, 256, one.Ctx)
	require.Positive(t, one.OnCard.Token)
	require.Greater(t, one.OnCard.Fixed, one.OnHost.Fixed)
	left := map[string]string{}
	for _, l := range s.Left {
		left[filepath.Base(l.What)] = l.Why
	}
	require.Contains(t, left["broken.gguf"], "read the model's header")
	require.Contains(t, left["empty.gguf"], "it is empty")
	require.NotEmpty(t, left["part-00001-of-00003.gguf"], "a part is missing")
	require.Len(t, left, 3)

	p, err := setup.Propose(s)
	require.NoError(t, err)
	b.checked("seen", p)

	b.file("bin/llama-server", fmt.Sprintf(devices, ""), 0o755)
	require.Zero(t, b.look().Engines[0].Devices)
	b.file("bin/llama-server", "#!/bin/sh\nexit 3\n", 0o755)
	require.Equal(t, -1, b.look().Engines[0].Devices)
}

// LO-930: who has no model gets the one that comes with the program, on the CPU, whatever cards there are.
func TestTheBundledModel(t *testing.T) {
	cards(t)
	b := newBox(t)
	s := b.look()
	require.Len(t, s.Models, 1)
	p, err := setup.Propose(s)
	require.NoError(t, err)
	require.Contains(t, string(p.YAML()), "device: cpu\n    ctx: 256\n    provisioning: {mode: builtin}")
	require.Contains(t, string(p.YAML()), "no other model was found")
}

// store writes a made-up folder of Ollama.
func (b box) store() {
	const (
		root  = "home/.ollama/models/"
		blobs = root + "blobs/sha256-"
	)
	digest := func(c string) string { return strings.Repeat(c, 64) }
	layer := func(kind, c string) string {
		return fmt.Sprintf(`{"mediaType": "application/vnd.ollama.image.%s", "digest": "sha256:%s", "size": 1}`, kind, digest(c))
	}
	manifest := func(name string, layers ...string) {
		b.file(root+"manifests/"+name, `{"schemaVersion": 2, "layers": [`+strings.Join(layers, ",")+`]}`, 0o644)
	}
	weights := b.weights()
	for _, c := range []string{"a", "b", "c"} {
		b.file(blobs+digest(c), weights, 0o644)
	}
	b.file(blobs+digest("1"), `{"num_ctx": 128, "temperature": 0.3, "top_k": 20, "stop": ["<|im_end|>"], "num_gpu": 3, "mirostat": 1, "num_predict": 100, "seed": -1, "top_p": "high"}`, 0o644)
	b.file(blobs+digest("2"), `{{ .Prompt }}`, 0o644)
	b.file(blobs+digest("3"), `You are a pirate.`, 0o644)
	b.file(blobs+digest("4"), `not json`, 0o644)
	manifest("registry.ollama.ai/library/llama3.2/latest", layer("model", "a"), layer("template", "2"), layer("params", "1"), layer("system", "3"), layer("license", "9"))
	manifest("registry.ollama.ai/library/llama3.2/3b", layer("model", "a"), layer("template", "2"), layer("params", "1"))
	manifest("registry.ollama.ai/someone/tuned/v2", layer("model", "b"), layer("adapter", "b"), layer("messages", "3"))
	manifest("hub.example/org/repo/Q4", layer("model", "c"), layer("params", "4"))
	manifest("registry.ollama.ai/library/gone/latest", layer("model", "d"))
	manifest("registry.ollama.ai/library/cloud/latest", layer("license", "9"))
	manifest("registry.ollama.ai/library/tensors/latest", layer("tensor", "9"))
	manifest("registry.ollama.ai/library/two/latest", layer("model", "a"), layer("model", "b"))
	manifest("registry.ollama.ai/library/evil/latest", `{"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:../../../etc/passwd"}`)
	b.file(root+"manifests/registry.ollama.ai/library/broken/latest", "{", 0o644)
	b.file(root+"manifests/registry.ollama.ai/library/large/latest", strings.Repeat(" ", 2<<20), 0o644)
}

// LO-931: what Ollama has becomes pools, and what cannot be taken along is named with the reason.
func TestFromOllama(t *testing.T) {
	b := newBox(t, "llama-server")
	b.store()
	s := setup.Seen{Cards: []setup.Card{large}, Memory: 32 * gib, Engines: []setup.Engine{b.engine("llama-server", 1)}, Models: []setup.Model{b.model("other", 1, 1, 4096)}}
	s.Ollama(b.env)
	p, err := setup.Propose(s)
	require.NoError(t, err)
	b.checked("from-ollama", p)
	left := map[string]string{}
	for _, l := range p.Left {
		left[l.What] = l.Why
	}
	for what, why := range map[string]string{
		"gone": "pull it", "cloud": "no weights here", "tensors": "Ollama's own form", "two": "several files", "evil": "unknown form", "broken": "cannot be read", "large": "larger than",
		"llama3.2:3b: SYSTEM": "", "llama3.2:3b: TEMPLATE": "Ollama's language", "llama3.2:3b: PARAMETER stop": "send `stop`", "llama3.2:3b: PARAMETER num_gpu": "decided here",
		"llama3.2:3b: PARAMETER mirostat": "no such setting", "llama3.2:3b: PARAMETER seed": "4294967294", "llama3.2:3b: PARAMETER top_p": "no number",
		"someone/tuned:v2: MESSAGE": "send it as messages", "hub.example/org/repo:Q4: PARAMETER": "cannot be read",
	} {
		if why != "" {
			require.Contains(t, left[what], why, what)
		}
	}
	require.Contains(t, string(p.YAML()), "PARAMETER stop: a configuration has no stops")
}
