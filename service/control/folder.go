// SPDX-License-Identifier: GPL-3.0-or-later

package control

import (
	"context"
	"path/filepath"
	"strings"

	"github.com/llama-orch/llama-orch/service/safefile"
	"github.com/llama-orch/llama-orch/service/task"
)

// folder is one in which files may be that the API names. If it is not deep, those in folders below it may not.
type folder struct {
	path string
	deep bool
}

// folders are those that the configuration allows, and those of the pools' own models.
func (s *Setup) folders() (all []folder) {
	c := s.config()
	for _, path := range c.Catalog.Folders {
		all = append(all, folder{path, true})
	}
	for _, p := range c.Pools {
		if p.Model.Path != "" {
			all = append(all, folder{filepath.Dir(p.Model.Path), false})
		}
	}
	return all
}

func (f folder) holds(path string) bool {
	if !f.deep {
		return filepath.Dir(path) == f.path
	}
	within, err := filepath.Rel(f.path, path)
	return err == nil && within != "." && filepath.IsLocal(within)
}

// permits refuses a file that the API names if the configuration allows nothing there (LO-818). It does not look at the disk, so that the answer
// tells nothing about files elsewhere. An empty path is that of a model that is fetched.
func (s *Setup) permits(path string) error {
	if path == "" {
		return nil
	}
	for _, f := range s.folders() {
		if f.holds(path) {
			return nil
		}
	}
	return denied(path)
}

// permitsTarget does the same for what the path leads to, whatever links are on the way.
func (s *Setup) permitsTarget(ctx context.Context, path string) error {
	if err := s.permits(path); err != nil {
		return err
	}
	ok, err := safefile.Wait(ctx, func(context.Context) (bool, error) {
		target, err := filepath.EvalSymlinks(path)
		if err != nil {
			return true, nil //nolint:nilerr // whoever opens it says what is wrong
		}
		for _, f := range s.folders() {
			if home, err := filepath.EvalSymlinks(f.path); err == nil && (folder{home, f.deep}).holds(target) {
				return true, nil
			}
		}
		return false, nil
	})
	if err == nil && !ok {
		err = denied(path)
	}
	return err
}

func denied(path string) error {
	return task.Errorf(task.PolicyDenied, "the configuration allows no models in the folder of %s, or where it leads: put the file into one of `catalog.folders`, or have the operator add its folder there",
		task.Clip(path, maxShown))
}

// maxShown bounds a path in a message, in bytes.
const maxShown = 256

// localPath is the file that a ref names on this machine; empty: it names none.
func localPath(ref string) string {
	path, ok := strings.CutPrefix(ref, "file:")
	if !ok {
		return ""
	}
	return path
}
