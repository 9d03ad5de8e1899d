// SPDX-License-Identifier: GPL-3.0-or-later

package artifact

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/contain"
	"github.com/llama-orch/llama-orch/service/task"
)

// DefaultMaxBytes is the default of Options.MaxBytes.
const DefaultMaxBytes = 64 << 20

// Options are what a store is opened with. Only Dir is needed.
type Options struct {
	Dir         string        // made if it does not exist. One process may use it at a time, which the lock on the data folder ensures
	MaxBytes    int64         // of one artifact; default DefaultMaxBytes
	RetainAge   time.Duration // how long an artifact is kept after its bytes were stored last; 0: for ever
	RetainBytes int64         // what all may take on the disk before the oldest go; 0: no bound
	SweepEvery  time.Duration // default a minute
	Log         *zap.Logger
	Registerer  prometheus.Registerer
	Now         func() time.Time

	offhand bool // tests: do not wait for the disk
}

// Store keeps artifacts as files: `sha256/ab/cdef…` are the bytes, and the same name with `.json` beside it says what they
// are. Both are written to `tmp`, reach the disk, and are then renamed, so that a crash leaves whole artifacts only. Its
// methods may be called from several goroutines.
type Store struct {
	o       Options
	log     *zap.Logger
	root    *os.Root // keeps links in the folder from leading out of it
	metrics *storeMetrics
	temps   atomic.Uint64
	stripes [256]sync.Mutex // one for each first byte of an id, held while the files change; taken before mu

	mu     sync.Mutex
	closed bool
	using  sync.WaitGroup
	byID   map[string]*Entry
	byTask map[string][]string
	byAge  []*Entry // by creation, then id
	disk   int64    // bytes that all of them take

	elsewhere func(ctx context.Context, id string) (bool, error) // whether an artifact exists outside of the store; set before the store is used
	needed    func(id string) bool                               // whether a sweep must leave an artifact alone; guarded by mu

	wake     chan struct{} // capacity 1
	stop     context.CancelFunc
	sweeping sync.WaitGroup
}

const (
	bytesDir = "sha256"
	tempDir  = "tmp"
	sidecar  = ".json"
	maxEntry = 64 << 10 // bytes of a sidecar; the bounds of Meta keep it far smaller
	block    = 4096     // bytes; what a file takes on the disk is counted in blocks
)

// Open opens the store, and makes one where there is none. It removes what a crash left half done.
func Open(o Options) (*Store, error) {
	if o.MaxBytes <= 0 {
		o.MaxBytes = DefaultMaxBytes
	}
	if o.SweepEvery <= 0 {
		o.SweepEvery = time.Minute
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
	s := &Store{o: o, log: o.Log.Named("artifact"), byID: map[string]*Entry{}, byTask: map[string][]string{}, wake: make(chan struct{}, 1)}
	s.o.MaxBytes = s.bound(s.o.MaxBytes)
	s.elsewhere = func(context.Context, string) (bool, error) { return false, nil }
	s.needed = func(string) bool { return false }
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of the artifacts: %w", err)
	}
	var err error
	if s.root, err = os.OpenRoot(o.Dir); err != nil {
		return nil, fmt.Errorf("open the folder of the artifacts: %w", err)
	}
	if err = s.prepare(); err == nil {
		err = s.load()
	}
	if err == nil {
		s.metrics, err = newStoreMetrics(o.Registerer, s.count, s.taken)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the artifacts in %s: %w", o.Dir, err), s.root.Close())
	}
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.sweeping.Go(func() { contain.Loop(ctx, s.log, "the sweep of artifacts panicked, and is tried again", s.sweeps) })
	return s, nil
}

// Keep has sweeps leave the artifacts alone of which needed says so. It is called with the store's lock held, and at any time.
func (s *Store) Keep(needed func(id string) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.needed = needed
}

// bound is how large an artifact may be that would have a bound of its own.
func (s *Store) bound(most int64) int64 {
	if s.o.RetainBytes > 0 {
		most = min(most, max(s.o.RetainBytes-2*block, 0)) // a larger artifact would be removed at once
	}
	return most
}

// Close joins the sweep and waits for what is being stored.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	s.stop()
	s.sweeping.Wait()
	s.using.Wait()
	for _, c := range s.metrics.all() {
		s.o.Registerer.Unregister(c)
	}
	if err := s.root.Close(); err != nil {
		return fmt.Errorf("close the artifacts: %w", err)
	}
	return nil
}

// prepare makes the folders, and removes temporary files.
func (s *Store) prepare() error {
	for _, name := range []string{tempDir, bytesDir} {
		if err := s.folder(name); err != nil {
			return err
		}
	}
	left, err := s.list(tempDir)
	if err != nil {
		return err
	}
	for _, e := range left { // by a process that died before it had told anybody that these were stored
		if err := s.root.RemoveAll(tempDir + "/" + e.Name()); err != nil {
			return err
		}
	}
	return nil
}

// folder makes a folder if it does not exist. It fails if something else has that name, such as a link.
func (s *Store) folder(name string) error {
	err := s.root.Mkdir(name, 0o700)
	if err == nil {
		if err = s.syncDir(filepath.Dir(name)); err != nil {
			err = errors.Join(err, s.root.Remove(name)) // the next call tries again
		}
		return err
	}
	if !errors.Is(err, os.ErrExist) {
		return err
	}
	if at, err := s.root.Lstat(name); err != nil || !at.IsDir() {
		return errors.Join(fmt.Errorf("%s is no folder: move it away", filepath.Join(s.o.Dir, name)), err)
	}
	return nil
}

func (s *Store) list(dir string) ([]os.DirEntry, error) {
	f, err := s.root.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.ReadDir(-1)
}

// load reads the entries. Bytes that lost their entry get a plain one, so that damage to a small file loses no artifact. An entry
// that lost its bytes is removed.
func (s *Store) load() error {
	dirs, err := s.list(bytesDir)
	if err != nil {
		return err
	}
	for _, d := range dirs {
		if err := s.loadDir(d.Name(), d.IsDir()); err != nil {
			return err
		}
	}
	slices.SortFunc(s.byAge, inOrder)
	for _, e := range s.byAge {
		s.note(e)
	}
	return nil
}

func (s *Store) loadDir(prefix string, isDir bool) error {
	dir := bytesDir + "/" + prefix
	if !isDir || len(prefix) != 2 {
		s.log.Warn("something among the artifacts is none of them and is left alone", zap.String("path", dir))
		return nil
	}
	files, err := s.list(dir)
	if err != nil {
		return err
	}
	there := map[string]bool{}
	for _, f := range files {
		there[f.Name()] = true
	}
	for _, f := range files {
		name, isEntry := strings.CutSuffix(f.Name(), sidecar)
		id := idPrefix + prefix + name
		switch {
		case !ValidID(id):
			s.log.Warn("something among the artifacts is none of them and is left alone", zap.String("path", dir+"/"+f.Name()))
		case isEntry && !there[name]:
			s.log.Warn("the bytes of an artifact are gone, and so is its entry now", zap.String("artifact_id", id))
			err = s.root.Remove(dir + "/" + f.Name())
		case !isEntry:
			err = s.loadOne(id, dir+"/"+name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) loadOne(id, path string) error {
	e, err := s.readEntry(path + sidecar)
	if err == nil && e.ID == id {
		s.byAge = append(s.byAge, e)
		return nil
	}
	at, err := s.root.Lstat(path)
	if err != nil {
		return err
	}
	if !at.Mode().IsRegular() || s.hashFile(context.Background(), path) != id {
		s.log.Warn("a file among the artifacts has no entry and is not what its name says; it is left alone", zap.String("artifact_id", id))
		return nil
	}
	s.log.Warn("the entry of an artifact was lost; it is kept as one of kind other", zap.String("artifact_id", id))
	e = &Entry{
		ID: id, Meta: Meta{Kind: KindOther, MediaType: defaultMediaType}, Size: at.Size(),
		CreatedAt: at.ModTime().UTC(), RenewedAt: at.ModTime().UTC(),
	}
	if err := s.writeEntry(e, path+sidecar); err != nil {
		return err
	}
	s.byAge = append(s.byAge, e)
	return nil
}

func (s *Store) readEntry(path string) (*Entry, error) {
	f, at, err := s.openPlain(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if at.Size() > maxEntry {
		return nil, errors.New("it is too large for an entry")
	}
	text, err := io.ReadAll(io.LimitReader(f, maxEntry))
	if err != nil {
		return nil, err
	}
	e := &Entry{}
	if err := json.Unmarshal(text, e); err != nil {
		return nil, err
	}
	if e.Meta, err = e.completed(); err != nil || e.Size < 0 {
		return nil, errors.Join(errors.New("it is no entry"), err)
	}
	return e, nil
}

// openPlain opens a regular file, and refuses anything else, such as a link or a pipe.
func (s *Store) openPlain(path string) (*os.File, os.FileInfo, error) {
	at, err := s.root.Lstat(path)
	if err != nil {
		return nil, nil, err
	}
	if !at.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("%s is no plain file", path)
	}
	f, err := s.root.Open(path)
	if err != nil {
		return nil, nil, err
	}
	opened, err := f.Stat()
	if err == nil && !os.SameFile(at, opened) {
		err = fmt.Errorf("%s was replaced while it was opened", path)
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, opened, nil
}

// begin keeps the store open until done is called.
func (s *Store) begin() (done func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, task.Errorf(task.ShuttingDown, "the server is shutting down: try again once it is back")
	}
	s.using.Add(1)
	return s.using.Done, nil
}

// Get returns the entry with this id. NOT_FOUND, INVALID_PARAMS.
func (s *Store) Get(id string) (Entry, error) {
	if !ValidID(id) {
		return Entry{}, invalid("%q is no artifact's id: it is sha256- and 64 hexadecimal digits", task.Clip(id, maxQuote))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.byID[id]; e != nil {
		return *e, nil
	}
	return Entry{}, notFound(id)
}

func notFound(id string) error {
	return task.Errorf(task.NotFound, "there is no artifact %s: it was never stored, or it was removed since; GET /v1/artifacts lists those there are", id)
}

// Open opens an artifact's bytes for reading; they stay readable when it is removed meanwhile. NOT_FOUND, INVALID_PARAMS.
func (s *Store) Open(id string) (Entry, io.ReadSeekCloser, error) {
	e, err := s.Get(id)
	if err != nil {
		return Entry{}, nil, err
	}
	done, err := s.begin()
	if err != nil {
		return Entry{}, nil, err
	}
	defer done()
	f, at, err := s.openPlain(path(id))
	if err == nil && at.Size() != e.Size {
		err = errors.Join(fmt.Errorf("it has %d bytes and had %d", at.Size(), e.Size), f.Close())
	}
	if err == nil {
		return e, f, nil
	}
	if _, gone := s.Get(id); gone != nil {
		return Entry{}, nil, gone
	}
	s.metrics.damaged.Inc()
	return Entry{}, nil, task.Errorf(task.Internal, "artifact %s is damaged on the server's disk: store it again", id).Because(err)
}

// List returns the entries that f takes, newest first.
func (s *Store) List(f Filter) []Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.byAge
	if f.TaskID != "" {
		list = make([]*Entry, 0, len(s.byTask[f.TaskID]))
		for _, id := range s.byTask[f.TaskID] {
			list = append(list, s.byID[id])
		}
		slices.SortFunc(list, inOrder)
	}
	var found []Entry
	for _, e := range slices.Backward(list) {
		if f.Limit > 0 && len(found) == f.Limit {
			break
		}
		if f.takes(e) {
			found = append(found, *e)
		}
	}
	return found
}

// Remove deletes an artifact, where it has this tag: what others stored stays theirs. It does nothing where there is none.
func (s *Store) Remove(id, tag string) error {
	if !ValidID(id) {
		return nil
	}
	done, err := s.begin()
	if err != nil {
		return err
	}
	defer done()
	_, err = s.remove(id, forOwner, func(e *Entry) bool { return slices.Contains(e.Tags, tag) })
	if err != nil {
		return fmt.Errorf("remove artifact %s: %w", id, err)
	}
	return nil
}

// remove deletes an artifact's files if still says so. The entry's file goes first, since the bytes alone are no artifact. It returns
// the bytes that this frees, 0 if nothing was removed.
func (s *Store) remove(id string, why reason, still func(*Entry) bool) (int64, error) {
	stripe := s.stripe(id)
	stripe.Lock()
	defer stripe.Unlock()
	s.mu.Lock()
	e := s.byID[id]
	s.mu.Unlock()
	if e == nil || !still(e) {
		return 0, nil
	}
	for _, name := range []string{path(id) + sidecar, path(id)} {
		if err := s.root.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			return 0, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget(e)
	s.metrics.removed.WithLabelValues(string(why)).Inc()
	return e.disk(), nil
}

// note adds an entry, which is in byAge already, to the rest of the index. The caller holds mu, or is opening the store.
func (s *Store) note(e *Entry) {
	s.byID[e.ID] = e
	s.disk += e.disk()
	if e.TaskID != "" {
		s.byTask[e.TaskID] = append(s.byTask[e.TaskID], e.ID)
	}
}

// forget takes an entry out of the index. The caller holds mu.
func (s *Store) forget(e *Entry) {
	delete(s.byID, e.ID)
	s.disk -= e.disk()
	if i, ok := slices.BinarySearchFunc(s.byAge, e, inOrder); ok {
		s.byAge = slices.Delete(s.byAge, i, i+1)
	}
	if e.TaskID == "" {
		return
	}
	ids := slices.DeleteFunc(s.byTask[e.TaskID], func(id string) bool { return id == e.ID })
	if s.byTask[e.TaskID] = ids; len(ids) == 0 {
		delete(s.byTask, e.TaskID)
	}
}

func (s *Store) count() float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return float64(len(s.byAge))
}

func (s *Store) taken() float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return float64(s.disk)
}

// disk is what the two files take on the disk, in whole blocks: many small files take much.
func (e *Entry) disk() int64 { return (e.Size+block-1)/block*block + block }

func inOrder(a, b *Entry) int {
	return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), strings.Compare(a.ID, b.ID))
}

// path is where the bytes of a valid id lie.
func path(id string) string {
	digits := id[len(idPrefix):]
	return bytesDir + "/" + digits[:2] + "/" + digits[2:]
}

func (s *Store) stripe(id string) *sync.Mutex {
	var i int
	for _, b := range []byte(id[len(idPrefix):][:2]) {
		i = i<<4 | strings.IndexByte("0123456789abcdef", b)
	}
	return &s.stripes[i]
}
