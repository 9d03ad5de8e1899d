// SPDX-License-Identifier: GPL-3.0-or-later

package control

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/llama-orch/llama-orch/service/config"
	"github.com/llama-orch/llama-orch/service/fleet/pool"
	"github.com/llama-orch/llama-orch/service/flow/scheduler"
	"github.com/llama-orch/llama-orch/service/front/api"
	"github.com/llama-orch/llama-orch/service/front/ollama"
	"github.com/llama-orch/llama-orch/service/gguf"
	"github.com/llama-orch/llama-orch/service/safefile"
	"github.com/llama-orch/llama-orch/service/supply/catalog"
	"github.com/llama-orch/llama-orch/service/task"
)

// Library is the models as Ollama's front asks for them. It implements ollama.Library (LO-425).
type Library struct {
	Fleet
	operator *Operator
	schedule *scheduler.Scheduler
	since    time.Time // of the models whose files tell no time
}

// NewLibrary makes a Library.
func NewLibrary(o *Operator, since time.Time) *Library {
	return &Library{Fleet: o.Fleet, operator: o, schedule: o.schedule, since: since}
}

// described keeps what was read from the files of pools whose models are not in the catalog, for as long as the files stay the same.
type described struct {
	mu    sync.Mutex
	known map[string]description // by path
}

type description struct {
	marks []safefile.Mark
	meta  catalog.Metadata
}

// readWithin bounds a look at a model's file: its disk may not answer.
const readWithin = 2 * time.Second

// seen is what the file at a path said of itself when it was read last.
func (d *described) seen(path string) catalog.Metadata {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.known[path].meta
}

// of is what the file at a path says of itself. It is empty where the file cannot be read: the pool's health says why.
func (d *described) of(ctx context.Context, path string) description {
	d.mu.Lock()
	known, ok := d.known[path]
	d.mu.Unlock()
	ctx, stop := context.WithTimeout(ctx, readWithin)
	defer stop()
	found, err := safefile.Wait(ctx, func(context.Context) (description, error) {
		if ok && !slices.ContainsFunc(known.marks, func(m safefile.Mark) bool { return m.Same() != nil }) {
			return known, nil
		}
		parts, err := gguf.Find(path)
		if err != nil {
			return description{}, err
		}
		var found description
		for _, part := range parts {
			m, err := safefile.MarkOf(part)
			if err != nil {
				return description{}, err
			}
			found.marks = append(found.marks, m)
		}
		found.meta, err = catalog.ReadGGUF(path)
		return found, err
	})
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil {
		delete(d.known, path)
		return description{}
	}
	d.known[path] = found
	return found
}

// Models implements ollama.Library.
func (l *Library) Models(ctx context.Context) []ollama.Model {
	var list []ollama.Model
	for _, p := range l.config().Pools {
		m, _ := l.describe(ctx, p)
		at := slices.IndexFunc(list, func(o ollama.Model) bool { return o.Name == m.Name })
		if at < 0 {
			list = append(list, m)
			continue
		}
		list[at] = both(list[at], m)
	}
	now := l.config()
	for _, name := range slices.Sorted(maps.Keys(now.Aliases)) {
		if pools, err := l.pools(name); err == nil && name != config.AnyName {
			m, _ := l.describeAll(ctx, pools)
			m.Name, m.Alias = name, true
			list = append(list, m)
		}
	}
	return list
}

// describeAll is the one model of several pools, and where its file is.
func (l *Library) describeAll(ctx context.Context, pools []config.Pool) (all ollama.Model, path string) {
	for i, p := range pools {
		m, at := l.describe(ctx, p)
		if i == 0 {
			all = m
		} else {
			all = both(all, m)
		}
		path = cmp.Or(path, at)
	}
	return all, path
}

// both is one model that two pools have.
func both(a, b ollama.Model) ollama.Model {
	a.Ctx = max(a.Ctx, b.Ctx)
	a.Features = slices.DeleteFunc(a.Features, func(f task.Feature) bool { return !slices.Contains(b.Features, f) })
	switch {
	case a.Running == nil:
		a.Running = b.Running
	case b.Running != nil:
		a.Running.Bytes, a.Running.VRAM = a.Running.Bytes+b.Running.Bytes, a.Running.VRAM+b.Running.VRAM
		if a.Running.Until.IsZero() || b.Running.Until.IsZero() {
			a.Running.Until = time.Time{}
		} else if b.Running.Until.After(a.Running.Until) {
			a.Running.Until = b.Running.Until
		}
	}
	return a
}

// describe is a pool's model, and where its file is.
func (l *Library) describe(ctx context.Context, p config.Pool) (m ollama.Model, path string) {
	s := l.summary(p)
	m = ollama.Model{
		Name: p.Model.ID, Workload: p.Workload, Ctx: s.ctx, Features: slices.Clone(s.features), Modified: l.since, Running: l.running(p),
	}
	if entry, known := l.shelf.Find(p.Model.Canonical); known {
		path = entry.Path
		from(&m, entry)
	} else if p.Model.Path != "" {
		path = p.Model.Path
		file := l.files.of(ctx, path)
		for _, mark := range file.marks {
			m.Size, m.Modified = m.Size+mark.Size, mark.Modified
		}
		tell(&m, file.meta)
	}
	if m.Digest = hexOf(cmp.Or(s.digest, m.Digest)); m.Digest == "" {
		m.Digest = standIn(p.Model.Canonical)
	}
	return m, path
}

// from adds what the catalog knows.
func from(m *ollama.Model, entry catalog.Model) {
	m.Digest, m.Size, m.Modified = hexOf(entry.Digest), entry.Size, entry.CreatedAt
	if entry.Metadata != nil {
		tell(m, *entry.Metadata)
	}
}

// tell adds what a file says of itself.
func tell(m *ollama.Model, f catalog.Metadata) {
	m.Format, m.Architecture, m.Parameters, m.Quantisation = f.Format, f.Architecture, f.Parameters, f.Quantisation
	if m.Ctx == 0 {
		m.Ctx = f.CtxMax
	}
}

func hexOf(digest string) string { return strings.TrimPrefix(digest, "sha256:") }

// standIn is shown in place of a digest of bytes that nobody has read yet: clients cut digests to their length.
func standIn(ref string) string {
	sum := sha256.Sum256([]byte(ref))
	return hex.EncodeToString(sum[:])
}

// running is what a pool's model takes in memory; nil where it takes nothing.
func (l *Library) running(p config.Pool) *ollama.Running {
	var out *ollama.Running
	for _, r := range l.manager.Infos(p.ID) {
		if r.State != pool.Ready {
			continue
		}
		if out == nil {
			out = &ollama.Running{}
		}
		bytes := cmp.Or(r.ObservedBytes, r.EstimateBytes)
		if out.Bytes += bytes; len(r.Cards) > 0 {
			out.VRAM += bytes
		}
	}
	if out == nil || !onDemand(p) {
		return out
	}
	d, _ := l.schedule.Demand(p.ID)
	if from := d.ActiveAt; d.Running+d.Waiting > 0 || from.IsZero() {
		out.Until = l.now().Add(p.IdleTTL)
	} else {
		out.Until = from.Add(p.IdleTTL)
	}
	return out
}

// own are the pools that serve a model by a name of its own, and not because the alias * stands for every name.
func (l *Library) own(name string) []config.Pool {
	q := task.Request{ModelRef: name}
	if !(candidates{Fleet: l.Fleet}).named(l.config(), &q, name) {
		return nil
	}
	return serving(l.config(), q.ModelRef)
}

// pools are those that serve a model, by any name that tasks can give it. MODEL_NOT_FOUND.
func (l *Library) pools(name string) ([]config.Pool, error) {
	q, err := candidates{Fleet: l.Fleet}.Resolve(task.Request{ModelRef: name})
	if err != nil {
		return nil, err
	}
	return serving(l.config(), q.ModelRef), nil
}

// Show implements ollama.Library.
func (l *Library) Show(ctx context.Context, name string) (d ollama.Details, err error) {
	path := ""
	entry, known := l.shelf.Find(name)
	pools, err := l.pools(name)
	switch {
	case known && len(l.own(name)) == 0: // no pool has it
		d.Name, path = entry.ID, entry.Path
		from(&d.Model, entry)
	case err != nil:
		return d, err
	default:
		d.Model, path = l.describeAll(ctx, pools)
		if p := pools[0]; p.Workload == task.Completion {
			s := l.config().Profile(p)
			d.Sampling = task.Sampling{
				Profile: p.SamplerProfile, Temperature: s.Temperature, TopP: s.TopP, TopK: s.TopK, MinP: s.MinP, RepeatPenalty: s.RepeatPenalty,
			}
		}
	}
	if path == "" {
		return d, nil
	}
	ctx, stop := context.WithTimeout(ctx, readWithin)
	defer stop()
	h, err := safefile.Wait(ctx, func(context.Context) (catalog.Header, error) { return catalog.ReadHeader(path) })
	if err == nil { // else it is no GGUF, or is gone, which the pool's health says
		d.Title, d.Template, d.Settings = h.Name, h.Template, h.Settings
	}
	return d, nil
}

// Load implements ollama.Library.
func (l *Library) Load(ctx context.Context, name string) error {
	pools, err := l.pools(name)
	if err != nil {
		return err
	}
	var going []config.Pool // those that are on their way
	for _, p := range pools {
		switch s := l.standing(p); {
		case s.State == task.PoolReady:
			return nil
		case onDemand(p):
			if _, err = l.operator.Load(ctx, p.ID); err == nil {
				going = append(going, p)
			}
		case s.State == task.PoolLoading || s.State == task.PoolFetching:
			going = append(going, p)
		default:
			err = s.Refusal(p.ID, p.Engine)
		}
		if len(going) > 0 { // one is enough
			return l.loaded(ctx, going[0])
		}
	}
	return err
}

// loaded returns once a pool that is being loaded can run a task.
func (l *Library) loaded(ctx context.Context, p config.Pool) error {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for first := true; ; first = false { // at first it may still stand as before
		s := l.standing(p)
		if s.State == task.PoolReady {
			return nil
		}
		if !first && (s.State == task.PoolFailed || s.Failing) {
			return s.Refusal(p.ID, p.Engine)
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return s.Refusal(p.ID, p.Engine)
		}
	}
}

// Unload implements ollama.Library.
func (l *Library) Unload(ctx context.Context, name string) error {
	pools, err := l.pools(name)
	if err != nil {
		return err
	}
	done := false
	for _, p := range pools {
		var failed error
		if _, failed = l.operator.Unload(ctx, p.ID); failed == nil {
			done = true
		}
		err = cmp.Or(err, failed)
	}
	if done { // the others are pinned
		return nil
	}
	return err
}

// Release implements ollama.Library.
func (l *Library) Release(ctx context.Context, poolID string) {
	p, known := l.pool(poolID)
	interactive, batch := l.schedule.Depth(poolID)
	if !known || !onDemand(p) || interactive+batch > 0 {
		return
	}
	_, _ = l.operator.Unload(ctx, poolID) // else a reload is working on it, or it is gone
}

// Pull implements ollama.Library.
func (l *Library) Pull(ctx context.Context, ref string, wait time.Duration) (ollama.Fetch, error) {
	entry, known := l.shelf.Find(ref)
	if pools := l.own(ref); !known && len(pools) > 0 {
		if entry, known = l.shelf.Find(pools[0].Model.Canonical); !known { // its file is the configuration's
			return ollama.Fetch{ID: pools[0].Model.ID, Over: true}, nil
		}
	}
	add := api.ModelAddition{Ref: ref, Wait: wait}
	switch {
	case known && entry.State == catalog.Failed:
		add.ID, add.Ref = entry.ID, entry.Ref
	case known:
		return fetchOf(entry), nil
	case !strings.Contains(ref, ":") || strings.Contains(ref, " "):
		return ollama.Fetch{}, task.Errorf(task.ModelNotFound,
			"this server does not fetch from Ollama's registry: pull a model ref, such as hf:ORG/REPO/FILE.gguf, hf.co/ORG/REPO, https://HOST/FILE.gguf, or oci:REGISTRY/REPOSITORY:TAG")
	}
	added, err := l.shelf.AddModel(ctx, add)
	if err != nil {
		return ollama.Fetch{}, err
	}
	return l.Fetched(ctx, added.ID, 0)
}

// Fetched implements ollama.Library.
func (l *Library) Fetched(ctx context.Context, id string, wait time.Duration) (ollama.Fetch, error) {
	bounded, stop := context.WithTimeout(ctx, wait)
	defer stop()
	entry, err := l.shelf.Wait(bounded, id)
	if err != nil && errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		entry, err = l.shelf.Get(id)
	}
	return fetchOf(entry), err
}

func fetchOf(m catalog.Model) ollama.Fetch {
	f := ollama.Fetch{ID: m.ID, Digest: cmp.Or(m.Digest, "sha256:"+standIn(m.Ref)), Over: m.State != catalog.Fetching}
	if m.Progress != nil {
		f.Done, f.Total = m.Progress.Done, m.Progress.Total
	}
	return f
}

// Delete implements ollama.Library.
func (l *Library) Delete(ctx context.Context, name string) error {
	entry, known := l.shelf.Find(name)
	if pools := l.own(name); len(pools) > 0 {
		if !known {
			entry, known = l.shelf.Find(pools[0].Model.Canonical)
		}
		if !known {
			return task.Errorf(task.Conflict, "pool '%s' serves it from a file that is not the server's own: take the pool out of the configuration", pools[0].ID)
		}
	}
	if !known {
		return task.Errorf(task.ModelNotFound, "the catalog has no such model: `llama-orch models` lists those it has")
	}
	return l.shelf.Delete(ctx, entry.ID)
}
