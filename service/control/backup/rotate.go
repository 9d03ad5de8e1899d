// SPDX-License-Identifier: GPL-3.0-or-later

package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// dateForm names the backups of a rotation, so that the order of their names is that of their times.
const dateForm = "2006-01-02T15-04-05Z"

// Rotation is what became of a folder of backups.
type Rotation struct {
	Made       string   // the new backup
	Manifest   Manifest // of it
	Deleted    []string // those that were too many
	Unfinished []string // those that were cut off, which are left for somebody to look at
}

// Rotate makes a backup in a new folder of o.Dir, which is named for the time. Once that is whole and without damage, it deletes the older backups that are not
// among the newest so many without damage. It touches nothing else in o.Dir.
func Rotate(ctx context.Context, o Options, keep int) (r Rotation, err error) {
	in := o.Dir
	r.Made = filepath.Join(in, o.Now().UTC().Format(dateForm))
	o.Dir = r.Made
	if r.Manifest, err = Make(ctx, o); err != nil {
		return r, err
	}
	if r.Deleted, r.Unfinished, err = prune(in, filepath.Base(r.Made), keep, len(r.Manifest.Damaged) == 0); err != nil {
		return r, fmt.Errorf("the backup %s is made, and older ones cannot be deleted: %w", r.Made, err)
	}
	return r, nil
}

// prune deletes the backups that are older than the newest so many sound ones, of which newest is the latest.
func prune(dir, newest string, keep int, sound bool) (deleted, unfinished []string, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, err
	}
	kept := 0
	for _, at := range slices.Backward(entries) { // they are sorted, so the latest comes first
		name := at.Name()
		if _, err := time.Parse(dateForm, name); err != nil || !at.IsDir() || name > newest {
			continue
		}
		m, whole := finished(root, name)
		switch {
		case !whole:
			unfinished = append(unfinished, filepath.Join(dir, name))
		case sound && kept >= keep:
			// The sums go first: what is left of a backup that is half deleted is none.
			if err := errors.Join(root.Remove(filepath.Join(name, sumsName)), root.RemoveAll(name)); err != nil {
				return deleted, unfinished, err
			}
			deleted = append(deleted, filepath.Join(dir, name))
		case len(m.Damaged) == 0:
			kept++
		}
	}
	return deleted, unfinished, nil
}

// finished reads what a backup says of itself, and reports whether it was made to its end.
func finished(root *os.Root, name string) (m Manifest, whole bool) {
	if _, err := root.Lstat(filepath.Join(name, sumsName)); err != nil {
		return m, false
	}
	text, err := root.ReadFile(filepath.Join(name, manifestName))
	return m, err == nil && json.Unmarshal(text, &m) == nil
}
