// SPDX-License-Identifier: GPL-3.0-or-later

package observe

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
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
	path    string // empty: nothing is put aside
	news    *sync.Cond
	closed  chan struct{} // ends the watch
	watched chan struct{} // closed when the watch has ended
	count   int           // lines in the file of which the log has not said so yet
}

// Aside has a file take the audit lines that the output does not take within seconds, or before Close (LO-622). It is made when the first one comes, and gets
// another name at 8 MiB, in the place of the one before.
func (b *Buffer) Aside(path string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.aside = aside{path: path, news: sync.NewCond(&b.mu), closed: make(chan struct{}), watched: make(chan struct{})}
	go b.watch(b.aside.closed, b.aside.watched) // joined by Close
}

// watch puts audit lines aside that have waited too long.
func (b *Buffer) watch(closed, watched chan struct{}) {
	defer close(watched)
	for {
		b.mu.Lock()
		for !b.over && len(b.audits()) == 0 {
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

// audits are the audit lines that wait and are not in the file. The caller holds mu.
func (b *Buffer) audits() (all []*waiting) {
	for _, of := range [][]*waiting{b.writing, b.lines} {
		for _, l := range of {
			if l.kind == audit && !l.aside {
				all = append(all, l)
			}
		}
	}
	return all
}

// putAside writes the audit lines that wait to the file. They go on waiting until the file has them: if the output takes them first, both have them, and
// none is ever in neither.
func (b *Buffer) putAside() {
	b.filing.Lock()
	defer b.filing.Unlock()
	b.mu.Lock()
	lines, path := b.audits(), b.aside.path
	b.mu.Unlock()
	if len(lines) == 0 {
		return
	}
	var text []byte
	for _, l := range lines {
		text = append(text, l.inJSON...)
	}
	_, err := contain.Try(func() (struct{}, error) { return struct{}{}, appendBounded(path, text) })
	if err != nil {
		return // the disk is full: they are tried again
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, l := range lines {
		l.aside = true
	}
	b.lines = slices.DeleteFunc(b.lines, func(l *waiting) bool {
		if l.aside {
			b.bytes -= len(l.text)
		}
		return l.aside
	})
	b.aside.count += len(lines)
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

// note is what a line of the log about itself says: what the log does not have.
type note struct {
	lost  [2]int // plain and narrated lines that were dropped
	aside int    // lines in the file
	told  func() // gives the line to the tail
}

// notes are the lines about lines that the log does not have. The caller holds mu.
func (b *Buffer) notes() {
	var notes []*waiting
	add := func(n note, msg string, fields ...zap.Field) {
		text, told := b.says(msg, fields...)
		n.told = told
		b.bytes += len(text)
		notes = append(notes, &waiting{kind: plain, text: text, note: &n})
	}
	if b.lost != [2]int{} {
		add(note{lost: b.lost}, "log lines were dropped, since the log was not read or could not be written", zap.Int("plain", b.lost[plain]), zap.Int("narrated", b.lost[narrated]))
		b.lost = [2]int{}
	}
	if b.aside.count > 0 {
		add(note{aside: b.aside.count}, "audit lines are in a file of the data folder, since the log was not read or could not be written",
			zap.String("file", filepath.Base(b.aside.path)), zap.Int("lines", b.aside.count))
		b.aside.count = 0
	}
	b.lines = append(notes, b.lines...)
}

// untold takes a note back that was not written: the next one says it too. The caller holds mu.
func (b *Buffer) untold(n *note) {
	b.lost[plain] += n.lost[plain]
	b.lost[narrated] += n.lost[narrated]
	b.aside.count += n.aside
}
