// SPDX-License-Identifier: GPL-3.0-or-later

// Package hub has what engines that take models in the form of the Hugging Face hub share: which files a model has, what its workers take of the
// cards' memory, what they say of their load, and what they say when they die (LO-461 to LO-463).
package hub

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/task"
)

const (
	configFile = "config.json"
	// maxConfig bounds what is read of it, and maxFiles how many files a model has.
	maxConfig = 4 << 20
	maxFiles  = 4096
	// maxFigure bounds the figures that are multiplied. None of any model is so large, and the product of all of them fits.
	maxFigure = 1 << 16
)

// Env keeps the engines' libraries from calling anybody: a model is in its folder, or it is not there.
func Env() []string {
	return []string{"HF_HUB_OFFLINE=1", "TRANSFORMERS_OFFLINE=1", "HF_HUB_DISABLE_TELEMETRY=1", "DO_NOT_TRACK=1"}
}

// Files are the files of the model in a folder, by their names: those that engines read, and not what else a repository has, such as its history.
func Files(folder string) ([]string, error) {
	at, err := os.Stat(folder)
	switch {
	case err != nil:
		return nil, errors.New("the model's folder cannot be read: put it there, or correct `model.ref`")
	case !at.IsDir():
		return nil, errors.New("the model has to be a folder, with config.json and *.safetensors in it, as a repository of the Hugging Face hub has: correct `model.ref`")
	}
	entries, err := os.ReadDir(folder)
	if err != nil || len(entries) > maxFiles {
		return nil, errors.New("the model's folder cannot be read: correct its permissions, or `model.ref`")
	}
	var all []string
	weights := false
	for _, e := range entries {
		path := filepath.Join(folder, e.Name())
		if !belongs(e.Name()) || !regular(path) {
			continue
		}
		weights = weights || isWeights(e.Name())
		all = append(all, path)
	}
	if !weights || !slices.Contains(all, filepath.Join(folder, configFile)) {
		return nil, errors.New("the model's folder has no config.json, or no *.safetensors: fetch all files of the model's repository into it, or correct `model.ref`")
	}
	return all, nil
}

// belongs reports whether an engine reads a file of that name: weights, settings, the tokenizer, the template, and code.
func belongs(name string) bool {
	return !strings.HasPrefix(name, ".") && slices.Contains([]string{".safetensors", ".json", ".model", ".txt", ".jinja", ".py", ".tiktoken"}, filepath.Ext(name))
}

func isWeights(name string) bool { return filepath.Ext(name) == ".safetensors" }

// regular follows links: a folder of the hub's cache has nothing else.
func regular(path string) bool {
	at, err := os.Stat(path)
	return err == nil && at.Mode().IsRegular()
}

// Check refuses a worker that such an engine cannot be.
func Check(w engine.Worker) error {
	switch {
	case w.BuiltIn:
		return errors.New("there is no built-in worker of this kind; use provisioning mode `binary`, `container` or `external`")
	case w.Cards == 0:
		return errors.New("such an engine needs a GPU; name cards in `device`")
	case w.Workload != task.Completion:
		return errors.New("the orchestrator starts such engines for completions only; use provisioning mode `external` for others")
	}
	for i := range w.Split {
		if w.Split[i] != w.Split[0] {
			return errors.New("such an engine splits a model evenly; leave `tensor_split` out")
		}
	}
	return nil
}

// config is what of config.json the memory of a worker depends on.
type config struct {
	Layers   int     `json:"num_hidden_layers"`
	Hidden   int     `json:"hidden_size"`
	Heads    int     `json:"num_attention_heads"`
	KVHeads  int     `json:"num_key_value_heads"`
	HeadSize int     `json:"head_dim"`
	Ctx      int     `json:"max_position_embeddings"`
	Dtype    string  `json:"torch_dtype"`
	Text     *config `json:"text_config"` // of a model that sees images
}

// read reads a folder's config.json.
func read(folder string) (config, error) {
	var c config
	file, err := os.Open(filepath.Join(folder, configFile))
	if err != nil {
		return c, fmt.Errorf("read the model's settings: %w", err)
	}
	defer file.Close() // it was only read
	if at, err := file.Stat(); err != nil || at.Size() > maxConfig {
		return c, errors.New("the model's config.json is too large")
	}
	if err := json.NewDecoder(file).Decode(&c); err != nil {
		return c, fmt.Errorf("read the model's config.json: %w", err)
	}
	if c.Text != nil && c.Layers == 0 {
		c = *c.Text
	}
	if c.KVHeads == 0 {
		c.KVHeads = c.Heads
	}
	if c.HeadSize == 0 && c.Heads > 0 {
		c.HeadSize = c.Hidden / c.Heads
	}
	for name, n := range map[string]int{"num_hidden_layers": c.Layers, "num_key_value_heads": c.KVHeads, "head_dim": c.HeadSize} {
		if n <= 0 || n > maxFigure {
			return c, fmt.Errorf("the model's config.json has no usable %s", name)
		}
	}
	if c.Ctx < 0 || c.Ctx > engine.MaxTokens {
		c.Ctx = 0
	}
	return c, nil
}
