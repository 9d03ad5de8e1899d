// SPDX-License-Identifier: GPL-3.0-or-later

package sqlite

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// Aside gives a ledger that nobody has open another name, so that a new one can start in its place. It returns the name,
// empty if there was none. Nothing is deleted.
func Aside(path string, now time.Time) (moved string, err error) {
	moved = path + ".aside-" + now.UTC().Format("20060102T150405.000Z")
	if _, err := os.Stat(moved); err == nil {
		return "", fmt.Errorf("set the ledger aside: %s is there already: wait a moment", moved)
	}
	if _, absent := os.Stat(path); absent == nil {
		var held *lock
		if held, err = takeLock(path); err != nil {
			return "", err
		}
		defer func() { err = errors.Join(err, held.release()) }()
	}
	found := false
	// The database goes last: what belongs to it must not be left beside a new one, which would take it for its own.
	for _, part := range parts(path) {
		err := os.Rename(part, moved+strings.TrimPrefix(part, path))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", fmt.Errorf("set the ledger aside: %w; let the user who runs orchestratord write the folder", err)
		}
		found = found || err == nil
	}
	if !found {
		return "", nil
	}
	return moved, syncDir(path)
}
