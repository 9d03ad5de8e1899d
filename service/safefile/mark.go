// SPDX-License-Identifier: GPL-3.0-or-later

package safefile

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"
)

// Mark is what a file looked like at one moment. Whoever writes to the file, or puts another in its place, changes it: times of modification can
// be set back, but the time of change is the kernel's own.
type Mark struct {
	Path              string
	Device, Node      uint64
	Size              int64
	Modified, Changed time.Time
}

// MarkOf looks at a file. Anything but a regular file is ErrNotRegular.
func MarkOf(path string) (Mark, error) {
	at, err := os.Stat(path)
	if err != nil {
		return Mark{}, err
	}
	return markOf(path, at)
}

func markOf(path string, at fs.FileInfo) (Mark, error) {
	if !at.Mode().IsRegular() {
		return Mark{}, fmt.Errorf("look at %s: %w", path, ErrNotRegular)
	}
	m := Mark{Path: path, Size: at.Size(), Modified: at.ModTime().UTC(), Changed: at.ModTime().UTC()}
	if sys, ok := at.Sys().(*syscall.Stat_t); ok {
		m.Device, m.Node, m.Changed = sys.Dev, sys.Ino, time.Unix(sys.Ctim.Unix()).UTC()
	}
	return m, nil
}

// Same returns nil if the file still looks like that. Else the error says what has become of it.
func (m Mark) Same() error {
	now, err := MarkOf(m.Path)
	switch {
	case err != nil:
		return err
	case now.Device != m.Device || now.Node != m.Node:
		return fmt.Errorf("%s was replaced by another file", m.Path)
	case now.Size != m.Size || !now.Modified.Equal(m.Modified) || !now.Changed.Equal(m.Changed):
		return fmt.Errorf("%s was written to", m.Path)
	}
	return nil
}

// Overwritten reports whether somebody wrote to this very file. Another file in its place does not count: whoever has the old one open, or
// mapped, still sees its bytes.
func (m Mark) Overwritten() bool {
	now, err := MarkOf(m.Path)
	return err == nil && now.Device == m.Device && now.Node == m.Node && (now.Size != m.Size || !now.Modified.Equal(m.Modified))
}
