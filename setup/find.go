// SPDX-License-Identifier: GPL-3.0-or-later

package setup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/hub"
	"github.com/llama-orch/llama-orch/service/fleet/engine/llamacpp"
	"github.com/llama-orch/llama-orch/service/gguf"
	"github.com/llama-orch/llama-orch/service/task"
)

// The bounds of a search: of folders and files that are looked at, and of how deep they lie.
const (
	mostEntries = 50_000
	mostDeep    = 8
	// The contexts between which the need of a model is measured.
	lowCtx  = 2048
	highCtx = 32768
)

// Folder is where models may be, and what it is called.
type Folder struct{ path, name string }

// At is a folder that a user has named.
func At(path string) Folder { return Folder{path, path} }

// usual are the folders in which programs and people keep models.
func usual(env func(string) string) (all []Folder) {
	home := env("HOME")
	cache := env("XDG_CACHE_HOME")
	if cache == "" && home != "" {
		cache = filepath.Join(home, ".cache")
	}
	add := func(name string, parts ...string) {
		if parts[0] != "" {
			all = append(all, Folder{filepath.Join(parts...), name})
		}
	}
	switch {
	case env("HF_HUB_CACHE") != "":
		add("the Hugging Face cache", env("HF_HUB_CACHE"))
	case env("HF_HOME") != "":
		add("the Hugging Face cache", env("HF_HOME"), "hub")
	default:
		add("the Hugging Face cache", cache, "huggingface", "hub")
	}
	if own := env("LLAMA_CACHE"); own != "" {
		add("llama.cpp's cache", own)
	} else {
		add("llama.cpp's cache", cache, "llama.cpp")
	}
	add("~/models", home, "models")
	return all
}

// finder collects models, each once, whatever links lead to it.
type finder struct {
	models  []Model
	left    []Left
	seen    map[string]bool // files and folders, without links
	same    map[string]int  // manifests of Ollama, by their files: the place in models
	entries int
}

func newFinder() *finder { return &finder{seen: map[string]bool{}, same: map[string]int{}} }

func (f *finder) leave(what, why string) { f.left = append(f.left, Left{what, why}) }

// unread says that a file or folder cannot be read. One that is not there is not missed.
func (f *finder) unread(path string, err error) {
	if !errors.Is(err, fs.ErrNotExist) {
		f.leave(path, "it cannot be read: run init as somebody who may")
	}
}

// new reports whether a file or folder was not seen before.
func (f *finder) new(path string) bool {
	file, err := filepath.EvalSymlinks(path)
	if err != nil || f.seen[file] {
		return false
	}
	f.seen[file] = true
	return true
}

// folder looks for models below a folder.
func (f *finder) folder(folder Folder) {
	projectors, from := map[string]string{}, len(f.models)
	_ = filepath.WalkDir(folder.path, func(path string, e fs.DirEntry, err error) error {
		if f.entries++; f.entries > mostEntries {
			f.leave(folder.path, fmt.Sprintf("more than %d files are here: name the folder of the models with --models", mostEntries))
			return fs.SkipAll
		}
		below, _ := filepath.Rel(folder.path, path)
		switch {
		case err != nil:
			f.unread(path, err)
		case e.IsDir() && strings.Count(below, "/") >= mostDeep:
			return fs.SkipDir
		case !e.IsDir() && e.Name() == "config.json":
			f.hub(filepath.Dir(path), folder.name)
		case !e.IsDir() && strings.EqualFold(filepath.Ext(path), ".gguf"):
			if f.file(path, folder.name) == kindProjector {
				projectors[filepath.Dir(path)] = path
			}
		}
		return nil
	})
	for i := range f.models[from:] {
		m := &f.models[from+i]
		if projector := projectors[filepath.Dir(m.Path)]; projector != "" && !m.Hub && m.Workload == task.Completion {
			m.Args = append(m.Args, "--mmproj", projector)
			m.Whys = append(m.Whys, "It can see images, by the projector beside it.")
		}
	}
}

// bundled adds the model that comes with this program, for who has no other.
func (f *finder) bundled(files []string) {
	for _, file := range files {
		if f.file(file, "this program") == kindModel {
			m := &f.models[len(f.models)-1]
			m.Bundled, m.Whys = true, append(m.Whys, "It writes haiku, to try things with: no other model was found.")
			return
		}
	}
}

// The kinds of GGUF files.
const (
	kindModel     = "model"
	kindProjector = "projector"
	kindAdapter   = "adapter"
)

// file adds the model of a file. It returns what kind of file it is, or nothing for one that cannot be used.
func (f *finder) file(path, from string) (kind string) {
	parts, err := gguf.Parts(path)
	if err != nil || parts[0] != path { // the first part stands for all
		return ""
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) || !f.new(path) {
		return ""
	}
	m, kind, err := read(path)
	switch {
	case err != nil:
		f.leave(path, err.Error())
		return ""
	case kind == kindAdapter:
		f.leave(path, "it is an adapter, and only its maker knows for which model: provisioning.args: [\"--lora\", FILE] of that model's pool")
	case kind == kindModel:
		m.Name, m.From = fileName(path), from
		f.models = append(f.models, m)
	}
	return kind
}

// read reads a GGUF file's header.
func read(path string) (m Model, kind string, err error) {
	if _, err := gguf.Find(path); err != nil {
		return m, "", err
	}
	file, err := gguf.Read(path)
	if err != nil {
		return m, "", err
	}
	a, meta := file.Architecture(), file.Metadata()
	if a.Type == kindProjector || a.Type == kindAdapter || a.Architecture == "clip" {
		if a.Type != kindAdapter {
			return m, kindProjector, nil
		}
		return m, kindAdapter, nil
	}
	if len(file.TensorInfos) == 0 {
		return m, "", errors.New("it has no weights")
	}
	m = Model{
		Path: path, Workload: task.Completion, Architecture: a.Architecture, Quantisation: strings.TrimPrefix(meta.FileTypeDescriptor, "MOSTLY_"), Bytes: int64(file.Size),
	}
	const rank = 4 // llama.cpp's LLAMA_POOLING_TYPE_RANK
	switch {
	case a.PoolingType == rank:
		m.Workload = task.Rerank
	case a.PoolingType > 0, strings.Contains(a.Architecture, "bert"):
		m.Workload = task.Embedding
	}
	_, m.Template = file.Header.MetadataKV.Get("tokenizer.chat_template")
	m.measure(llamacpp.Kind(), int64(file.Size))
	return m, kindModel, nil
}

// measure takes the engine's own estimates for the need of a model.
func (m *Model) measure(kind engine.Kind, bytes int64) {
	for _, at := range []struct {
		cards int
		need  *Need
	}{{1, &m.OnCard}, {0, &m.OnHost}} {
		s, err := kind.Start.Size(engine.Worker{Model: m.Path, Workload: m.Workload, Cards: at.cards, Slots: 1}, bytes)
		if err == nil {
			m.Ctx = s.OwnCtx()
		}
		takes := func(ctx int) int64 {
			e, _ := s.At(ctx) // with an error it guesses
			if len(e.Cards) > 0 {
				return e.Cards[0]
			}
			return e.Host
		}
		low, high := lowCtx, highCtx
		if m.Ctx > 0 {
			low, high = min(low, m.Ctx/2), min(high, m.Ctx)
		}
		a, b := takes(low), takes(high)
		if high > low {
			at.need.Token = max(b-a, 0) / int64(high-low)
		}
		at.need.Fixed = max(a-at.need.Token*int64(low), 0)
	}
}

// snapshot is a folder of the Hugging Face cache that holds a model's files.
var snapshot = regexp.MustCompile(`/models--([^/]+)/snapshots/[^/]+$`)

// hub adds the model of a folder in the form of the hub, if it is one.
func (f *finder) hub(folder, from string) {
	files, err := hub.Files(folder)
	if err != nil || !f.new(folder) { // config.json is a common name
		return
	}
	m := Model{Name: filepath.Base(folder), Path: folder, From: from, Hub: true, Workload: task.Completion, Quantisation: "safetensors", Template: true}
	if parts := snapshot.FindStringSubmatch(folder); parts != nil {
		m.Name = parts[1][strings.LastIndex(parts[1], "--")+1:]
		m.Name = strings.TrimPrefix(m.Name, "-")
	}
	for _, file := range files {
		if at, err := os.Stat(file); err == nil {
			m.Bytes += at.Size()
		}
	}
	m.measure(engine.Kind{Start: &engine.Start{Size: hub.Size}}, m.Bytes)
	f.models = append(f.models, m)
}

// fileName is a model's name by its file's. llama.cpp's cache puts the repository before it.
func fileName(path string) string {
	name := filepath.Base(path)
	if stem, is := gguf.Stem(name); is {
		name = stem
	}
	name = strings.TrimSuffix(strings.TrimSuffix(name, ".gguf"), ".GGUF")
	if at := strings.LastIndex(strings.ToUpper(name), "GGUF_"); at > 0 {
		name = name[at+len("GGUF_"):]
	}
	return strings.ToLower(name)
}
