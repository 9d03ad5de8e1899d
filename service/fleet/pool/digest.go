// SPDX-License-Identifier: GPL-3.0-or-later

package pool

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/llama-orch/llama-orch/service/gguf"
	"github.com/llama-orch/llama-orch/service/safefile"
)

// digests computes SHA-256 digests of files. It reads files again only if they do not look as they did.
type digests struct {
	mu    sync.Mutex
	known map[string]*digest // by the paths
}

// digest is that of one file, or of several that are one model. Its turn is held while they are read, so that the replicas of one model read
// it once.
type digest struct {
	turn chan struct{} // holds one value while it is taken
	sum  gguf.Sum      // while turn is held
}

// of returns the digest of files that are one model, or of one file of another kind.
func (d *digests) of(ctx context.Context, files ...string) (gguf.Sum, error) {
	key := strings.Join(files, "\x00")
	d.mu.Lock()
	if d.known == nil {
		d.known = map[string]*digest{}
	}
	entry := d.known[key]
	if entry == nil {
		entry = &digest{turn: make(chan struct{}, 1)}
		d.known[key] = entry
	}
	d.mu.Unlock()

	select {
	case entry.turn <- struct{}{}:
		defer func() { <-entry.turn }()
	case <-ctx.Done():
		return gguf.Sum{}, context.Cause(ctx)
	}
	known := entry.sum
	sum, err := safefile.Wait(ctx, func(ctx context.Context) (gguf.Sum, error) {
		if known.Digest != "" && differs(known.Marks) == nil {
			return known, nil
		}
		return gguf.Digest(ctx, files, gguf.Reading{})
	})
	if err == nil {
		entry.sum = sum
	}
	return sum, err
}

// differs says which of the files does not look as it did; nil: none.
func differs(marks []safefile.Mark) error {
	for _, m := range marks {
		if err := m.Same(); err != nil {
			return err
		}
	}
	return nil
}

// code returns one digest for all files whose code a worker runs, by their names without folders, and what the files looked like. A file that
// is not there any more has bytes that nobody knows: unknown stands for them.
func (d *digests) code(ctx context.Context, files []string, unknown string) (sum string, marks []safefile.Mark, err error) {
	lines := make([]string, 0, len(files))
	for _, file := range files {
		if was, gone := strings.CutSuffix(file, " (deleted)"); gone {
			lines = append(lines, filepath.Base(was)+" "+unknown)
			continue
		}
		one, err := d.of(ctx, file)
		if errors.Is(err, fs.ErrNotExist) { // it is in another file system, as of a wrapper that confines its program
			lines = append(lines, filepath.Base(file)+" "+unknown)
			continue
		}
		if err != nil {
			return "", nil, err
		}
		lines, marks = append(lines, filepath.Base(file)+" "+one.Digest), append(marks, one.Marks...)
	}
	slices.Sort(lines)
	hash := sha256.Sum256([]byte(strings.Join(slices.Compact(lines), "\n")))
	return "sha256:" + hex.EncodeToString(hash[:]), marks, nil
}

// named finds the model files that the operator's own arguments name, such as an adapter or a draft model, with all their parts. Their content can
// change bytes, and their names do not tell it. Other files are left out: an engine writes some of them itself, such as its log.
func named(args []string) (models [][]string, err error) {
	for _, arg := range args {
		if strings.HasPrefix(arg, "-") {
			_, value, found := strings.Cut(arg, "=")
			if !found {
				continue
			}
			arg = value
		}
		for _, one := range append([]string{arg}, strings.Split(arg, ",")...) {
			path := one
			if !isModel(path) { // an adapter may have a scale behind it
				if path, _, _ = strings.Cut(one, ":"); !isModel(path) {
					continue
				}
			}
			parts, err := gguf.Find(path)
			if err != nil {
				return nil, fmt.Errorf("a file that `provisioning.args` names: %w", err)
			}
			if !slices.ContainsFunc(models, func(m []string) bool { return slices.Equal(m, parts) }) {
				models = append(models, parts)
			}
		}
	}
	return models, nil
}

// isModel reports whether there is a file that is a model by its name. What is in it is looked at where it is hashed.
func isModel(path string) bool {
	if !strings.EqualFold(filepath.Ext(path), ".gguf") {
		return false
	}
	at, err := os.Stat(path)
	return err == nil && at.Mode().IsRegular()
}
