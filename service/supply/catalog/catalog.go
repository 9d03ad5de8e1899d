// SPDX-License-Identifier: GPL-3.0-or-later

// Package catalog keeps the models and prepared engines of the state directory: where they came from, that their bytes are
// what they should be, and whether tasks may use them (ORCH-3060, OC-CAT-56).
package catalog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/task"
)

// Fetcher brings a model's files to the disk. It returns the path of a file, of the first of several numbered parts, or of a folder. The path is
// below intoDir, except that a `file:` ref may stay where it is. A download that breaks off may leave what it has in intoDir, and go on
// from there. The digest is that of the file, or of all its parts one after the other; it is empty if it is not known. The size is not
// used. If a digest is given and the bytes have another one, the error is UNTRUSTED_ARTIFACT.
type Fetcher interface {
	Fetch(ctx context.Context, ref, intoDir, digest string, progress func(done, total int64)) (path string, size int64, got string, err error)
}

// State says how far a model is.
type State string

// The states of a model. No task can use one that is Fetching or Failed.
const (
	Fetching State = "Fetching"
	Failed   State = "Failed"
	Active   State = "Active"
	Retired  State = "Retired"
)

// Model is an entry. Callers must not change its slices.
type Model struct {
	ID         string         `json:"id"`
	Ref        string         `json:"ref"`      // canonical
	Digest     string         `json:"digest"`   // of the bytes; until they are there, the one that was given, if any
	Verified   bool           `json:"verified"` // what the last check found
	State      State          `json:"state"`
	Size       int64          `json:"size"` // bytes
	Signature  SignatureState `json:"signature"`
	Warnings   []string       `json:"warnings,omitempty"`
	SBOM       string         `json:"sbom,omitempty"`
	Metadata   *Metadata      `json:"metadata,omitempty"` // nil: its format is not one that the catalog reads
	Problem    *Problem       `json:"problem,omitempty"`  // why it failed, or what the last check found
	DrainBy    time.Time      `json:"drain_by,omitzero"`  // of a retired model: when its pools drain
	CreatedAt  time.Time      `json:"created_at"`
	VerifiedAt time.Time      `json:"verified_at,omitzero"`

	Path     string    `json:"-"` // of the file, the first of several parts, or the folder; empty: not there yet
	Progress *Progress `json:"-"` // while it is fetched
}

// Problem is an error that an entry keeps.
type Problem struct {
	Code      task.Code `json:"code"`
	Message   string    `json:"message"`
	Retriable bool      `json:"retriable,omitempty"` // another try can go on from what is there
}

// Typed is the problem as an error.
func (p *Problem) Typed() *task.Error {
	e := task.Errorf(p.Code, "%s", p.Message)
	e.Retriable = p.Retriable
	return e
}

// Progress says how far a fetch is, in bytes. Total is 0 until it is known.
type Progress struct{ Done, Total int64 }

// Options are what a catalog is opened with. Dir and Fetcher are needed.
type Options struct {
	Dir     string // the state directory: models/ and engines.json are the catalog's
	Fetcher Fetcher
	Trust   Trust
	// Canonical returns the one spelling of a ref, or an error that says what is wrong with it. Default: it leaves refs as they are.
	Canonical func(ref string) (string, error)
	// InUse reports whether a pool uses the model, or is about to. It may read from the catalog, but must change nothing there.
	InUse func(id string) bool
	// Changed is called when a model was fetched, failed, checked, retired or activated. It may read from the catalog, but must neither
	// change anything there nor wait for it.
	Changed    func(Model)
	Fetches    int // at a time from one source; default 2
	Hashes     int // at a time; default 2
	Log        *zap.Logger
	Registerer prometheus.Registerer
	Now        func() time.Time
}

// The bounds of a catalog: models, as the contract lists them, and fetches that wait or run.
const (
	MaxModels  = 10_000
	maxPending = 64
)

// Catalog is the models and engines of one state directory. Its methods may be called from several goroutines.
type Catalog struct {
	o             Options
	log           *zap.Logger
	trust         trust
	disk          *disk
	verifications *prometheus.CounterVec

	change sync.Mutex // held by whoever changes an entry, until the change is on the disk. Taken before mu

	mu      sync.RWMutex // guards what follows; held only for moments, since admission reads it
	byID    map[string]*entry
	byRef   map[string]*entry
	sorted  []*entry // by id; nil: it has to be made again
	engines []Engine
	pending int
	closed  bool

	ctx      context.Context
	stop     context.CancelFunc
	jobs     sync.WaitGroup
	fetching *lanes
	hashing  chan struct{}
}

// entry is a model and what goes on with it. mu guards it, except for the counters.
type entry struct {
	rec      *record
	path     string // of the model; empty: not there yet
	job      *job
	holds    int // how many use it, or are about to
	deleting bool
	done     atomic.Int64 // bytes fetched
	total    atomic.Int64
}

// job is a fetch or a check that goes on after the call that began it.
type job struct {
	cancel  context.CancelFunc
	over    chan struct{} // closed when it has ended
	waiters int           // creators who wait to hear whether it failed. Guarded by mu
	settled bool          // its result is decided, so nobody may begin to wait. Guarded by mu
	err     error         // of a failed fetch that left no entry. Set before over is closed
	found   Verification  // of a check. Set before over is closed
	checked bool
}

var idShape = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)

// ValidID reports whether id can be a model's.
func ValidID(id string) bool { return idShape.MatchString(id) }

// Open opens the catalog, or makes one if there is none. Fetches that a stop broke off go on.
func Open(o Options) (*Catalog, error) {
	if o.Dir == "" || o.Fetcher == nil {
		return nil, errors.New("catalog: Dir and Fetcher are needed")
	}
	if o.Canonical == nil {
		o.Canonical = func(ref string) (string, error) { return ref, nil }
	}
	if o.InUse == nil {
		o.InUse = func(string) bool { return false }
	}
	if o.Changed == nil {
		o.Changed = func(Model) {}
	}
	if o.Fetches <= 0 {
		o.Fetches = 2
	}
	if o.Hashes <= 0 {
		o.Hashes = 2
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.Registerer == nil {
		o.Registerer = prometheus.NewRegistry()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	c := &Catalog{
		o: o, log: o.Log.Named("catalog"), byID: map[string]*entry{}, byRef: map[string]*entry{},
		fetching: newLanes(o.Fetches), hashing: make(chan struct{}, o.Hashes),
	}
	var err error
	if c.trust, err = readTrust(o.Trust); err != nil {
		return nil, err
	}
	if c.disk, err = openDisk(o.Dir); err != nil {
		return nil, fmt.Errorf("open the catalog in %s: %w", o.Dir, err)
	}
	if err = c.load(); err == nil {
		c.verifications, err = newVerifications(o.Registerer)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the catalog in %s: %w", o.Dir, err), c.disk.root.Close())
	}
	c.ctx, c.stop = context.WithCancel(context.Background())
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.byID {
		if e.rec.State == Fetching {
			c.fetch(c.ctx, e)
		}
	}
	return c, nil
}

// Close ends what goes on and waits for it. Fetches go on when the catalog is opened again.
func (c *Catalog) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	c.mu.Unlock()
	c.stop()
	c.jobs.Wait()
	c.change.Lock()
	defer c.change.Unlock()
	c.o.Registerer.Unregister(c.verifications)
	if err := c.disk.root.Close(); err != nil {
		return fmt.Errorf("close the catalog: %w", err)
	}
	return nil
}

func (c *Catalog) put(e *entry) {
	if c.byID[e.rec.ID] != e {
		c.sorted = nil
	}
	e.path = e.rec.path(c)
	c.byID[e.rec.ID], c.byRef[e.rec.Ref] = e, e
}

func (c *Catalog) drop(e *entry) {
	delete(c.byID, e.rec.ID)
	delete(c.byRef, e.rec.Ref)
	c.sorted = nil
}

// model returns an entry as callers see it. The caller holds mu.
func (c *Catalog) model(e *entry) Model {
	m := e.rec.Model
	m.Path = e.path
	if m.State == Fetching {
		m.Progress = &Progress{Done: e.done.Load(), Total: e.total.Load()}
	}
	return m
}

// Get returns a model. NOT_FOUND.
func (c *Catalog) Get(id string) (Model, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	e, err := c.entry(id)
	if err != nil {
		return Model{}, err
	}
	return c.model(e), nil
}

// entry finds an entry. The caller holds mu.
func (c *Catalog) entry(id string) (*entry, error) {
	if e := c.byID[id]; e != nil {
		return e, nil
	}
	return nil, task.Errorf(task.NotFound, "the catalog has no model %q: GET /v1/catalog/models lists those it has", task.Clip(id, 128))
}

// Find returns the model that a model_ref, of a task or of a pool, names by its id or canonical ref.
func (c *Catalog) Find(name string) (Model, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	e := c.named(name)
	if e == nil {
		return Model{}, false
	}
	return c.model(e), true
}

func (c *Catalog) named(name string) *entry {
	if e := c.byID[name]; e != nil {
		return e
	}
	return c.byRef[name]
}

// Deprecated reports whether tasks for the model with this id or canonical ref are refused with MODEL_DEPRECATED.
func (c *Catalog) Deprecated(name string) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	e := c.named(name)
	return e != nil && e.rec.State == Retired
}

// List returns the models in this state, or all models if it is empty, ordered by id.
func (c *Catalog) List(state State) []Model {
	c.mu.Lock()
	if c.sorted == nil {
		c.sorted = make([]*entry, 0, len(c.byID))
		for _, e := range c.byID {
			c.sorted = append(c.sorted, e)
		}
		slices.SortFunc(c.sorted, func(a, b *entry) int { return cmp.Compare(a.rec.ID, b.rec.ID) })
	}
	list := c.sorted
	c.mu.Unlock()
	c.mu.RLock()
	defer c.mu.RUnlock()
	out := make([]Model, 0, len(list))
	for _, e := range list {
		if state == "" || e.rec.State == state {
			out = append(out, c.model(e))
		}
	}
	return out
}

// Wait returns once the fetch of the model is over, with its error if it failed.
func (c *Catalog) Wait(ctx context.Context, id string) (Model, error) {
	for {
		c.mu.RLock()
		e, err := c.entry(id)
		if err != nil {
			c.mu.RUnlock()
			return Model{}, err
		}
		m, j := c.model(e), e.job
		c.mu.RUnlock()
		switch {
		case m.State == Failed:
			return m, m.Problem.Typed()
		case m.State != Fetching:
			return m, nil
		case j == nil: // the catalog was closed before the fetch began
			return m, closing()
		}
		select {
		case <-ctx.Done():
			return m, fmt.Errorf("wait for a model: %w", ctx.Err())
		case <-j.over:
			if c.ctx.Err() != nil {
				return m, closing()
			}
			if j.err != nil {
				return Model{}, j.err
			}
		}
	}
}

func closing() error {
	return task.Errorf(task.ShuttingDown, "the server is shutting down: try again once it is back")
}

// SetState activates or retires a model (ORCH-3072). Tasks for a retired model are refused at once, and its pools drain at the deadline. A retired model
// whose files a restore did not bring back is fetched first, and is Fetching until then.
// Errors: NOT_FOUND; CONFLICT for a model that is not there yet.
func (c *Catalog) SetState(id string, to State, deadline time.Duration) (Model, error) {
	if to != Active && to != Retired || deadline < 0 {
		return Model{}, task.Errorf(task.InvalidParams, "`state` must be Active or Retired, and `deadline_ms` not below 0")
	}
	m, changed, err := c.setState(id, to, deadline)
	if err != nil {
		return Model{}, err
	}
	if !changed {
		return c.Get(id)
	}
	c.o.Changed(m)
	return m, nil
}

// setState records a state. It changes nothing where an active model is to be active.
func (c *Catalog) setState(id string, to State, deadline time.Duration) (m Model, changed bool, err error) {
	c.change.Lock()
	defer c.change.Unlock()
	e, err := c.settled(id)
	if err != nil || e.rec.State == to && to == Active {
		return Model{}, false, err
	}
	r := *e.rec
	r.State, r.DrainBy = to, time.Time{}
	if to == Active && e.rec.absent() {
		return Model{}, false, c.refetch(e, &r)
	}
	if to == Retired {
		r.DrainBy = c.o.Now().UTC().Add(deadline)
	}
	m, err = c.store(e, &r)
	return m, true, err
}

// refetch begins to fetch a model whose digest is known. The caller holds change.
func (c *Catalog) refetch(e *entry, r *record) error {
	r.State = Fetching
	if _, err := c.store(e, r); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return closing()
	}
	c.fetch(c.ctx, e)
	return nil
}

// settled returns the entry of a model that is there.
func (c *Catalog) settled(id string) (*entry, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	e, err := c.entry(id)
	if err == nil && (e.deleting || e.rec.State != Active && e.rec.State != Retired) {
		err = task.Errorf(task.Conflict, "model %s is not there: wait for its fetch, or delete it", id)
	}
	return e, err
}

// store replaces an entry's record, first on the disk and then in memory. The caller holds change.
func (c *Catalog) store(e *entry, r *record) (Model, error) {
	if err := c.disk.write(recordName(r.ID), r); err != nil {
		return Model{}, notWritten(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	e.rec, e.path = r, r.path(c)
	return c.model(e), nil
}

func notWritten(err error) error {
	return task.Errorf(task.Internal, "the catalog could not be written: see that the state directory has room and can be written, then try again").Because(err)
}
