// SPDX-License-Identifier: GPL-3.0-or-later

package fetch

import (
	"context"
	"encoding/hex"
	"errors"
	"hash"
	"io"

	"golang.org/x/sys/unix"
)

// FreeBytes returns how many bytes an ordinary user may still write to dir's file system.
func FreeBytes(dir string) (int64, error) {
	free, _, err := Disk(dir)
	return free, err
}

// Disk returns how many bytes an ordinary user may still write to dir's file system, and how many it has.
func Disk(dir string) (free, size int64, err error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, 0, err
	}
	return int64(s.Bavail) * s.Bsize, int64(s.Blocks) * s.Bsize, nil
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
