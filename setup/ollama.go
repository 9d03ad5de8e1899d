// SPDX-License-Identifier: GPL-3.0-or-later

package setup

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/llama-orch/llama-orch/service/config"
)

const (
	maxManifest = 1 << 20
	layerPrefix = "application/vnd.ollama.image."
)

// stores are the folders in which Ollama keeps models: a user's, and those of a service.
func stores(env func(string) string) (all []string) {
	if own := env("OLLAMA_MODELS"); own != "" {
		return []string{own}
	}
	if home := env("HOME"); home != "" {
		all = append(all, filepath.Join(home, ".ollama", "models"))
	}
	return append(all, "/usr/share/ollama/.ollama/models", "/var/lib/ollama/models")
}

// Ollama looks for what Ollama has, and for nothing else.
func (s *Seen) Ollama(env func(string) string) {
	found := newFinder()
	s.Looked = nil
	for _, store := range stores(env) {
		s.Looked = append(s.Looked, store)
		found.store(store)
	}
	s.Models, s.Left = found.models, found.left
}

// manifest is what Ollama knows of a model.
type manifest struct {
	Layers []layer `json:"layers"`
}

type layer struct {
	Type   string `json:"mediaType"`
	Digest string `json:"digest"`
}

var layerDigest = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// store adds the models of a folder of Ollama.
func (f *finder) store(folder string) {
	root := filepath.Join(folder, "manifests")
	_ = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if f.entries++; f.entries > mostEntries {
			return fs.SkipAll
		}
		switch below, _ := filepath.Rel(root, path); {
		case err != nil:
			f.unread(path, err)
		case !e.IsDir():
			f.manifest(folder, path, ollamaName(below))
		}
		return nil
	})
}

// ollamaName is a model's name as Ollama's users say it: without what goes without saying.
func ollamaName(below string) string {
	parts := strings.Split(below, "/")
	if len(parts) > 1 {
		parts = append(parts[:len(parts)-2], parts[len(parts)-2]+":"+parts[len(parts)-1])
	}
	name := strings.Join(parts, "/")
	name = strings.TrimPrefix(strings.TrimPrefix(name, "registry.ollama.ai/"), "library/")
	return strings.TrimSuffix(name, ":latest")
}

func (f *finder) manifest(folder, path, name string) {
	var all manifest
	raw, err := bounded(path, maxManifest)
	if err == nil {
		err = json.Unmarshal(raw, &all)
	}
	if err != nil {
		f.leave(name, "its manifest cannot be read: "+err.Error())
		return
	}
	blobs := map[string][]string{}
	for _, l := range all.Layers {
		if !layerDigest.MatchString(l.Digest) {
			f.leave(name, "its manifest names a file in an unknown form")
			return
		}
		kind := strings.TrimPrefix(l.Type, layerPrefix)
		blobs[kind] = append(blobs[kind], filepath.Join(folder, "blobs", strings.Replace(l.Digest, ":", "-", 1)))
	}
	if len(blobs["model"]) != 1 {
		f.leave(name, without(blobs))
		return
	}
	m := f.blob(name, blobs)
	if m == nil {
		return
	}
	for kind, flag := range map[string]string{"projector": "--mmproj", "adapter": "--lora"} {
		for _, file := range blobs[kind] {
			m.Args = append(m.Args, flag, file)
			m.Whys = append(m.Whys, fmt.Sprintf("Its %s goes to llama-server.", kind))
		}
	}
	slices.Sort(m.Whys)
	if len(blobs["template"]) > 0 {
		instead := "the template in the model's own file is used"
		if !m.Template {
			instead = "and the model's file has none: give llama-server a Jinja template with --chat-template-file FILE in provisioning.args"
		}
		f.leave(name+": TEMPLATE", "it is in Ollama's language, which llama-server does not read; "+instead)
	}
	if len(blobs["system"]) > 0 {
		f.leave(name+": SYSTEM", "what a model is told is for those who ask it: send it as a system message")
	}
	if len(blobs["messages"]) > 0 {
		f.leave(name+": MESSAGE", "what a model is told is for those who ask it: send it as messages")
	}
	for _, file := range blobs["params"] {
		f.params(m, name, file)
	}
}

// without says why a manifest without a model in one file is of no use.
func without(blobs map[string][]string) string {
	switch {
	case len(blobs["model"]) > 1:
		return "its weights are in several files, which llama-server cannot join"
	case len(blobs["tensor"]) > 0:
		return "its weights are single tensors in Ollama's own form, which llama-server does not read"
	}
	return "it has no weights here: it runs in a cloud, or was not pulled whole"
}

// blob adds the model of a manifest. Nil: it is one more name of a model that was added already, or it is of no use.
func (f *finder) blob(name string, blobs map[string][]string) *Model {
	path := blobs["model"][0]
	same := fmt.Sprint(path, blobs["adapter"], blobs["projector"], blobs["params"])
	if at, is := f.same[same]; is {
		f.models[at].Aliases = append(f.models[at].Aliases, name)
		return nil
	}
	m, kind, err := read(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		f.leave(name, "its weights are not here: pull it with Ollama again")
	case err != nil:
		f.leave(name, err.Error())
	case kind != kindModel:
		f.leave(name, "its weights are no model's")
	default:
		m.Name, m.From = name, "Ollama"
		f.same[same] = len(f.models)
		f.models = append(f.models, m)
		return &f.models[len(f.models)-1]
	}
	return nil
}

// params takes along what Ollama's parameters have in common with ours.
func (f *finder) params(m *Model, name, file string) {
	var set map[string]any
	raw, err := bounded(file, maxManifest)
	if err == nil {
		err = json.Unmarshal(raw, &set)
	}
	if err != nil {
		f.leave(name+": PARAMETER", "they cannot be read: "+err.Error())
		return
	}
	for _, key := range slices.Sorted(maps.Keys(set)) {
		if why := m.param(key, set[key]); why != "" {
			f.leave(name+": PARAMETER "+key, why)
		}
	}
}

// param sets one of Ollama's parameters, or says why it cannot.
func (m *Model) param(key string, value any) (why string) {
	n, isNumber := value.(float64)
	if !isNumber && key != "stop" {
		return fmt.Sprintf("it is %v, which is no number", value)
	}
	switch key {
	case "num_ctx":
		if n < 32 || n > 1<<24 {
			return fmt.Sprintf("%v is no context that an engine runs with", n)
		}
		m.Asked = int(n)
		return ""
	case "num_predict":
		if n >= 1 && n <= 1<<24 {
			most := int(n)
			m.Params.Default.MaxTokens = &most
		}
		return ""
	case "seed":
		if n < 0 || n > 1<<32-2 {
			return "it is not from 0 to 4294967294"
		}
		seed := int(n)
		m.Params.Default.Seed = &seed
		return ""
	case "stop":
		return "a configuration has no stops: send `stop` with each request; the model's own end of turn is known"
	case "num_gpu", "num_thread", "num_batch", "main_gpu", "use_mmap", "use_mlock", "low_vram", "num_keep", "numa":
		return "where and how a model runs is decided here by its memory"
	}
	return m.sample(key, n)
}

// sample sets a parameter of sampling. The others are Ollama's defaults where the model's maker set any.
func (m *Model) sample(key string, n float64) (why string) {
	s := config.SamplerProfile{Temperature: 0.8, TopP: 0.9, TopK: 40, MinP: 0, RepeatPenalty: 1.1} // Ollama's own
	if m.Sample != nil {
		s = *m.Sample
	}
	within := func(least, most float64) bool { return n >= least && n <= most }
	switch {
	case key == "temperature" && within(0, 5):
		s.Temperature = n
	case key == "top_p" && within(0, 1):
		s.TopP = n
	case key == "top_k" && within(0, 1e6):
		s.TopK = int(n)
	case key == "min_p" && within(0, 1):
		s.MinP = n
	case key == "repeat_penalty" && within(0.1, 5):
		s.RepeatPenalty = n
	case slices.Contains([]string{"temperature", "top_p", "top_k", "min_p", "repeat_penalty"}, key):
		return fmt.Sprintf("%v is out of range", n)
	default:
		return "there is no such setting here"
	}
	m.Sample = &s
	return ""
}

// bounded reads a file that is not too large.
func bounded(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, errors.Unwrap(err)
	}
	defer f.Close() // it was only read
	raw, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(raw)) > most {
		err = fmt.Errorf("it is larger than %s", size(most))
	}
	return raw, err
}
