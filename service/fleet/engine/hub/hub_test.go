// SPDX-License-Identifier: GPL-3.0-or-later

package hub

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/hubengine"
	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/task"
)

func model(t *testing.T, weights int64) string {
	t.Helper()
	folder := filepath.Join(t.TempDir(), "llama")
	require.NoError(t, hubengine.WriteModel(folder, weights))
	return folder
}

// A model is the files that engines read. Links count as what they lead to, since a folder of the hub's cache has nothing else.
//
// LO-461
func TestTheFilesOfAModel(t *testing.T) {
	folder := model(t, 100)
	for _, name := range []string{".gitattributes", "README.md", "pytorch_model.bin", ".calls"} {
		require.NoError(t, os.WriteFile(filepath.Join(folder, name), []byte("x"), 0o600))
	}
	require.NoError(t, os.Mkdir(filepath.Join(folder, "onnx.json"), 0o700))
	elsewhere := filepath.Join(t.TempDir(), "blob")
	require.NoError(t, os.WriteFile(elsewhere, []byte("{{ messages }}"), 0o600))
	require.NoError(t, os.Symlink(elsewhere, filepath.Join(folder, "chat_template.jinja")))
	files, err := Files(folder)
	require.NoError(t, err)
	var names []string
	for _, f := range files {
		names = append(names, filepath.Base(f))
	}
	require.Equal(t, []string{"chat_template.jinja", "config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "tokenizer.json"}, names)

	for name, path := range map[string]string{
		"nothing": filepath.Join(folder, "absent"), "a file": filepath.Join(folder, "config.json"), "an empty folder": t.TempDir(),
	} {
		_, err := Files(path)
		require.ErrorContains(t, err, "model.ref", name)
	}
	require.NoError(t, os.Remove(filepath.Join(folder, "config.json")))
	_, err = Files(folder)
	require.ErrorContains(t, err, "config.json")
}

// LO-461
func TestTheEstimate(t *testing.T) {
	folder := model(t, 4*gibi)
	of := func(w engine.Worker, ctx int) engine.Estimate {
		w.Model = folder
		s, err := Size(w, 0)
		require.NoError(t, err)
		require.Equal(t, 8192, s.OwnCtx())
		e, err := s.At(ctx)
		require.NoError(t, err)
		require.Positive(t, e.Host)
		return e
	}
	const token = 2 * 32 * 8 * 128 * 2 // keys and values, layers, heads, their size, bytes of a figure
	one := of(engine.Worker{Cards: 1, Slots: 1}, 1024)
	require.InDelta(t, 4*gibi+1024*token+cardFixed, one.Cards[0], 16)
	require.Equal(t, int64(3*1024*token), of(engine.Worker{Cards: 1, Slots: 4}, 1024).Cards[0]-one.Cards[0])
	require.Equal(t, of(engine.Worker{Cards: 1, Slots: 1}, 0), of(engine.Worker{Cards: 1, Slots: 1}, 8192))
	two := of(engine.Worker{Cards: 2, Slots: 1, Split: []float64{1, 1}}, 1024)
	require.Len(t, two.Cards, 2)
	require.Equal(t, two.Cards[0], two.Cards[1])
	require.InDelta(t, one.Cards[0]+cardFixed, two.Cards[0]+two.Cards[1], 16)
}

// What does not tell its KV is guessed by its weights, and nothing in it leads to nonsense.
//
// LO-461
func TestASettingsFileThatTellsNothing(t *testing.T) {
	for name, text := range map[string]string{
		"no JSON": "{", "empty": "{}", "negative": `{"num_hidden_layers":-1,"num_attention_heads":8,"hidden_size":64}`,
		"huge": `{"num_hidden_layers":1000000000,"num_attention_heads":1000000,"num_key_value_heads":1000000,"head_dim":1000000}`,
	} {
		folder := model(t, gibi)
		require.NoError(t, os.WriteFile(filepath.Join(folder, configFile), []byte(text), 0o600))
		s, err := Size(engine.Worker{Model: folder, Cards: 1, Slots: 1}, 0)
		require.Error(t, err, name)
		require.Zero(t, s.OwnCtx(), name)
		e, err := s.At(4096)
		require.Error(t, err, name)
		require.Greater(t, e.Cards[0], int64(gibi), name)
	}
	seen := model(t, gibi)
	require.NoError(t, os.WriteFile(filepath.Join(seen, configFile),
		[]byte(`{"text_config":{"num_hidden_layers":2,"num_attention_heads":8,"hidden_size":64,"max_position_embeddings":512,"torch_dtype":"float32"}}`), 0o600))
	s, err := Size(engine.Worker{Model: seen, Cards: 1}, 0)
	require.NoError(t, err)
	require.Equal(t, 512, s.OwnCtx())
	require.Equal(t, int64(2*2*8*8*4), s.(size).token)
}

// LO-461
func TestWhatCannotBeStarted(t *testing.T) {
	good := engine.Worker{Workload: task.Completion, Cards: 2, Split: []float64{1, 1}}
	require.NoError(t, Check(good))
	for says, change := range map[string]func(*engine.Worker){
		"built-in":     func(w *engine.Worker) { w.BuiltIn = true },
		"GPU":          func(w *engine.Worker) { w.Cards = 0 },
		"completions":  func(w *engine.Worker) { w.Workload = task.Rerank },
		"tensor_split": func(w *engine.Worker) { w.Split = []float64{2, 1} },
	} {
		w := good
		change(&w)
		require.ErrorContains(t, Check(w), says)
	}
}

// The texts are those of vLLM 0.11, TGI 3.3 and PyTorch 2.8.
//
// LO-462
func TestDeathsAreToldApart(t *testing.T) {
	for text, want := range map[string]engine.Cause{
		"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 3.50 GiB. GPU 0 has a total capacity of 23.57 GiB of which 1.06 GiB is free.":                                                                                                            engine.OutOfVRAM,
		"ValueError: Free memory on device (10.2/23.6 GiB) on startup is less than desired GPU memory utilization (0.9, 21.2 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes.":                                               engine.OutOfVRAM,
		"ValueError: To serve at least one request with the models's max seq len (131072), (16.00 GiB KV cache is needed, which is larger than the available KV cache memory (5.26 GiB). Try increasing `gpu_memory_utilization` or decreasing `max_model_len`": engine.NoKVRoom,
		"ValueError: The model's max seq len (32768) is larger than the maximum number of tokens that can be stored in KV cache (16048). Try increasing `gpu_memory_utilization` or decreasing `max_model_len`.":                                                engine.NoKVRoom,
		"ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`.":                                                                                                                                                        engine.NoKVRoom,
		"Error: Warmup(Generation(\"Not enough memory to handle 4096 prefill tokens. You need to decrease `--max-batch-prefill-tokens`\"))":                                                                                                                     engine.NoKVRoom,
		"OSError: [Errno 98] Address already in use":                                                                                            engine.PortTaken,
		"Error: WebServer(Os { code: 98, kind: AddrInUse, message: \"Address already in use\" })":                                               engine.PortTaken,
		"OSError: /srv/models/llama does not appear to have a file named config.json.":                                                          engine.ModelMissing,
		"huggingface_hub.errors.LocalEntryNotFoundError: Cannot find an appropriate cached snapshot folder":                                     engine.ModelMissing,
		"RuntimeError: Cannot find any model weights with `/srv/models/llama`":                                                                  engine.ModelMissing,
		"ValueError: Bfloat16 is only supported on GPUs with compute capability of at least 8.0. Your Tesla T4 GPU has compute capability 7.5.": engine.UnsupportedGPU,
		"RuntimeError: CUDA error: no kernel image is available for execution on the device":                                                    engine.UnsupportedGPU,
		"ValueError: The quantization method fp8 is not supported for the current GPU. Minimum capability: 89. Current capability: 75.":         engine.UnsupportedGPU,
		"RuntimeError: CUDA error: an illegal memory access was encountered":                                                                    engine.DriverReset,
		"ModuleNotFoundError: No module named 'vllm'":                                                                                           engine.MissingLibrary,
		"ValueError: Model architectures ['MambaX'] are not supported for now. Supported architectures: ...":                                    engine.BadModel,
	} {
		require.Equal(t, want, Deaths().Told([]string{"INFO starting", text, "RuntimeError: Engine core initialization failed. See root cause above."})[0], text)
	}
	require.Empty(t, Deaths().Told([]string{"INFO 11-30 Starting to load model /srv/models/llama...", "Shard ready in 22.3s rank=0"}))
}

// LO-463
func TestProgressIsReadFromTheLog(t *testing.T) {
	for line, want := range map[string]string{
		"Loading safetensors checkpoint shards:  40% Completed | 2/5 [00:01<00:02,  1.20it/s]":                    "reads the weights: 40 %",
		"(EngineCore_0 pid=7) Loading pt checkpoint shards: 100% Completed | 5/5":                                 "reads the weights: 100 %",
		"INFO 11-30 [gpu_model_runner.py:2602] Starting to load model /srv/models/llama...":                       "reads the weights",
		"INFO 11-30 [kv_cache_utils.py:1087] GPU KV cache size: 43,072 tokens":                                    "has made room for KV",
		"Capturing CUDA graphs (decode, FULL):  43%|####      | 3/7":                                              "captures CUDA graphs",
		"2026-11-30T10:00:00.000Z INFO text_generation_launcher: Starting shard rank=0":                           "starts its processes",
		"2026-11-30T10:00:10.000Z INFO shard-manager: text_generation_launcher: Waiting for shard to be ready...": "loads the model",
		"2026-11-30T10:00:22.000Z INFO shard-manager: text_generation_launcher: Shard ready in 22.3s rank=0":      "has loaded the model",
		"2026-11-30T10:00:22.000Z INFO text_generation_router: Warming up model":                                  "warms up",
		"WARNING: something else": "", "": "",
	} {
		require.Equal(t, want, Progress(line), line)
	}
}

// LO-461
func TestAFractionNeverGrows(t *testing.T) {
	require.Equal(t, "0.833", Fraction(0.8339))
	require.Equal(t, "1.000", Fraction(1))
	require.False(t, strings.HasPrefix(Fraction(0.9999), "1"))
}
