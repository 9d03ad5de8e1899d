// SPDX-License-Identifier: GPL-3.0-or-later

package fetch

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/llama-orch/llama-orch/internal/atomicfile"
	"github.com/llama-orch/llama-orch/service/task"
)

// remote is one file at its source.
type remote struct {
	name   string // of the file on our disk
	where  string // for messages; without the query
	size   int64  // unknown: -1
	digest string // as the source says; empty: it does not say
	// fixed says that the address contains a commit or a digest, so its bytes never change. Otherwise a partial file is only trusted with a
	// validator or a digest.
	fixed bool
	// open starts reading at from. It starts at 0 if the source cannot do that, or now has another file than the validator's.
	open func(ctx context.Context, from int64, validator string) (*stream, error)
}

// stream is the answer of a source.
type stream struct {
	body      io.ReadCloser
	from      int64
	size      int64  // of the whole file; unknown: -1
	validator string // lets the source tell whether the file is still the same; empty: it cannot tell
}

// manifest is written beside a complete model.
type manifest struct {
	Ref    string `json:"ref"`
	Digest string `json:"digest"`
	Size   int64  `json:"size_bytes"`
	Parts  []Part `json:"parts"` // their paths are relative to the folder
}

const (
	manifestName = "fetched.json"
	partial      = ".part"
	state        = ".part.json"
	maxJSON      = 1 << 20
)

// job is one download into one folder.
type job struct {
	f        *Fetcher
	ref      Ref
	dir      string   // absolute; the folder itself
	root     *os.Root // of the folder
	digest   string   // expected; empty: any
	progress func(done, total int64)
	log      *zap.Logger
	whole    hash.Hash // over the complete parts; nil for a single file
	before   int64     // bytes of the complete parts
	total    int64     // of all parts; 0: unknown
	share    int64     // how many tenths of the total have been logged
}

// run fetches ref into its folder below dir.
func (f *Fetcher) run(ctx context.Context, ref Ref, dir, digest string, progress func(done, total int64)) (file File, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return File{}, disk(err)
	}
	parent, err := os.OpenRoot(dir)
	if err != nil {
		return File{}, disk(err)
	}
	defer func() { _ = parent.Close() }()
	folder := ref.Folder()
	if err := parent.Mkdir(folder, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return File{}, disk(err)
	}
	root, err := parent.OpenRoot(folder)
	if err != nil {
		return File{}, disk(err)
	}
	defer func() { _ = root.Close() }()
	unlock, err := lock(root, ref)
	if err != nil {
		return File{}, err
	}
	defer unlock()
	defer func() { _ = parent.Remove(folder) }() // only an empty folder can be removed
	if err := atomicfile.Sweep(root, "."); err != nil {
		return File{}, disk(err)
	}

	j := &job{f: f, ref: ref, dir: filepath.Join(dir, folder), root: root, digest: digest, progress: progress, log: f.log.With(zap.String("ref", ref.Shown()))}
	if file, ok := j.present(ctx); ok {
		return file, nil
	}
	if ctx.Err() != nil {
		return File{}, ctx.Err()
	}
	j.log.Info("a model is fetched")
	file, err = j.fetch(ctx)
	if err != nil {
		j.log.Warn("a model was not fetched", zap.Error(err))
		return File{}, err
	}
	j.log.Info("a model was fetched", zap.String("digest", file.Digest), zap.Int64("size_bytes", file.Size))
	return file, nil
}

// lock keeps other processes out of the folder. The kernel releases it when the process ends, so it is never left behind.
func lock(root *os.Root, ref Ref) (func(), error) {
	at, err := root.Open(".")
	if err != nil {
		return nil, disk(err)
	}
	if err := unix.Flock(int(at.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = at.Close()
		return nil, task.Errorf(task.Conflict, "another process is fetching %s: try again when it is done", ref.Shown()).Because(err).Retry(0)
	}
	return func() { _ = at.Close() }, nil
}

// present returns the model that is already there, if it is whole and has the expected digest.
func (j *job) present(ctx context.Context) (File, bool) {
	var m manifest
	if j.readJSON(manifestName, &m) != nil || len(m.Parts) == 0 || j.digest != "" && j.digest != m.Digest {
		return File{}, false
	}
	var whole hash.Hash
	if len(m.Parts) > 1 {
		whole = sha256.New()
	}
	size := int64(0)
	for _, p := range m.Parts {
		size += p.Size
	}
	done := int64(0)
	for i := range m.Parts {
		p := &m.Parts[i]
		name := p.Path
		if name != localName(name) {
			return File{}, false
		}
		at, err := j.root.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW, 0)
		if err != nil {
			return File{}, false
		}
		one := sha256.New()
		n, err := copyTo(ctx, both(one, whole), at, func(n int64) { j.progress(done+n, size) })
		_ = at.Close()
		if done += n; err != nil || n != p.Size || hexOf(one) != p.Digest {
			return File{}, false
		}
		p.Path = filepath.Join(j.dir, name)
	}
	if whole != nil && hexOf(whole) != m.Digest || whole == nil && m.Parts[0].Digest != m.Digest {
		return File{}, false
	}
	return File{Path: m.Parts[0].Path, Size: size, Digest: m.Digest, Parts: m.Parts}, true
}

func (j *job) fetch(ctx context.Context) (File, error) {
	var remotes []remote
	err := j.retrying(ctx, func(ctx context.Context, _ func()) (gained bool, err error) {
		remotes, err = j.f.resolve(ctx, j.ref)
		return false, err
	})
	if err != nil {
		return File{}, err
	}
	file, err := j.download(ctx, remotes)
	if err == nil || ctx.Err() != nil {
		return file, err
	}
	if e := task.AsError(err); !e.Retriable && e.Code != task.PolicyDenied { // nobody could go on from what there is
		for _, r := range remotes {
			_ = j.drop(r)
		}
	}
	return File{}, err
}

// drop removes an incomplete file.
func (j *job) drop(r remote) error {
	return errors.Join(j.remove(r.name+partial), j.remove(r.name+state))
}

func (j *job) remove(name string) error {
	if err := j.root.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// download gets all parts under temporary names, checks them, and puts them in their places.
func (j *job) download(ctx context.Context, remotes []remote) (File, error) {
	if err := j.foresee(remotes); err != nil {
		return File{}, err
	}
	m := manifest{Ref: j.ref.Shown()}
	if len(remotes) > 1 {
		j.whole = sha256.New()
	}
	for _, r := range remotes {
		p, err := j.part(ctx, r, len(remotes) == 1)
		if err != nil {
			return File{}, err
		}
		m.Parts = append(m.Parts, p)
		m.Size += p.Size
		j.before = m.Size
	}
	m.Digest = m.Parts[0].Digest
	if j.whole != nil {
		m.Digest = hexOf(j.whole)
	}
	if j.digest != "" && j.digest != m.Digest {
		return File{}, mismatch(j.ref.Shown(), m.Digest, j.digest)
	}
	return j.install(m, remotes)
}

// foresee refuses a fetch that is known to fail, before a byte is fetched.
func (j *job) foresee(remotes []remote) error {
	for _, r := range remotes {
		if r.size < 0 {
			j.total = 0
			break
		}
		if r.size > j.f.s.MaxBytes-j.total { // nor is it summed: the figure may be any
			return tooLarge(j.ref.Shown(), j.f.s.MaxBytes)
		}
		j.total += r.size
	}
	if r := remotes[0]; len(remotes) == 1 && r.digest != "" && j.digest != "" && r.digest != j.digest {
		return mismatch(r.where, r.digest+", as the source itself says", j.digest)
	}
	if j.total == 0 {
		return nil
	}
	have := int64(0)
	for _, r := range remotes {
		if at, err := j.root.Lstat(r.name + partial); err == nil {
			have += min(at.Size(), r.size)
		}
	}
	return j.room(j.total, have)
}

// room refuses a model that is too large, or that would eat into the disk's reserve.
func (j *job) room(size, have int64) error {
	if size > j.f.s.MaxBytes {
		return tooLarge(j.ref.Shown(), j.f.s.MaxBytes)
	}
	free, err := j.f.s.Free(j.dir)
	if err != nil {
		return disk(fmt.Errorf("see how much room there is: %w", err))
	}
	if need := size - have; need > free-j.f.s.Reserve {
		return full(j.ref.Shown(), j.dir, need, max(0, free-j.f.s.Reserve))
	}
	return nil
}

// install gives the parts their names, then writes the manifest, which makes them a model.
func (j *job) install(m manifest, remotes []remote) (File, error) {
	file := File{Size: m.Size, Digest: m.Digest}
	err := j.remove(manifestName)
	for i := range m.Parts {
		name := m.Parts[i].Path
		err = errors.Join(err, j.root.Rename(name+partial, name), j.remove(name+state))
		file.Parts = append(file.Parts, Part{Path: filepath.Join(j.dir, name), Size: m.Parts[i].Size, Digest: m.Parts[i].Digest})
	}
	if err == nil {
		err = j.writeJSON(manifestName, m)
	}
	if err != nil {
		for _, r := range remotes {
			_ = j.remove(r.name)
		}
		return File{}, disk(err)
	}
	file.Path = file.Parts[0].Path
	return file, nil
}

func (j *job) readJSON(name string, into any) error {
	at, err := j.root.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer func() { _ = at.Close() }()
	text, err := io.ReadAll(io.LimitReader(at, maxJSON))
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}

func (j *job) writeJSON(name string, from any) error {
	text, err := json.Marshal(from)
	if err != nil {
		return err
	}
	return atomicfile.WriteIn(j.root, name, text, 0o644)
}
