// SPDX-License-Identifier: GPL-3.0-or-later

// Package backup copies what a data folder keeps, also while a daemon uses it, and puts such a copy into an empty data folder (LO-631, LO-632).
package backup

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/llama-orch/llama-orch/internal/atomicfile"
	"github.com/llama-orch/llama-orch/service/control/datafolder"
	"github.com/llama-orch/llama-orch/service/record/artifact"
	"github.com/llama-orch/llama-orch/service/supply/catalog"
	"github.com/llama-orch/llama-orch/service/task"
)

// The files that say what a backup is of. The sums are written last.
const (
	manifestName = "manifest.json"
	sumsName     = "SHA256SUMS"
)

// format is the version of a backup's layout.
const format = 1

// Manifest says what is in a backup.
type Manifest struct {
	Format   int                `json:"format"`
	MadeBy   string             `json:"made_by"` // the program's version
	MadeAt   time.Time          `json:"made_at"`
	Schema   int                `json:"ledger_schema"`
	Tasks    map[task.State]int `json:"tasks"`
	Files    int                `json:"files"` // without the manifest
	Bytes    int64              `json:"bytes"`
	Models   []Model            `json:"models"`
	Damaged  []string           `json:"damaged,omitempty"`   // what was found to be damaged when the backup was made
	NoLedger bool               `json:"no_ledger,omitempty"` // no whole ledger could be made of the damaged one; its files may be there as they were
}

// Model is a model of the catalog.
type Model struct {
	ID     string        `json:"id"`
	Ref    string        `json:"ref"`
	Digest string        `json:"digest"`
	Size   int64         `json:"size_bytes"`
	State  catalog.State `json:"state"`
	Copied bool          `json:"copied"` // its files are in the backup
}

// Options say what to back up. All but Models are needed.
type Options struct {
	DataDir string
	Dir     string // the backup, a folder that is new or empty
	Models  bool   // copy the models in the catalog's own folder
	Version string
	Now     func() time.Time
}

// maker writes a backup.
type maker struct {
	o    Options
	from *os.Root
	to   *os.Root
	sums strings.Builder
	m    Manifest
}

// Make makes a backup. What is damaged is in the manifest, and is no error. Of a backup that fails nothing stays.
func Make(ctx context.Context, o Options) (_ Manifest, err error) {
	if o.Dir, err = where(o.Dir); err != nil {
		return Manifest{}, fmt.Errorf("back up: %w", err)
	}
	if o.DataDir, err = where(o.DataDir); err != nil {
		return Manifest{}, fmt.Errorf("back up: %w", err)
	}
	if within, err := filepath.Rel(o.DataDir, o.Dir); err == nil && filepath.IsLocal(within) {
		return Manifest{}, &Error{Used, o.Dir, "lies in the data folder, and would be lost with it", "name a folder elsewhere, best on another disk"}
	}
	mk := &maker{o: o, m: Manifest{Format: format, MadeBy: o.Version, MadeAt: o.Now().UTC(), Models: []Model{}}}
	mk.from, err = os.OpenRoot(o.DataDir)
	if errors.Is(err, fs.ErrNotExist) {
		return Manifest{}, &Error{Missing, o.DataDir, "is not there", "name the daemon's configuration with --config, or its data folder with --data-dir"}
	}
	if err != nil {
		return Manifest{}, fmt.Errorf("open the data folder: %w", err)
	}
	defer func() { err = errors.Join(err, mk.from.Close()) }()
	_, before := os.Lstat(o.Dir)
	if err := empty(o.Dir); err != nil {
		return Manifest{}, err
	}
	if mk.to, err = os.OpenRoot(o.Dir); err != nil {
		return Manifest{}, fmt.Errorf("open the backup's folder: %w", err)
	}
	defer func() { err = errors.Join(err, mk.to.Close()) }()
	for _, step := range []func(context.Context) error{mk.ledger, mk.artifacts, mk.models, mk.others, mk.finish} {
		if err := step(ctx); err != nil {
			err = errors.Join(fmt.Errorf("back up: %w", err), takeOut(mk.to, nil))
			if before != nil {
				err = errors.Join(err, os.Remove(o.Dir))
			}
			return Manifest{}, err
		}
	}
	return mk.m, nil
}

// where is the place of a folder, past all links, also where it is not made yet.
func where(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	at, below := dir, ""
	for {
		found, err := filepath.EvalSymlinks(at)
		if !errors.Is(err, fs.ErrNotExist) || at == filepath.Dir(at) {
			return filepath.Join(found, below), err
		}
		at, below = filepath.Dir(at), filepath.Join(filepath.Base(at), below)
	}
}

// empty makes a folder, or makes sure that nothing is in it but what is allowed.
func empty(dir string, allowed ...string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return closed(dir, "cannot be made", err)
	}
	there, err := os.ReadDir(dir)
	if err != nil {
		return closed(dir, "cannot be read", err)
	}
	for _, at := range there {
		if !slices.Contains(allowed, at.Name()) {
			return &Error{Used, dir, "is not empty: it has " + at.Name(), "name a new folder, or empty this one if nobody needs what is in it"}
		}
	}
	return nil
}

// closed is the error for a folder that this user may not use.
func closed(dir, what string, err error) error {
	if !errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%s %s: %w", dir, what, err)
	}
	own := strconv.Itoa(os.Getuid())
	if me, err := user.Current(); err == nil {
		own = me.Username
	}
	return &Error{Closed, dir, what + " by the user " + own, fmt.Sprintf("as root, run `install -d -o %s -m 700 '%s'`, or run this as the user whom it belongs to", own, dir)}
}

// artifacts copies each artifact with its entry. One that is gone by now was removed since the ledger was copied.
func (mk *maker) artifacts(ctx context.Context) error {
	list, err := artifact.List(filepath.Join(mk.o.DataDir, datafolder.Artifacts))
	if err != nil {
		return err
	}
	for _, a := range list {
		entry, data := path.Join(datafolder.Artifacts, a.Entry), path.Join(datafolder.Artifacts, a.Bytes)
		text, err := mk.from.ReadFile(entry)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		sum, size, err := mk.copy(ctx, data)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if !a.Holds(sum) {
			mk.m.Damaged = append(mk.m.Damaged, "artifact "+a.ID+": its bytes are not those that its name says, so it is left out")
			if err := mk.to.Remove(data); err != nil {
				return err
			}
			continue
		}
		mk.note(data, sum, size)
		if err := mk.write(entry, text); err != nil {
			return err
		}
	}
	return nil
}

// models writes the entries of the catalog, and copies the files in its folder if they are wanted.
func (mk *maker) models(ctx context.Context) error {
	list, err := catalog.Save(mk.o.DataDir)
	if err != nil {
		return err
	}
	for _, s := range list {
		if err := mk.write(s.Name, s.Entry); err != nil {
			return err
		}
		copied := mk.o.Models && s.Files != ""
		mk.m.Models = append(mk.m.Models, Model{ID: s.ID, Ref: s.Ref, Digest: s.Digest, Size: s.Size, State: s.State, Copied: copied})
		if !copied {
			continue
		}
		err := fs.WalkDir(mk.from.FS(), s.Files, func(name string, at fs.DirEntry, err error) error {
			if err != nil || !at.Type().IsRegular() {
				return err
			}
			sum, size, err := mk.copy(ctx, name)
			if err == nil {
				mk.note(name, sum, size)
			}
			return err
		})
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("copy model %s: %w; a model that is being fetched or deleted can be copied when that is over", s.ID, err)
		}
		if err != nil {
			return fmt.Errorf("copy model %s: %w", s.ID, err)
		}
	}
	return nil
}

// others copies what was learned and the audit lines that the log did not take, as far as there are any.
func (mk *maker) others(ctx context.Context) error {
	for _, name := range []string{datafolder.Learned, datafolder.Measured, datafolder.Known, datafolder.Audit} {
		sum, size, err := mk.copy(ctx, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		mk.note(name, sum, size)
	}
	return nil
}

// finish writes what the backup is of, and the sums once everything is on the disk.
func (mk *maker) finish(context.Context) error {
	text, err := json.MarshalIndent(mk.m, "", "  ")
	if err != nil {
		return err
	}
	sum, _, err := fill(mk.to, manifestName, strings.NewReader(string(text)+"\n"))
	if err != nil {
		return err
	}
	fmt.Fprintf(&mk.sums, "%s  %s\n", sum, manifestName)
	dir, err := mk.to.Open(".")
	if err != nil {
		return err
	}
	if err := errors.Join(unix.Syncfs(int(dir.Fd())), dir.Close()); err != nil {
		return fmt.Errorf("wait for the disk: %w", err)
	}
	return atomicfile.WriteIn(mk.to, sumsName, []byte(mk.sums.String()), 0o600)
}

// copy copies a file of the data folder to the same place of the backup.
func (mk *maker) copy(ctx context.Context, name string) (sum string, size int64, err error) {
	from, err := mk.from.Open(name)
	if err != nil {
		return "", 0, err
	}
	defer func() { _ = from.Close() }()
	return fill(mk.to, name, reader{ctx, from})
}

// write writes a file of the backup.
func (mk *maker) write(name string, text []byte) error {
	sum, size, err := fill(mk.to, name, strings.NewReader(string(text)))
	if err == nil {
		mk.note(name, sum, size)
	}
	return err
}

// note puts a file into the sums.
func (mk *maker) note(name, sum string, size int64) {
	fmt.Fprintf(&mk.sums, "%s  %s\n", sum, name)
	mk.m.Files++
	mk.m.Bytes += size
}

// fill writes a new file below root, and returns what its SHA-256 and its size are.
func fill(root *os.Root, name string, from io.Reader) (sum string, size int64, err error) {
	if err := root.MkdirAll(path.Dir(name), 0o700); err != nil {
		return "", 0, err
	}
	to, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", 0, err
	}
	hash := sha256.New()
	size, err = io.Copy(io.MultiWriter(to, hash), from)
	return hex.EncodeToString(hash.Sum(nil)), size, errors.Join(err, to.Close())
}

// reader reads until its context ends.
type reader struct {
	ctx  context.Context //nolint:containedctx // it lives for one copy
	from io.Reader
}

func (r reader) Read(b []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.from.Read(b)
}
