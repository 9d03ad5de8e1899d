// SPDX-License-Identifier: GPL-3.0-or-later

package observe

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/contain"
)

// The bounds of the file for audit lines, and of how long they wait for an output that takes none.
const (
	asideBytes  = 8 << 20
	asideWithin = 2 * time.Second
)

// aside takes audit lines into a file where the output does not. The buffer's mutex guards it.
type aside struct {
	path   string // empty: nothing is put aside
	news   *sync.Cond
	closed chan struct{} // ends the watch
	count  int           // lines in the file of which the log has not said so yet
}

// Aside has a file take the audit lines that the output does not take within seconds, or before Close (LO-622). It is made when the first one comes, and gets
// another name at 8 MiB, in the place of the one before.
func (b *Buffer) Aside(path string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.aside = aside{path: path, news: sync.NewCond(&b.mu), closed: make(chan struct{})}
	go b.watch(b.aside.closed) // until Close
}

// watch puts audit lines aside that have waited too long.
func (b *Buffer) watch(closed chan struct{}) {
	for {
		b.mu.Lock()
		for !b.over && !b.audits() {
			b.aside.news.Wait()
		}
		over, before := b.over, b.writes
		b.mu.Unlock()
		if over {
			return
		}
		select {
		case <-time.After(asideWithin):
		case <-closed:
			return
		}
		b.mu.Lock()
		stuck := b.writes == before
		b.mu.Unlock()
		if stuck {
			b.putAside()
		}
	}
}

// audits reports whether an audit line waits that is not in the file. The caller holds mu.
func (b *Buffer) audits() bool {
	for _, of := range [][]waiting{b.writing, b.lines} {
		for i := range of {
			if of[i].kind == audit && !of[i].aside {
				return true
			}
		}
	}
	return false
}

// putAside moves the audit lines that wait to the file. Those within a write that does not end are only copied, since the output may take them yet.
func (b *Buffer) putAside() {
	b.mu.Lock()
	var text []byte
	var copied []*waiting
	for i := range b.writing {
		if l := &b.writing[i]; l.kind == audit && !l.aside {
			l.aside, copied, text = true, append(copied, l), append(text, l.text...)
		}
	}
	var moved, left []waiting
	for _, l := range b.lines {
		if l.kind == audit {
			moved, text = append(moved, l), append(text, l.text...)
		} else {
			left = append(left, l)
		}
	}
	b.lines = left
	path := b.aside.path
	b.mu.Unlock()
	if len(text) == 0 {
		return
	}
	_, err := contain.Try(func() (struct{}, error) { return struct{}{}, appendBounded(path, text) }) // a disk that is full: they go on waiting
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil {
		b.lines = append(moved, b.lines...)
		for _, l := range copied {
			l.aside = false
		}
		return
	}
	for _, l := range moved {
		b.bytes -= len(l.text)
	}
	b.aside.count += len(copied) + len(moved)
	b.idle = len(b.lines)+len(b.writing) == 0
	b.moved.Broadcast()
}

// appendBounded appends to a file, which gets another name first where it would grow too large.
func appendBounded(path string, text []byte) error {
	if info, err := os.Lstat(path); err == nil && info.Size()+int64(len(text)) > asideBytes {
		if err := os.Rename(path, path+".1"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("put the audit lines of before away: %w", err)
		}
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("keep audit lines: %w", err)
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Sync(), f.Close())
}

// notes are the lines about lines that the log does not have. The caller holds mu.
func (b *Buffer) notes() {
	var notes []waiting
	if b.lost != [2]int{} {
		notes = append(notes, waiting{kind: plain, text: b.says("log lines were dropped, since the log was not read or could not be written",
			zap.Int("plain", b.lost[plain]), zap.Int("narrated", b.lost[narrated]))})
		b.lost = [2]int{}
	}
	if b.aside.count > 0 {
		notes = append(notes, waiting{kind: plain, text: b.says("audit lines are in a file of the data folder, since the log was not read or could not be written",
			zap.String("file", filepath.Base(b.aside.path)), zap.Int("lines", b.aside.count))})
		b.aside.count = 0
	}
	for _, n := range notes {
		b.bytes += len(n.text)
	}
	b.lines = append(notes, b.lines...)
}
