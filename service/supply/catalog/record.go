// SPDX-License-Identifier: GPL-3.0-or-later

package catalog

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/internal/atomicfile"
	"github.com/llama-orch/llama-orch/service/task"
)

const (
	modelsDir  = "models"
	filesDir   = "files" // below modelsDir
	enginesDoc = "engines.json"
	suffix     = ".json"
	damaged    = ".damaged"
	maxRecord  = 4 << 20 // bytes of a file of ours
)

// record is the content of a model's file. A stored record never changes; another one takes its place.
type record struct {
	Model
	Given         string `json:"given_digest,omitempty"`
	SignatureText string `json:"signature_text,omitempty"`
	At            string `json:"at,omitempty"` // where the model is: relative to its own folder if Cached, otherwise absolute
	Cached        bool   `json:"cached,omitempty"`
	Files         []File `json:"files,omitempty"`
	Deleting      bool   `json:"deleting,omitempty"`
}

// disk writes the catalog's files. It reaches only what is below its folder, whatever links are in it.
type disk struct {
	root *os.Root
	dir  string // absolute
}

func openDisk(dir string) (*disk, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	d := &disk{root: root, dir: dir}
	for _, name := range []string{modelsDir, modelsDir + "/" + filesDir} {
		if err := d.folder(name); err != nil {
			return nil, errors.Join(err, root.Close())
		}
	}
	return d, nil
}

// folder makes a folder if it is missing, and makes sure that it is a folder and not a link.
func (d *disk) folder(name string) error {
	err := d.root.Mkdir(name, 0o700)
	if err == nil {
		return d.sync(filepath.Dir(name))
	}
	if !errors.Is(err, os.ErrExist) {
		return err
	}
	if at, err := d.root.Lstat(name); err != nil || !at.IsDir() {
		return errors.Join(fmt.Errorf("%s is no folder: move it away", filepath.Join(d.dir, name)), err)
	}
	return nil
}

// sync makes changes of the names in a folder durable.
func (d *disk) sync(name string) error {
	f, err := d.root.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// write replaces a file: after a crash it is the old one or the new one.
func (d *disk) write(name string, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return atomicfile.WriteIn(d.root, name, append(text, '\n'), 0o600)
}

func (d *disk) read(name string, v any) error {
	at, err := d.root.Lstat(name)
	if err != nil {
		return err
	}
	if !at.Mode().IsRegular() || at.Size() > maxRecord {
		return errors.New("it is no plain file, or too large")
	}
	f, err := d.root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxRecord))
	if err != nil {
		return err
	}
	return json.Unmarshal(text, v)
}

func (d *disk) remove(name string) error {
	if err := d.root.Remove(name); err != nil {
		return ignoreMissing(err)
	}
	return d.sync(filepath.Dir(name))
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

func recordName(id string) string { return modelsDir + "/" + id + suffix }

// home is the folder of a model's own files, from the root.
func home(id string) string { return modelsDir + "/" + filesDir + "/" + id }

func (c *Catalog) homePath(id string) string { return filepath.Join(c.disk.dir, home(id)) }

// load reads the records. It sets aside what it cannot read, and finishes what a crash left half done.
func (c *Catalog) load() error {
	if err := errors.Join(atomicfile.Sweep(c.disk.root, "."), atomicfile.Sweep(c.disk.root, modelsDir)); err != nil {
		return err
	}
	f, err := c.disk.root.Open(modelsDir)
	if err != nil {
		return err
	}
	names, err := f.Readdirnames(-1)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	for _, name := range names {
		id, isRecord := strings.CutSuffix(name, suffix)
		switch {
		case isRecord && ValidID(id):
			err = c.loadOne(id)
		}
		if err != nil {
			return err
		}
	}
	if err := c.disk.read(enginesDoc, &c.engines); err != nil && !errors.Is(err, os.ErrNotExist) {
		c.log.Error("the list of prepared engines cannot be read and is set aside: engines are listed again once they are prepared", zap.Error(err))
		c.engines = nil
		return c.disk.root.Rename(enginesDoc, enginesDoc+damaged)
	}
	return nil
}

func (c *Catalog) loadOne(id string) error {
	var r record
	err := c.disk.read(recordName(id), &r)
	if err == nil {
		err = r.sound(id)
	}
	if err == nil && c.byRef[r.Ref] != nil {
		err = fmt.Errorf("%s has its ref, too", c.byRef[r.Ref].rec.ID)
	}
	switch {
	case err != nil:
		c.log.Error("a model's entry cannot be read and is set aside: add the model again", zap.String("model_id", id), zap.Error(err))
		return c.disk.root.Rename(recordName(id), recordName(id)+damaged)
	case r.Deleting:
		return c.erase(id)
	}
	c.put(&entry{rec: &r})
	return nil
}

// absent reports whether a retired model's files are to be fetched when it is activated, since a backup did not take them along.
func (r *record) absent() bool {
	return r.State == Retired && r.At == "" && r.Given == r.Digest && digestShape.MatchString(r.Digest)
}

// sound says why a record cannot be one of ours.
func (r *record) sound(id string) error {
	switch {
	case r.ID != id, r.Ref == "":
		return errors.New("it is another model's")
	case r.State != Fetching && r.State != Failed && r.State != Active && r.State != Retired:
		return fmt.Errorf("it has the state %q", task.Clip(string(r.State), maxArchBytes))
	case r.At != "" && r.Cached && !filepath.IsLocal(filepath.FromSlash(r.At)), r.At != "" && !r.Cached && !filepath.IsAbs(r.At):
		return errors.New("its path leads out of the cache")
	case r.Size < 0, (r.State == Active || r.State == Retired && !r.absent()) && (r.At == "" || !digestShape.MatchString(r.Digest) || len(r.Files) == 0):
		return errors.New("it is incomplete")
	}
	for _, f := range r.Files {
		if !filepath.IsLocal(filepath.FromSlash(f.Name)) || f.Size < 0 {
			return errors.New("the name of a file leads out of the model's folder")
		}
	}
	return nil
}

// erase removes a model's files, then its record.
func (c *Catalog) erase(id string) error {
	if err := c.clear(id); err != nil {
		return err
	}
	return c.disk.remove(recordName(id))
}

// clear removes a model's own files. RemoveAll removes links, and does not follow them.
func (c *Catalog) clear(id string) error { return c.disk.root.RemoveAll(home(id)) }
