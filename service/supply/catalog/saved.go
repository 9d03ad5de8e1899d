// SPDX-License-Identifier: GPL-3.0-or-later

package catalog

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Saved is a model as a backup takes it.
type Saved struct {
	Model
	Name  string // of its entry's file, below the state directory
	Entry []byte // what a backup writes to it
	Files string // the folder of the model's own files, below the state directory; empty: they are elsewhere, or not there
}

// Save reads the entries of a state directory, which a daemon may have open. A usable model in the catalog's own folder is written as one that is being
// fetched, and must have the digest that it has. So the catalog that opens the entry next takes the files that are there if they have it, and otherwise
// fetches the model. A retired one stays retired, and does that when it is activated. Entries that cannot be read are left out, as are those of models that are being deleted.
func Save(dir string) (saved []Saved, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open the catalog: %w", err)
	}
	d := &disk{root: root, dir: dir}
	defer func() { err = errors.Join(err, root.Close()) }()
	names, err := os.ReadDir(filepath.Join(dir, modelsDir))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("list the models: %w", err)
	}
	for _, at := range names {
		id, isRecord := strings.CutSuffix(at.Name(), suffix)
		var r record
		if !isRecord || !ValidID(id) || d.read(recordName(id), &r) != nil || r.sound(id) != nil || r.Deleting {
			continue
		}
		one := Saved{Model: r.Model, Name: recordName(id)}
		if r.Cached {
			one.Files = home(id)
		}
		if r.Cached && (r.State == Active || r.State == Retired) {
			r = record{Model: r.Model, Given: r.Digest, SignatureText: r.SignatureText}
			r.Verified, r.VerifiedAt = false, time.Time{}
			if r.State == Active {
				r.State = Fetching
			}
		}
		if one.Entry, err = json.Marshal(r); err != nil {
			return nil, fmt.Errorf("write the entry of model %s: %w", id, err)
		}
		saved = append(saved, one)
	}
	slices.SortFunc(saved, func(a, b Saved) int { return strings.Compare(a.ID, b.ID) })
	return saved, nil
}

// SavedName reports whether a file of this name, below the state directory, may be in a backup.
func SavedName(name string) bool {
	rest, ok := strings.CutPrefix(name, modelsDir+"/")
	if !ok {
		return false
	}
	if id, isRecord := strings.CutSuffix(rest, suffix); isRecord && ValidID(id) {
		return true
	}
	id, below, _ := strings.Cut(strings.TrimPrefix(rest, filesDir+"/"), "/")
	return strings.HasPrefix(rest, filesDir+"/") && ValidID(id) && below != ""
}
