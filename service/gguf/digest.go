// SPDX-License-Identifier: GPL-3.0-or-later

package gguf

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/llama-orch/llama-orch/service/safefile"
)

// Sum is what reading all bytes of a model gives.
type Sum struct {
	Digest string // "sha256:<hex>" over the files, one behind the other
	Size   int64
	Marks  []safefile.Mark // what the files looked like. As long as they do, the digest is theirs
}

// Reading says how files are read. The zero value reads them as fast as it goes.
type Reading struct {
	// Turn is taken for the time in which a piece is hashed, and by nobody during a read: a slow disk holds up nobody else. Nil: none is.
	Turn chan struct{}
	Also io.Writer // gets all bytes, too; nil: nobody does
}

const pieceBytes = 1 << 20

var pieces = sync.Pool{New: func() any { return new([pieceBytes]byte) }}

// tick is longer than a step of the clock by which file systems date changes. Two changes within one step have the same time.
const tick = 20 * time.Millisecond

// Digest reads files that are one model, and fails if one of them changes meanwhile. The digest of one file is what sha256sum prints. It waits
// for reads that do not come back: see safefile.Wait.
func Digest(ctx context.Context, files []string, how Reading) (s Sum, err error) {
	if err := settle(ctx, files); err != nil {
		return s, err
	}
	hash := sha256.New()
	var to io.Writer = hash
	if how.Also != nil {
		to = io.MultiWriter(hash, how.Also)
	}
	for _, file := range files {
		mark, err := one(ctx, file, to, how.Turn)
		if err != nil {
			return Sum{}, err
		}
		s.Marks, s.Size = append(s.Marks, mark), s.Size+mark.Size
	}
	for _, m := range s.Marks {
		if err := m.Same(); err != nil {
			return Sum{}, fmt.Errorf("the file changed while it was read: %w", err)
		}
	}
	s.Digest = "sha256:" + hex.EncodeToString(hash.Sum(nil))
	return s, nil
}

// settle waits until the next change of the files would show: for a tick, if they have changed just now.
func settle(ctx context.Context, files []string) error {
	wait := time.Duration(0)
	for _, file := range files {
		m, err := safefile.MarkOf(file)
		if err != nil {
			return err
		}
		if since := time.Since(m.Changed); since >= 0 && since < tick {
			wait = max(wait, tick-since)
		}
	}
	if wait == 0 {
		return nil
	}
	over := time.NewTimer(wait)
	defer over.Stop()
	select {
	case <-over.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// one reads a file.
func one(ctx context.Context, path string, to io.Writer, turn chan struct{}) (mark safefile.Mark, err error) {
	if mark, err = safefile.MarkOf(path); err != nil {
		return mark, err
	}
	if mark.Size == 0 { // it may be a file of the kernel's, of which a read waits for ever (LO-815)
		return mark, nil
	}
	f, _, err := safefile.Open(path)
	if err != nil {
		return mark, err
	}
	defer func() { _ = f.Close() }() // nothing was written
	buffer := pieces.Get().(*[pieceBytes]byte)
	defer pieces.Put(buffer)
	for left := mark.Size; left > 0; { // if it grows meanwhile, its mark tells
		if ctx.Err() != nil {
			return mark, context.Cause(ctx)
		}
		n, err := f.Read(buffer[:min(left, pieceBytes)])
		if n > 0 {
			left -= int64(n)
			err = take(ctx, to, buffer[:n], turn)
		}
		if errors.Is(err, io.EOF) {
			return mark, fmt.Errorf("%s ended while it was read", path)
		}
		if err != nil {
			return mark, err
		}
	}
	return mark, nil
}

// take hashes a piece, once it is its turn.
func take(ctx context.Context, to io.Writer, piece []byte, turn chan struct{}) error {
	if turn != nil {
		select {
		case turn <- struct{}{}:
			defer func() { <-turn }()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	_, err := to.Write(piece)
	return err
}
