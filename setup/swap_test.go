// SPDX-License-Identifier: GPL-3.0-or-later

package setup_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/setup"
)

// swap reads a made-up configuration of llama-swap on a machine that has its models.
func swap(t *testing.T, name string) (box, setup.Proposal) {
	t.Helper()
	b := newBox(t, "llama-server", "vllm")
	for _, file := range []string{"coder", "two words", "embed", "mm"} {
		b.file("models/"+file+".gguf", b.weights(), 0o644)
	}
	b.file("elsewhere/boxed.gguf", b.weights(), 0o644)
	b.file("my.jinja", "", 0o644)
	b.file("hub/config.json", "{}", 0o644)
	b.file("hub/model.safetensors", "x", 0o644)
	raw, err := os.ReadFile(filepath.Join("testdata", name+".in.yaml"))
	require.NoError(t, err)
	s := setup.Seen{Cards: []setup.Card{large, small}, Memory: 64 * gib, Engines: []setup.Engine{b.engine("llama-server", 2), b.engine("vllm", -1)}}
	p, err := setup.Swap(raw, s, b.dir, func(key string) string {
		if key == "MODELS" {
			return filepath.Join(b.dir, "elsewhere")
		}
		return b.env(key)
	})
	require.NoError(t, err)
	return b, p
}

// LO-931: llama-swap's models become pools that the daemon takes, and each thing that does not is named with the reason.
func TestFromLlamaSwap(t *testing.T) {
	for _, name := range []string{"swap-plain", "swap-containers", "swap-hard"} {
		t.Run(name, func(t *testing.T) {
			b, p := swap(t, name)
			t.Setenv("PATH", filepath.Join(b.dir, "bin")+":"+os.Getenv("PATH")) // of the check, which looks for the same programs
			b.checked(name, p)
			for _, l := range p.Left {
				require.NotEmpty(t, l.Why, l.What)
			}
		})
	}
}

// LO-931
func TestWhatLlamaSwapCannotGive(t *testing.T) {
	b, p := swap(t, "swap-hard")
	left := map[string]string{}
	for _, l := range p.Left {
		left[l.What] = strings.ReplaceAll(l.Why, b.dir, "")
	}
	for what, why := range map[string]string{
		"apiKeys": "LLORCH_API_TOKEN", "matrix": "memory there is", "peers": "external", "futureSetting": "no such setting",
		"good: alias whisper": "has that name", "good: alias taken": "has that name", "good: alias not a name": "letters, digits", "good: -ngl 20": "all its layers",
		"good: --temp warm": "no number", "good: useModelName": "only that one", "good: filters.setParamsByID good:high": "under aliases",
		"whisper": "whisper-server", "missing-model": "is missing", "missing-program": "/opt/none/llama-server, is not here", "no-model": "names no model", "no-cmd": "no cmd",
		"undefined": "${folder}", "unset": "NOT_SET, which is not set", "unquoted": "does not end", "circle": "not defined", "bomb": "too long", "word": "no flag", "number": "no whole number",
		"compose": "only run", "other-image": "as far as its name tells",
	} {
		require.Contains(t, left[what], why, what)
	}
	require.Len(t, p.Pools, 2)
}

// LO-931
func TestWhatIsNoLlamaSwap(t *testing.T) {
	for text, why := range map[string]string{
		"": "has no models", "models: {}": "has no models", "- a": "no configuration of llama-swap", "models: [": "no configuration of llama-swap",
		"models: {a: {cmd: [1, 2]}}": "no configuration of llama-swap", strings.Repeat("#", 2<<20): "larger than", "models: {a: {cmd: x}}": "nothing of the file could be taken along",
	} {
		_, err := setup.Swap([]byte(text), setup.Seen{}, t.TempDir(), os.Getenv)
		require.ErrorContains(t, err, why, "%.40q", text)
	}
}

// LO-931: no file makes it panic or hang.
func FuzzSwap(f *testing.F) {
	for _, name := range []string{"swap-plain", "swap-containers", "swap-hard"} {
		raw, err := os.ReadFile(filepath.Join("testdata", name+".in.yaml"))
		require.NoError(f, err)
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, err := setup.Swap(raw, setup.Seen{}, t.TempDir(), func(string) string { return "" })
		if err == nil {
			require.NotEmpty(t, p.YAML())
		}
	})
}
