// SPDX-License-Identifier: GPL-3.0-or-later

package process

import (
	"sync"
)

const (
	tailLines = 50   // lines kept of a worker's output
	lineLimit = 2048 // bytes kept of a line
)

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
