// SPDX-License-Identifier: GPL-3.0-or-later

package process

import (
	"bytes"
	"strings"
	"sync"
)

const (
	tailLines = 50   // lines kept of a worker's output
	lineLimit = 2048 // bytes kept of a line
)

// lines cuts what is written to it into lines. Only one goroutine writes.
type lines struct {
	each func(line string)
	part []byte
	cut  bool // the line's rest is dropped
}

func (l *lines) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		head, rest, whole := bytes.Cut(p, []byte{'\n'})
		p = rest
		if room := lineLimit - len(l.part); len(head) > room {
			head, l.cut = head[:room], true
		}
		l.part = append(l.part, head...)
		if whole {
			l.flush()
		}
	}
	return n, nil
}

func (l *lines) flush() {
	text := strings.ToValidUTF8(strings.TrimRight(string(l.part), "\r"), "\uFFFD")
	if l.cut {
		text += "…"
	}
	l.part, l.cut = l.part[:0], false
	if text != "" {
		l.each(text)
	}
}

// ring keeps the last lines of a worker.
type ring struct {
	mu    sync.Mutex
	kept  [tailLines]spoken
	count int // lines ever added
}

type spoken struct{ stream, line string }

func (r *ring) add(stream, line string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kept[r.count%tailLines] = spoken{stream, line}
	r.count++
}

// tail returns the last n lines, oldest first.
func (r *ring) tail(n int) []string { return r.last("", n) }

// last returns the last n lines of one stream (of both: ""), oldest first.
func (r *ring) last(stream string, n int) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for i := r.count - 1; i >= max(r.count-tailLines, 0) && len(out) < n; i-- {
		if s := r.kept[i%tailLines]; stream == "" || s.stream == stream {
			out = append(out, s.line)
		}
	}
	for i, j := 0, len(out)-1; i < j; i, j = i+1, j-1 {
		out[i], out[j] = out[j], out[i]
	}
	return out
}
