// SPDX-License-Identifier: GPL-3.0-or-later

package fetch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/llama-orch/llama-orch/service/task"
)

// freeBytes returns how many bytes an ordinary user may still write to dir's file system.
func freeBytes(dir string) (int64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, err
	}
	return int64(s.Bavail) * s.Bsize, nil
}

func hexOf(h hash.Hash) string { return "sha256:" + hex.EncodeToString(h.Sum(nil)) }

// both writes to the first hash, and to the second one if there is one.
func both(one, whole hash.Hash) io.Writer {
	if whole == nil {
		return one
	}
	return io.MultiWriter(one, whole)
}

// copyTo copies all of r to w, and calls tell with the number of bytes so far.
func copyTo(ctx context.Context, w io.Writer, r io.Reader, tell func(n int64)) (n int64, err error) {
	chunk := make([]byte, 1<<20)
	for {
		if err := ctx.Err(); err != nil {
			return n, err
		}
		got, err := r.Read(chunk)
		if got > 0 {
			if _, err := w.Write(chunk[:got]); err != nil {
				return n, err
			}
			n += int64(got)
			tell(n)
		}
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// inPlace checks a model that is on this machine already. It copies nothing, and removes nothing, whatever it finds.
func inPlace(ctx context.Context, ref Ref, o Options) (File, error) {
	names, err := partsOf(filepath.Base(ref.file))
	if err != nil {
		return File{}, err
	}
	file, total := File{Path: filepath.Join(filepath.Dir(ref.file), names[0])}, int64(0)
	for _, name := range names {
		path := filepath.Join(filepath.Dir(ref.file), name)
		info, err := os.Stat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return File{}, task.Errorf(task.ModelNotFound, "%s does not exist on the server's machine: correct the path, or put the file there", path)
		case err != nil:
			return File{}, task.Errorf(task.ModelNotFound, "%s cannot be read: give the server's user the right to", path).Because(err)
		case !info.Mode().IsRegular():
			return File{}, task.Errorf(task.InvalidParams, "%s is no file: name the model's file itself", path)
		}
		file.Parts = append(file.Parts, Part{Path: path, Size: info.Size()})
		total += info.Size()
	}
	var whole hash.Hash // only for a split model; for a single file it would be the same hash again
	if len(file.Parts) > 1 {
		whole = sha256.New()
	}
	for i := range file.Parts {
		p := &file.Parts[i]
		if p.Digest, p.Size, err = digestOf(ctx, p.Path, whole, func(n int64) { o.Progress(file.Size+n, total) }); err != nil {
			return File{}, err
		}
		file.Size += p.Size
	}
	file.Digest = file.Parts[0].Digest
	if whole != nil {
		file.Digest = hexOf(whole)
	}
	if o.Digest != "" && o.Digest != file.Digest {
		return File{}, task.Errorf(task.UntrustedArtifact, "%s has the digest %s, not the expected %s: find out which is right before you change the expected one",
			ref.Shown(), file.Digest, o.Digest)
	}
	return file, nil
}

func digestOf(ctx context.Context, path string, whole hash.Hash, tell func(n int64)) (string, int64, error) {
	at, err := os.Open(path)
	if err != nil {
		return "", 0, task.Errorf(task.ModelNotFound, "%s cannot be read: give the server's user the right to", path).Because(err)
	}
	defer func() { _ = at.Close() }()
	one := sha256.New()
	n, err := copyTo(ctx, both(one, whole), at, tell)
	if ctx.Err() != nil {
		return "", 0, fmt.Errorf("check %s: %w", path, context.Cause(ctx))
	}
	if err != nil { // such as of a file of /proc
		return "", 0, task.Errorf(task.InvalidParams, "%s cannot be read to its end: name the model's file itself", path).Because(err)
	}
	return hexOf(one), n, nil
}
