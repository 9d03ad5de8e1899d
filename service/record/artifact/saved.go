// SPDX-License-Identifier: GPL-3.0-or-later

package artifact

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Saved is an artifact as a backup takes it. The names are those of its files below the store's folder.
type Saved struct{ ID, Bytes, Entry string }

// List returns the artifacts in the folder of a store, which a daemon may have open. What is just being stored may be missing: nobody was told of it yet.
func List(dir string) (found []Saved, err error) {
	prefixes, err := os.ReadDir(filepath.Join(dir, bytesDir))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the artifacts: %w", err)
	}
	for _, prefix := range prefixes {
		if !prefix.IsDir() {
			continue
		}
		files, err := os.ReadDir(filepath.Join(dir, bytesDir, prefix.Name()))
		if err != nil {
			return nil, fmt.Errorf("list the artifacts: %w", err)
		}
		for _, f := range files {
			name, isEntry := strings.CutSuffix(f.Name(), sidecar)
			if id := idPrefix + prefix.Name() + name; isEntry && ValidID(id) {
				found = append(found, Saved{ID: id, Bytes: path(id), Entry: path(id) + sidecar})
			}
		}
	}
	slices.SortFunc(found, func(a, b Saved) int { return strings.Compare(a.ID, b.ID) })
	return found, nil
}

// Holds reports whether bytes with this SHA-256, in hexadecimal, are the artifact's.
func (s Saved) Holds(sum string) bool { return s.ID == idPrefix+sum }

// SavedName reports whether a file of this name, below the store's folder, may be in a backup.
func SavedName(name string) bool {
	rest, ok := strings.CutPrefix(strings.TrimSuffix(name, sidecar), bytesDir+"/")
	prefix, digits, _ := strings.Cut(rest, "/")
	return ok && len(prefix) == 2 && ValidID(idPrefix+prefix+digits)
}
