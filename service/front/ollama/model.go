// SPDX-License-Identifier: GPL-3.0-or-later

package ollama

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/llama-orch/llama-orch/service/front/lenient"
	"github.com/llama-orch/llama-orch/service/task"
)

// Library is what the front asks of models. Errors are *task.Error; MODEL_NOT_FOUND where there is no such model.
type Library interface {
	// Models are those that tasks can name, each once.
	Models(ctx context.Context) []Model
	// Show tells of one of them, or of a model of the catalog.
	Show(ctx context.Context, name string) (Details, error)
	// Load returns once the model can answer. It begins to load it where nobody has yet.
	Load(ctx context.Context, name string) error
	// Unload lets go of the model in all on-demand pools once their tasks have ended, and returns at once. CONFLICT where there is none.
	Unload(ctx context.Context, name string) error
	// Release does the same in one pool, where it is on demand and no task waits for it.
	Release(ctx context.Context, poolID string)
	// Pull adds a model to the catalog by its ref, and waits a while for it to be there. One that is there is not pulled again.
	Pull(ctx context.Context, ref string, wait time.Duration) (Fetch, error)
	// Fetched waits a while, and tells how far a fetch is.
	Fetched(ctx context.Context, id string, wait time.Duration) (Fetch, error)
	// Delete takes a model out of the catalog. CONFLICT for one that a pool uses.
	Delete(ctx context.Context, name string) error
}

// Model is a model as lists show it.
type Model struct {
	Name         string
	Alias        bool   // the name is a further one
	Digest       string // 64 hexadecimal digits
	Size         int64  // of its files, in bytes; 0: not known
	Modified     time.Time
	Workload     task.Workload
	Features     []task.Feature // that all its pools have
	Ctx          int            // tokens, of the pool that has most; 0: not known
	Format       string         // gguf; empty: not known, as what follows
	Architecture string
	Parameters   int64
	Quantisation string
	Running      *Running // nil: it is in no memory
}

// Running is a model in memory.
type Running struct {
	Bytes int64     // that it takes
	VRAM  int64     // of these, on cards
	Until time.Time // when it goes if nobody asks for it; zero: it stays
}

// Details are all that is known of a model.
type Details struct {
	Model

	Title    string // what its file calls it
	Template string // for chats
	Settings map[string]any
	Sampling task.Sampling // of its pool; zero: there is none
}

// Fetch is how far a fetch is, in bytes. Total is 0 until it is known.
type Fetch struct {
	ID, Digest  string
	Done, Total int64
	Over        bool
}

// named is the model that a client means, by the name that pools and catalog know. Ollama's names have a tag, which is latest where none is given.
func (f *Front) named(c *common) (string, error) {
	name := c.shown()
	if name == "" {
		return "", lenient.NoModel("/api/tags")
	}
	short, latest := strings.CutSuffix(name, ":latest")
	if !latest || short == "" || strings.Contains(short, ":") { // the tag of an oci: ref is its own
		return name, nil
	}
	for _, m := range f.x.Models() {
		if m.ID == name {
			return name, nil
		}
	}
	return short, nil
}

// details are what lists show of a model's file.
type details struct {
	Parent       string   `json:"parent_model"`
	Format       string   `json:"format"`
	Family       string   `json:"family"`
	Families     []string `json:"families"`
	Parameters   string   `json:"parameter_size"`
	Quantisation string   `json:"quantization_level"`
}

func (m *Model) details() details {
	d := details{Format: m.Format, Family: m.Architecture, Families: []string{}, Parameters: human(m.Parameters), Quantisation: m.Quantisation}
	if m.Architecture != "" {
		d.Families = append(d.Families, m.Architecture)
	}
	return d
}

// human is a number of parameters as Ollama writes it, such as 8.0B and 361.82M; nothing where it is not known.
func human(n int64) string {
	const thousand, million, billion = 1e3, 1e6, 1e9
	v := float64(n)
	switch {
	case n <= 0:
		return ""
	case v >= billion && math.Mod(v, billion) == 0:
		return fmt.Sprintf("%.0fB", v/billion)
	case v >= billion:
		return fmt.Sprintf("%.1fB", v/billion)
	case v >= million && math.Mod(v, million) == 0:
		return fmt.Sprintf("%.0fM", v/million)
	case v >= million:
		return fmt.Sprintf("%.2fM", v/million)
	case v >= thousand:
		return fmt.Sprintf("%.0fK", v/thousand)
	}
	return fmt.Sprint(n)
}

type modelView struct {
	Name     string    `json:"name"`
	Model    string    `json:"model"`
	Modified time.Time `json:"modified_at"`
	Size     int64     `json:"size"`
	Digest   string    `json:"digest"`
	Details  details   `json:"details"`
}

// tags serves /api/tags.
func (f *Front) tags(w http.ResponseWriter, r *http.Request) error {
	list := []modelView{}
	for _, m := range f.o.Library.Models(r.Context()) {
		list = append(list, modelView{m.Name, m.Name, m.Modified.UTC(), m.Size, m.Digest, m.details()})
	}
	f.x.Write(w, http.StatusOK, struct {
		Models []modelView `json:"models"`
	}{list})
	return nil
}

type runningView struct {
	Name    string    `json:"name"`
	Model   string    `json:"model"`
	Size    int64     `json:"size"`
	Digest  string    `json:"digest"`
	Details details   `json:"details"`
	Expires time.Time `json:"expires_at"`
	VRAM    int64     `json:"size_vram"`
	Ctx     int       `json:"context_length"`
}

// forever is so far away that clients show a model as one that stays.
var forever = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)

// ps serves /api/ps.
func (f *Front) ps(w http.ResponseWriter, r *http.Request) error {
	list := []runningView{}
	for _, m := range f.o.Library.Models(r.Context()) {
		if m.Running == nil || m.Alias {
			continue
		}
		until := m.Running.Until.UTC()
		if until.IsZero() {
			until = forever
		}
		list = append(list, runningView{m.Name, m.Name, m.Running.Bytes, m.Digest, m.details(), until, m.Running.VRAM, m.Ctx})
	}
	f.x.Write(w, http.StatusOK, struct {
		Models []runningView `json:"models"`
	}{list})
	return nil
}

// modelRequest is the body of a request about a model.
type modelRequest struct {
	common
}

type showView struct {
	Parameters   string         `json:"parameters"`
	Template     string         `json:"template"`
	Details      details        `json:"details"`
	Info         map[string]any `json:"model_info"`
	Capabilities []string       `json:"capabilities"`
	Modified     time.Time      `json:"modified_at"`
}

// show serves /api/show.
func (f *Front) show(w http.ResponseWriter, r *http.Request) error {
	var in modelRequest
	_, name, _, err := f.read(r, &in, &in.common)
	if err != nil {
		return err
	}
	d, err := f.o.Library.Show(r.Context(), name)
	if err != nil {
		return naming(in.shown(), err)
	}
	f.x.Write(w, http.StatusOK, showView{d.parameters(), d.Template, d.details(), d.info(), d.capabilities(), d.Modified.UTC()})
	return nil
}

// parameters are the pool's settings, a line each, as a Modelfile has them.
func (d *Details) parameters() string {
	var b strings.Builder
	line := func(name string, value any) { fmt.Fprintf(&b, "%-30s %v\n", name, value) }
	if d.Ctx > 0 {
		line("num_ctx", d.Ctx)
	}
	if s := d.Sampling; s.Profile != "" {
		line("temperature", s.Temperature)
		line("top_k", s.TopK)
		line("top_p", s.TopP)
		line("min_p", s.MinP)
		line("repeat_penalty", s.RepeatPenalty)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// info is what the file says of itself. Clients read the context from it that they may use, so it is that of the pool.
func (d *Details) info() map[string]any {
	info := maps.Clone(d.Settings)
	if info == nil {
		info = map[string]any{}
	}
	architecture := cmp.Or(d.Architecture, "unknown")
	info["general.architecture"] = architecture
	info["general.basename"] = cmp.Or(d.Title, d.Name)
	if d.Parameters > 0 {
		info["general.parameter_count"] = d.Parameters
	}
	if d.Ctx > 0 {
		info[architecture+".context_length"] = d.Ctx
	}
	return info
}

// capabilities are what the model can do, in the dialect's words.
func (d *Details) capabilities() []string {
	out := []string{}
	switch d.Workload {
	case task.Completion:
		out = append(out, "completion")
	case task.Embedding:
		out = append(out, "embedding")
	case task.Rerank, task.Opaque: // it has no words for them
	}
	for _, c := range []struct {
		feature task.Feature
		word    string
	}{{task.FeatureTools, "tools"}, {task.FeatureImages, "vision"}, {task.FeatureReasoning, "thinking"}} {
		if slices.Contains(d.Features, c.feature) {
			out = append(out, c.word)
		}
	}
	return out
}

// move loads a model, or unloads it, for a request that asks nothing else.
func (f *Front) move(w http.ResponseWriter, r *http.Request, shown, name string, unload bool, answer func(done) any) error {
	reason := doneLoad
	if unload {
		reason = doneUnload
		if err := f.o.Library.Unload(r.Context(), name); err != nil {
			return naming(shown, err)
		}
	} else { // who waits longer is told to come again: some give up after 300 s without a byte
		ctx, stop := context.WithTimeout(r.Context(), f.x.HoldWhole())
		defer stop()
		if err := f.o.Library.Load(ctx, name); err != nil {
			return naming(shown, err)
		}
	}
	f.x.Write(w, http.StatusOK, answer(done{Done: true, Reason: reason}))
	return nil
}
