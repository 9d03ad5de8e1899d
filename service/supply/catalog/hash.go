// SPDX-License-Identifier: GPL-3.0-or-later

package catalog

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"aead.dev/minisign"

	"github.com/llama-orch/llama-orch/service/gguf"
	"github.com/llama-orch/llama-orch/service/safefile"
)

// digestShape is the form of a written digest.
var digestShape = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

const (
	digestPrefix = "sha256:"
	maxFiles     = 4096 // of one model
)

// File is one file of a model, as it was when it was hashed. As long as it looks like that, it counts as unchanged (LO-808).
type File struct {
	Name       string    `json:"name"` // below the model's folder, with slashes
	Size       int64     `json:"size"`
	ModTime    time.Time `json:"mod_time"`
	ChangeTime time.Time `json:"change_time"`
	Node       uint64    `json:"node"` // without its device, whose number may be another after a start of the machine
}

func fileOf(name string, m safefile.Mark) File {
	return File{Name: name, Size: m.Size, ModTime: m.Modified, ChangeTime: m.Changed, Node: m.Node}
}

// hashed is the result of reading all of a model's bytes.
type hashed struct {
	digest string
	size   int64
	files  []File
	signed *minisign.Reader // digests what a signature covers; nil: nobody asked for that
}

// layout says where the files of a model are.
type layout struct {
	dir    string   // absolute
	names  []string // below dir, in the order in which they are read
	folder bool     // the model is a folder, not a file or the parts of one
}

// hashLayout reads the bytes of a model once. The digest of a file in parts covers all parts, one after the other. The digest of a folder
// covers the lines that sha256sum prints for its files. With sign, it also digests what a signature covers. Each piece waits for its turn at the
// processor, and none is held during a read, so a slow disk holds up nobody else.
func hashLayout(ctx context.Context, l layout, sign bool, turn chan struct{}) (out hashed, err error) {
	if !l.folder {
		return hashParts(ctx, l.dir, l.names, sign, turn)
	}
	var list strings.Builder
	for _, name := range l.names {
		one, err := hashParts(ctx, l.dir, []string{name}, false, turn)
		if err != nil {
			return out, err
		}
		out.files, out.size = append(out.files, one.files...), out.size+one.size
		fmt.Fprintf(&list, "%s  %s\n", strings.TrimPrefix(one.digest, digestPrefix), name)
	}
	sum := sha256.Sum256([]byte(list.String()))
	out.digest = digestPrefix + hex.EncodeToString(sum[:])
	if sign {
		out.signed = minisign.NewReader(strings.NewReader(list.String()))
		if _, err := io.Copy(io.Discard, out.signed); err != nil {
			return out, fmt.Errorf("digest the list of a model's files: %w", err)
		}
	}
	return out, nil
}

func hashParts(ctx context.Context, dir string, names []string, sign bool, turn chan struct{}) (out hashed, err error) {
	how := gguf.Reading{Turn: turn}
	if sign {
		covered := &covered{}
		covered.of = minisign.NewReader(&covered.piece)
		how.Also, out.signed = covered, covered.of
	}
	paths := make([]string, len(names))
	for i, name := range names {
		paths[i] = filepath.Join(dir, filepath.FromSlash(name))
	}
	sum, err := gguf.Digest(ctx, paths, how)
	if err != nil {
		return hashed{}, fmt.Errorf("hash a model: %w", err)
	}
	out.digest, out.size = sum.Digest, sum.Size
	for i, name := range names {
		out.files = append(out.files, fileOf(name, sum.Marks[i]))
	}
	return out, nil
}

// covered digests what a signature covers, as it is written.
type covered struct {
	of    *minisign.Reader
	piece bytes.Reader
}

// Write implements io.Writer.
func (c *covered) Write(b []byte) (int, error) {
	c.piece.Reset(b)
	_, err := io.Copy(io.Discard, c.of)
	return len(b), err
}

// unchanged looks at the files again, and reports whether they are still those that were hashed.
func unchanged(dir string, files []File) (marks []safefile.Mark, same bool) {
	for _, f := range files {
		m, err := safefile.MarkOf(filepath.Join(dir, filepath.FromSlash(f.Name)))
		now := fileOf(f.Name, m)
		if err != nil || now.Size != f.Size || now.Node != f.Node || !now.ModTime.Equal(f.ModTime) || !now.ChangeTime.Equal(f.ChangeTime) {
			return nil, false
		}
		marks = append(marks, m)
	}
	return marks, len(files) > 0
}

// lay lists the files of the model at path. If inside is given, path must be in that folder, and nothing below it may be a link.
func lay(path, inside string) (layout, error) {
	if inside != "" {
		if err := contained(path, inside); err != nil {
			return layout{}, err
		}
	}
	at, err := os.Stat(path)
	if err != nil {
		return layout{}, fmt.Errorf("look for a model's files: %w", err)
	}
	if at.Mode().IsRegular() {
		return layFile(path, inside != "")
	}
	if !at.IsDir() {
		return layout{}, fmt.Errorf("%s is neither a plain file nor a folder", filepath.Base(path))
	}
	l := layout{dir: path, folder: true}
	err = filepath.WalkDir(path, func(at string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case e.IsDir():
			return nil
		case !e.Type().IsRegular():
			return fmt.Errorf("%s is no plain file: a model's folder must hold nothing else", filepath.Base(at))
		case len(l.names) == maxFiles:
			return fmt.Errorf("a model's folder may hold at most %d files", maxFiles)
		}
		name, err := filepath.Rel(path, at)
		l.names = append(l.names, filepath.ToSlash(name))
		return err
	})
	if err == nil && len(l.names) == 0 {
		err = fmt.Errorf("the folder %s has no files", filepath.Base(path))
	}
	slices.Sort(l.names)
	return l, err
}

// layFile lists a single file, or the parts that begin with it. In the catalog's own folder none of them may be a link.
func layFile(path string, cached bool) (layout, error) {
	l := layout{dir: filepath.Dir(path)}
	parts, err := gguf.Find(path)
	if err != nil {
		return l, err
	}
	for _, part := range parts {
		if at, err := os.Lstat(part); cached && (err != nil || !at.Mode().IsRegular()) {
			return l, fmt.Errorf("part %s of the model is a link", filepath.Base(part))
		}
		l.names = append(l.names, filepath.Base(part))
	}
	return l, nil
}

// contained refuses a path that is not below the folder, that leads out of it by a link, or that is a link itself.
func contained(path, folder string) error {
	refused := func(cause error) error {
		return errors.Join(fmt.Errorf("%s is not below the model's own folder, or a link", filepath.Base(path)), cause)
	}
	home, err := filepath.EvalSymlinks(folder)
	if err != nil {
		return refused(err)
	}
	resolved, err := filepath.EvalSymlinks(path)
	if err != nil {
		return refused(err)
	}
	within, err := filepath.Rel(folder, path)
	if err != nil || !filepath.IsLocal(within) || resolved != filepath.Join(home, within) {
		return refused(err)
	}
	return nil
}

// gguf finds the GGUF of a layout, or its first part if there are several. It returns nothing if there is none.
func (l layout) gguf() string {
	for _, name := range l.names {
		if !strings.HasSuffix(strings.ToLower(name), ".gguf") {
			continue
		}
		if parts, err := gguf.Parts(name); err != nil || parts[0] != name {
			continue
		}
		return filepath.Join(l.dir, filepath.FromSlash(name))
	}
	return ""
}
