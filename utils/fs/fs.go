// SPDX-License-Identifier: GPL-3.0-or-later

// Package fs reads, writes, lists and patches files below one root, and reaches nothing outside it (LO-911). Names are relative to the root and have
// slashes. The kernel resolves each name below the root's open folder, so nobody can swap a folder for a link in between.
package fs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/llama-orch/llama-orch/internal/atomicfile"
)

// The defaults of Limits.
const (
	DefaultFile    = 1 << 20
	DefaultEntries = 10_000
)

// Limits bound what a Root reads and writes at once. Zero means the default.
type Limits struct {
	File    int64 // bytes of one file, and of one diff
	Entries int   // that one listing looks at
}

// Root is a folder, and all that happens below it. Its methods may be called from several goroutines.
type Root struct {
	root    *os.Root
	limits  Limits
	escapes error // what os says of a name that leads out; it has no name of its own there
}

// Open opens a folder as a root.
func Open(dir string, limits Limits) (*Root, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open the root: %w", err)
	}
	if limits.File <= 0 {
		limits.File = DefaultFile
	}
	if limits.Entries <= 0 {
		limits.Entries = DefaultEntries
	}
	_, err = root.Lstat("..")
	return &Root{root: root, limits: limits, escapes: errors.Unwrap(err)}, nil
}

// Close closes the folder.
func (r *Root) Close() error { return r.root.Close() }

// OutsideError says that a name leads out of the root.
type OutsideError struct{ Path string }

func (e *OutsideError) Error() string {
	return fmt.Sprintf("%q leads out of the root: name a file below it, without .., without a leading slash, and not by a link that leaves it", e.Path)
}

// SizeError says that a file is larger, or a folder has more in it, than the limits allow.
type SizeError struct {
	Path   string
	Limit  int64
	Folder bool
}

func (e *SizeError) Error() string {
	if e.Folder {
		return fmt.Sprintf("folder %q has more than %d entries: list a folder below it, skip some, or raise the limit", e.Path, e.Limit)
	}
	return fmt.Sprintf("file %q is larger than %d bytes: take a part of it, or raise the limit", e.Path, e.Limit)
}

// KindError says that a name is not of the kind that was asked for.
type KindError struct {
	Path string
	Want string // `a regular file` or `a folder`
}

func (e *KindError) Error() string { return fmt.Sprintf("%q is not %s", e.Path, e.Want) }

// local makes a name as os wants it. Nothing is looked up for one that cannot be below the root.
func local(name string) (string, error) {
	at := filepath.FromSlash(name)
	if !filepath.IsLocal(at) || strings.ContainsRune(name, 0) {
		return "", &OutsideError{Path: name}
	}
	return filepath.Clean(at), nil
}

// typed tells a name that leads out from what else may fail.
func (r *Root) typed(doing, name string, err error) error {
	if errors.Is(err, r.escapes) {
		return &OutsideError{Path: name}
	}
	if of, ok := errors.AsType[*fs.PathError](err); ok { // it names the path a second time
		err = of.Err
	}
	return fmt.Errorf("%s %q: %w", doing, name, err)
}

// Read returns a regular file's content.
func (r *Root) Read(name string) ([]byte, error) {
	at, err := local(name)
	if err != nil {
		return nil, err
	}
	content, _, err := r.read(name, at)
	return content, err
}

func (r *Root) read(name, at string) ([]byte, fs.FileMode, error) {
	f, err := r.root.OpenFile(at, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe without a writer would hold us
	if err != nil {
		return nil, 0, r.typed("read", name, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, 0, r.typed("read", name, err)
	}
	if !info.Mode().IsRegular() {
		return nil, 0, &KindError{Path: name, Want: "a regular file"}
	}
	if info.Size() > r.limits.File {
		return nil, 0, &SizeError{Path: name, Limit: r.limits.File}
	}
	content, err := io.ReadAll(io.LimitReader(f, r.limits.File+1)) // it may grow meanwhile
	if err != nil {
		return nil, 0, r.typed("read", name, err)
	}
	if int64(len(content)) > r.limits.File {
		return nil, 0, &SizeError{Path: name, Limit: r.limits.File}
	}
	return content, info.Mode().Perm(), nil
}

// Write makes or replaces a file whole, and the folders above it. A file that is replaced keeps its permissions; a link is replaced by the file.
func (r *Root) Write(name string, content []byte) error {
	at, err := local(name)
	if err != nil {
		return err
	}
	perm := fs.FileMode(0o644)
	if info, err := r.root.Lstat(at); err == nil && info.Mode().IsRegular() {
		perm = info.Mode().Perm()
	}
	return r.write(name, at, content, perm)
}

// write replaces a file whole: whoever reads sees the old one or the new one.
func (r *Root) write(name, at string, content []byte, perm fs.FileMode) error {
	if int64(len(content)) > r.limits.File {
		return &SizeError{Path: name, Limit: r.limits.File}
	}
	if info, err := r.root.Lstat(at); err == nil && info.IsDir() {
		return &KindError{Path: name, Want: "a regular file"}
	}
	if err := r.root.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return r.typed("make the folder of", name, err)
	}
	if err := atomicfile.WriteIn(r.root, at, content, perm); err != nil {
		return r.typed("write", name, err)
	}
	return nil
}

// Entry is one file or folder of a listing.
type Entry struct {
	Path   string `json:"path"`             // below the root, with slashes
	Size   int64  `json:"size,omitzero"`    // of a regular file
	Folder bool   `json:"folder,omitempty"` // what is in it follows, if the listing is deep
	Link   bool   `json:"link,omitempty"`   // a symbolic link; it is not followed
}

// Listing says what List looks at.
type Listing struct {
	Dir   string   // "" and "." are the root
	Deep  bool     // folders below it too
	Match string   // only files whose name matches this pattern of path.Match
	Skip  []string // patterns of names that are left out, with all that is below them
}

// List lists a folder, sorted by path.
func (r *Root) List(l Listing) ([]Entry, error) {
	for _, pattern := range append([]string{l.Match}, l.Skip...) {
		if _, err := path.Match(pattern, ""); err != nil {
			return nil, fmt.Errorf("pattern %q: %w: use *, ? and [a-z], as in *.go", pattern, err)
		}
	}
	if l.Dir == "" {
		l.Dir = "."
	}
	at, err := local(l.Dir)
	if err != nil {
		return nil, err
	}
	var entries []Entry
	seen := 0
	err = r.walk(l, at, &seen, &entries)
	slices.SortFunc(entries, func(a, b Entry) int { return strings.Compare(a.Path, b.Path) })
	return entries, err
}

func (r *Root) walk(l Listing, at string, seen *int, entries *[]Entry) error {
	name := filepath.ToSlash(at)
	f, err := r.root.OpenFile(at, os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if errors.Is(err, syscall.ENOTDIR) {
		return &KindError{Path: name, Want: "a folder"}
	}
	if err != nil {
		return r.typed("list", name, err)
	}
	found, err := f.ReadDir(r.limits.Entries - *seen + 1)
	err = errors.Join(err, f.Close())
	if err != nil && !errors.Is(err, io.EOF) {
		return r.typed("list", name, err)
	}
	if *seen += len(found); *seen > r.limits.Entries {
		return &SizeError{Path: name, Limit: int64(r.limits.Entries), Folder: true}
	}
	for _, one := range found {
		if matches(l.Skip, one.Name()) {
			continue
		}
		below := filepath.Join(at, one.Name())
		entry := Entry{Path: filepath.ToSlash(below), Folder: one.IsDir(), Link: one.Type()&fs.ModeSymlink != 0}
		if one.Type().IsRegular() {
			info, err := one.Info()
			if errors.Is(err, fs.ErrNotExist) { // it is gone meanwhile
				continue
			}
			if err != nil {
				return r.typed("list", entry.Path, err)
			}
			entry.Size = info.Size()
		}
		if l.Match == "" || !entry.Folder && matches([]string{l.Match}, one.Name()) {
			*entries = append(*entries, entry)
		}
		if l.Deep && entry.Folder {
			if err := r.walk(l, below, seen, entries); err != nil {
				return err
			}
		}
	}
	return nil
}

func matches(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		ok, err := path.Match(pattern, name)
		return ok && err == nil
	})
}
