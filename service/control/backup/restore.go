// SPDX-License-Identifier: GPL-3.0-or-later

package backup

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/llama-orch/llama-orch/internal/atomicfile"
	"github.com/llama-orch/llama-orch/service/control/datafolder"
	"github.com/llama-orch/llama-orch/service/record/artifact"
	"github.com/llama-orch/llama-orch/service/record/ledger/sqlite"
	"github.com/llama-orch/llama-orch/service/supply/catalog"
)

// Fault says what kind of thing is wrong with a backup, or with the folder it goes to.
type Fault string

// The faults.
const (
	Used    Fault = "used"    // there is something in the folder
	CutOff  Fault = "cut off" // the backup was not finished
	Changed Fault = "changed" // a file is missing or has other bytes, or no backup has such a file
	TooNew  Fault = "too new" // a later version made it
	Missing Fault = "missing" // there is no such folder
	Closed  Fault = "closed"  // this user may not use the folder
	Damaged Fault = "damaged" // it has no whole ledger, since that was damaged when the backup was made
)

// Error says why a backup cannot be made or used, and what to do about it.
type Error struct {
	Fault  Fault
	Path   string
	What   string
	Remedy string
}

func (e *Error) Error() string { return fmt.Sprintf("%s %s: %s", e.Path, e.What, e.Remedy) }

const another = "take another backup"

// sum is a file of a backup.
type sum struct{ name, sha256 string }

// Restore puts a backup into a data folder in which nothing is. If it fails, the folder is as empty as it was. A backup without a whole ledger is put back only where damaged
// says so: then the ledger is as damaged as it was.
func Restore(ctx context.Context, dir, dataDir string, damaged bool) (_ Manifest, err error) {
	from, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return Manifest{}, &Error{Missing, dir, "is not there", "name the folder that `orchestratord backup` made"}
	}
	if err != nil {
		return Manifest{}, fmt.Errorf("open the backup: %w", err)
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	b := &source{dir: dir, root: from}
	m, sums, err := b.read()
	if err != nil {
		return Manifest{}, err
	}
	if m.NoLedger && !damaged {
		return Manifest{}, &Error{
			Damaged, dir, "has no whole ledger, since that was damaged when the backup was made",
			"take an earlier backup; or, to have all else, add --damaged-ledger, and start orchestratord with `serve --ledger-aside`",
		}
	}
	err = datafolder.Free(dataDir)
	if errors.Is(err, fs.ErrPermission) {
		return Manifest{}, closed(dataDir, "cannot be read", err)
	}
	if err != nil { // what a daemon that runs has in it must not be taken for what somebody forgot there
		return Manifest{}, fmt.Errorf("restore: %w", err)
	}
	if err := empty(dataDir, datafolder.Lock, datafolder.Unfinished); err != nil { // before anything is written there
		return Manifest{}, err
	}
	folder, err := datafolder.Take(dataDir)
	if err != nil {
		return Manifest{}, fmt.Errorf("restore: %w", err)
	}
	defer func() { err = errors.Join(err, folder.Close()) }()
	if err := empty(dataDir, datafolder.Lock); err != nil {
		return Manifest{}, err
	}
	to, err := os.OpenRoot(dataDir)
	if err != nil {
		return Manifest{}, fmt.Errorf("open the data folder: %w", err)
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	if err := atomicfile.WriteIn(to, datafolder.Unfinished, nil, 0o600); err != nil {
		return Manifest{}, fmt.Errorf("mark the data folder: %w", err)
	}
	if err := b.copyTo(ctx, to, sums); err != nil {
		failed := takeOut(to, []string{datafolder.Lock, datafolder.Unfinished})
		if failed == nil { // the mark goes last
			failed = to.Remove(datafolder.Unfinished)
		}
		return Manifest{}, errors.Join(err, failed)
	}
	if err := to.Remove(datafolder.Unfinished); err != nil {
		return Manifest{}, fmt.Errorf("unmark the data folder: %w", err)
	}
	return m, nil
}

// takeOut takes all out of a folder but what is to stay.
func takeOut(of *os.Root, stays []string) error {
	there, err := fs.ReadDir(of.FS(), ".")
	for _, at := range there {
		if !slices.Contains(stays, at.Name()) {
			err = errors.Join(err, of.RemoveAll(at.Name()))
		}
	}
	return err
}

// source is a backup that is read.
type source struct {
	dir  string
	root *os.Root
}

func (b *source) changed(format string, args ...any) error {
	return &Error{Changed, b.dir, fmt.Sprintf(format, args...), another}
}

// read reads what the backup says of itself, and looks whether it can be used.
func (b *source) read() (m Manifest, sums []sum, err error) {
	list, err := b.root.ReadFile(sumsName)
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil, &Error{CutOff, b.dir, "has no " + sumsName + ", so it is no backup, or was cut off while it was made", another}
	}
	if err != nil {
		return m, nil, fmt.Errorf("read the backup: %w", err)
	}
	text, err := b.root.ReadFile(manifestName)
	if err != nil {
		return m, nil, b.changed("has no %s that can be read (%v)", manifestName, err)
	}
	got := sha256.Sum256(text)
	known := ""
	seen := map[string]bool{}
	for line := range strings.Lines(string(list)) {
		digits, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		switch {
		case !ok || !strings.HasSuffix(line, "\n") || seen[name]:
			return m, nil, b.changed("has a line in %s that is none: %.80q", sumsName, line)
		case name == manifestName:
			known = digits
		case !ours(name):
			return m, nil, b.changed("lists a file that no backup has: %.80q", name)
		default:
			sums = append(sums, sum{name, digits})
		}
		seen[name] = true
	}
	if known != hex.EncodeToString(got[:]) {
		return m, nil, b.changed("has another %s than its sum says", manifestName)
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return m, nil, b.changed("has a %s that cannot be read (%v)", manifestName, err)
	}
	switch {
	case m.Format > format || m.Schema > sqlite.Schema():
		return m, nil, &Error{TooNew, b.dir, fmt.Sprintf("was made by a later version (%s)", m.MadeBy), "install that version or a later one"}
	case len(sums) != m.Files || seen[sqlite.FileName] == m.NoLedger:
		return m, nil, b.changed("lists %d files, and was made of %d", len(sums), m.Files)
	}
	return m, sums, nil
}

// ours reports whether a backup may have a file of this name. Whatever else is put into a data folder might decide what is run.
func ours(name string) bool {
	if path.Clean(name) != name || !filepath.IsLocal(name) {
		return false
	}
	below, isArtifact := strings.CutPrefix(name, datafolder.Artifacts+"/")
	return name == sqlite.FileName || inPlace(name) != name || name == datafolder.Learned || name == datafolder.Measured || name == datafolder.Known || name == datafolder.Audit ||
		isArtifact && artifact.SavedName(below) || catalog.SavedName(name)
}

// inPlace is what a backup's file is called in a data folder.
func inPlace(name string) string {
	for original, raw := range rawNames {
		if name == raw {
			return original
		}
	}
	return name
}

// copyTo copies all files, compares each with its sum while it is read, and waits for the disk.
func (b *source) copyTo(ctx context.Context, to *os.Root, sums []sum) error {
	for _, s := range sums {
		at, err := b.root.Lstat(s.name)
		if err != nil {
			return b.changed("lacks %s (%v)", s.name, err)
		}
		if !at.Mode().IsRegular() {
			return b.changed("has %s, which is no plain file", s.name)
		}
		f, err := b.root.Open(s.name)
		if err != nil {
			return fmt.Errorf("restore: %w", err)
		}
		got, _, err := fill(to, inPlace(s.name), reader{ctx, f})
		if err = errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("restore: %w", err)
		}
		if got != s.sha256 {
			return b.changed("has a changed file: %s has the SHA-256 %s, and had %s", s.name, got, s.sha256)
		}
	}
	dir, err := to.Open(".")
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	if err := errors.Join(unix.Syncfs(int(dir.Fd())), dir.Close()); err != nil {
		return fmt.Errorf("restore: wait for the disk: %w", err)
	}
	return nil
}
