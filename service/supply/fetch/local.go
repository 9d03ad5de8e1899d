// SPDX-License-Identifier: GPL-3.0-or-later

package fetch

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/llama-orch/llama-orch/service/safefile"
	"github.com/llama-orch/llama-orch/service/task"
)

// minModel is the size of the smallest GGUF: its header alone.
const minModel = 24

// magics are the first bytes of a GGUF, in either order.
var magics = [][]byte{[]byte("GGUF"), []byte("FUGG")}

// isModel reports whether what is read begins as a GGUF does.
func isModel(r io.ReaderAt) bool {
	var head [4]byte
	_, err := r.ReadAt(head[:], 0)
	return err == nil && (bytes.Equal(head[:], magics[0]) || bytes.Equal(head[:], magics[1]))
}

// CheckLocal says why a file on this machine is no model, without reading more of it than its beginning.
func CheckLocal(ctx context.Context, path string) error {
	_, err := safefile.Wait(ctx, func(context.Context) (struct{}, error) {
		f, _, err := openLocal(path)
		if err != nil {
			return struct{}{}, err
		}
		return struct{}{}, f.Close()
	})
	return err
}

// openLocal opens a model's file. Of anything else it tells no more than that it is no model: neither its size nor what is in it.
func openLocal(path string) (*os.File, int64, error) {
	none := func(err error) error {
		return task.Errorf(task.InvalidParams, "%s is no model: name the model's file itself, which is a GGUF", path).Because(err)
	}
	f, at, err := safefile.Open(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, 0, task.Errorf(task.ModelNotFound, "%s does not exist on the server's machine: correct the path, or put the file there", path)
	case errors.Is(err, safefile.ErrNotRegular):
		return nil, 0, none(err)
	case err != nil:
		return nil, 0, task.Errorf(task.ModelNotFound, "%s cannot be read: give the server's user the right to", path).Because(err)
	}
	// The size comes first: files of the kernel's have none, and a read of them may wait for ever.
	if at.Size() < minModel || !isModel(f) {
		return nil, 0, none(f.Close())
	}
	return f, at.Size(), nil
}

// inPlace checks a model that is on this machine already. It copies nothing, and removes nothing, whatever it finds. It does not wait for a read
// that does not come back.
func (f *Fetcher) inPlace(ctx context.Context, ref Ref, o Options) (File, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	closing := context.AfterFunc(f.ctx, func() { //nolint:contextcheck // it must also end with the fetcher
		cancel(task.Errorf(task.ShuttingDown, "the server is shutting down: ask again when it is back").Retry(0))
	})
	defer closing()
	tell := o.Progress
	o.Progress = func(done, total int64) {
		if ctx.Err() == nil { // else nobody listens any more
			tell(done, total)
		}
	}
	file, err := safefile.Wait(ctx, func(ctx context.Context) (File, error) { return checked(ctx, ref, o, f.s.MaxBytes) })
	if ctx.Err() != nil {
		return File{}, fmt.Errorf("check %s: %w", ref.Shown(), context.Cause(ctx))
	}
	return file, err
}

func checked(ctx context.Context, ref Ref, o Options, most int64) (File, error) {
	names, err := partsOf(filepath.Base(ref.file))
	if err != nil {
		return File{}, err
	}
	file, total := File{Path: filepath.Join(filepath.Dir(ref.file), names[0])}, int64(0)
	for _, name := range names {
		path := filepath.Join(filepath.Dir(ref.file), name)
		at, size, err := openLocal(path)
		if err != nil {
			return File{}, err
		}
		if err := at.Close(); err != nil {
			return File{}, disk(err)
		}
		file.Parts = append(file.Parts, Part{Path: path, Size: size})
		total += size
	}
	if total > most {
		return File{}, tooLarge(ref.Shown(), most)
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
	at, _, err := openLocal(path)
	if err != nil {
		return "", 0, err
	}
	defer func() { _ = at.Close() }() // nothing was written
	one := sha256.New()
	n, err := copyTo(ctx, both(one, whole), at, tell)
	if ctx.Err() != nil {
		return "", 0, context.Cause(ctx)
	}
	if err != nil {
		return "", 0, task.Errorf(task.InvalidParams, "%s cannot be read to its end: name the model's file itself", path).Because(err)
	}
	return hexOf(one), n, nil
}
