// SPDX-License-Identifier: GPL-3.0-or-later

package provision

import (
	"archive/tar"
	"archive/zip"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/llama-orch/llama-orch/service/task"
)

// The archive formats that can be unpacked.
const (
	formatTarGz = "tar.gz"
	formatZip   = "zip"
)

func archiveFormat(name string) string {
	switch name = strings.ToLower(name); {
	case strings.HasSuffix(name, ".tar.gz"), strings.HasSuffix(name, ".tgz"):
		return formatTarGz
	case strings.HasSuffix(name, ".zip"):
		return formatZip
	}
	return ""
}

// bounds limit what an archive may unpack to.
type bounds struct {
	bytes   int64
	members int
}

// engineBounds leave room for an engine with the libraries of several GPU back ends.
var engineBounds = bounds{bytes: 8 << 30, members: 20000}

// tree writes an archive's members below a folder. Every path goes through the root, which follows no link out of the folder. A link is
// checked when it is made, so that nobody who follows it later leaves the folder.
type tree struct {
	ctx  context.Context
	root *os.Root
	left bounds
}

// unpackTree unpacks an archive into dir, which must be there and empty. It fails at a path or a link that leads out, a hard link, a device, or
// more than the bounds. The caller must then throw the folder away.
func unpackTree(ctx context.Context, format, file, dir string, b bounds) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	t := &tree{ctx: ctx, root: root, left: b}
	if format == formatZip {
		err = t.zip(file)
	} else {
		err = t.tarGz(file)
	}
	if err != nil {
		return fmt.Errorf("unpacking the %s: %w", format, err)
	}
	return nil
}

func (t *tree) tarGz(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch h.Typeflag {
		case tar.TypeReg:
			err = t.file(h.Name, h.FileInfo().Mode(), r)
		case tar.TypeDir:
			err = t.folder(h.Name)
		case tar.TypeSymlink:
			err = t.link(h.Name, h.Linkname)
		case tar.TypeXGlobalHeader: // git archive's comment
		default:
			err = refusedMember(h.Name, "is neither a file nor a folder nor a symbolic link")
		}
		if err != nil {
			return err
		}
	}
}

func (t *tree) zip(file string) error {
	z, err := zip.OpenReader(file)
	if err != nil {
		return err
	}
	defer z.Close()
	for _, m := range z.File {
		if err := t.zipMember(m); err != nil {
			return err
		}
	}
	return nil
}

func (t *tree) zipMember(m *zip.File) error {
	mode := m.Mode()
	if mode.IsDir() {
		return t.folder(m.Name)
	}
	if !mode.IsRegular() && mode.Type() != fs.ModeSymlink {
		return refusedMember(m.Name, "is neither a file nor a folder nor a symbolic link")
	}
	r, err := m.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	if mode.IsRegular() {
		return t.file(m.Name, mode, r)
	}
	const maxLink = 4096
	target, err := io.ReadAll(io.LimitReader(r, maxLink+1))
	if err != nil {
		return err
	}
	if len(target) > maxLink {
		return refusedMember(m.Name, "is too long a link")
	}
	return t.link(m.Name, string(target))
}

// member counts a member and returns its path below the folder.
func (t *tree) member(name string) (string, error) {
	if err := t.ctx.Err(); err != nil {
		return "", context.Cause(t.ctx)
	}
	if t.left.members--; t.left.members < 0 {
		return "", task.Errorf(task.TooLarge, "the archive has too many members: use another one")
	}
	// The path is judged as it is written: cleaning would hide that a/../../b leads out.
	if strings.ContainsAny(name, "\\\x00") || strings.HasPrefix(name, "/") || hasParent(name) || !filepath.IsLocal(path.Clean(name)) {
		return "", refusedMember(name, "leads out of the archive's folder")
	}
	return path.Clean(name), nil
}

func hasParent(name string) bool {
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return true
		}
	}
	return false
}

func refusedMember(name, what string) error {
	return task.Errorf(task.UntrustedArtifact, "the archive's member %.200q %s: do not use this archive", name, what)
}

func (t *tree) folder(name string) error {
	name, err := t.member(name)
	if err != nil {
		return err
	}
	return t.root.MkdirAll(name, 0o755)
}

func (t *tree) file(name string, mode fs.FileMode, r io.Reader) error {
	name, err := t.member(name)
	if err != nil {
		return err
	}
	if err := t.root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	perm := fs.FileMode(0o644)
	if mode&0o111 != 0 {
		perm = 0o755
	}
	f, err := t.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, perm)
	if err != nil {
		return err
	}
	// The header's size is not trusted: the bytes that come are counted.
	n, err := io.Copy(f, io.LimitReader(cancelable{t.ctx, r}, t.left.bytes+1))
	if t.left.bytes -= n; err == nil && t.left.bytes < 0 {
		err = task.Errorf(task.TooLarge, "the archive unpacks to more than an engine takes: use another one")
	}
	return errors.Join(err, f.Close()) // no sync: if a power cut takes some of it, the manifest shows that
}

// link makes a symbolic link. Its target may not lead upwards, so no chain of such links leads out.
func (t *tree) link(name, target string) error {
	name, err := t.member(name)
	if err != nil {
		return err
	}
	if target == "" || strings.ContainsAny(target, "\\\x00") || strings.HasPrefix(target, "/") || hasParent(target) {
		return refusedMember(name, "is a link that leads out of the archive's folder")
	}
	if err := t.root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	return t.root.Symlink(target, name)
}

// cancelable is a reader that fails once ctx has ended.
type cancelable struct {
	ctx context.Context
	r   io.Reader
}

func (c cancelable) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}
