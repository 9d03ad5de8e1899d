// SPDX-License-Identifier: GPL-3.0-or-later

package process

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	headLines = 20   // lines kept from where a worker began to speak
	tailLines = 50   // lines kept of the end of its output
	toldLines = 3    // lines kept of what tells of the cause of its end
	lineLimit = 2048 // bytes kept of a line

	notedLines = 256 // lines kept because somebody reads them
)

// quiet is how long a worker has to be silent before what it says next counts as the beginning of something new.
const quiet = 2 * time.Second

// ring keeps what a worker said: the last lines, and of what it has said since its last quiet moment also the first ones and those that
// tell of a cause. A stack trace ends with registers and begins with what happened (LO-843).
type ring struct {
	signs []string // of this program, in addition to those of all; nobody changes it
	mu    sync.Mutex
	kept  [tailLines]spoken
	count int // lines ever added

	notes func(line string) bool // as in Command
	noted []string

	at    time.Time // of the last line
	began int       // how many lines there were at the last quiet moment
	head  []string  // the first lines since then
	told  []string  // the first line since then that tells of a cause, and what follows it
	where int       // how many lines there were before the first of told
}

type spoken struct{ stream, line string }

func (r *ring) add(stream, line string, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.Sub(r.at) > quiet {
		r.began, r.head, r.told = r.count, nil, nil
	}
	r.at = now
	if len(r.head) < headLines {
		r.head = append(r.head, line)
	}
	switch {
	case len(r.told) == 0 && (tells(line) || has(line, r.signs)):
		r.told, r.where = []string{line}, r.count
	case len(r.told) > 0 && len(r.told) < toldLines && strings.TrimSpace(line) != "":
		r.told = append(r.told, line)
	}
	if r.notes != nil && len(r.noted) < notedLines && r.notes(line) {
		r.noted = append(r.noted, line)
	}
	r.kept[r.count%tailLines] = spoken{stream, line}
	r.count++
}

// signs are what the lines have in which a program says why it ends, in lower case: of Go, of C and C++, of ggml and of CUDA.
var signs = []string{
	"panic:", "fatal error:", "sigsegv", "sigbus", "sigill", "sigabrt", "sigfpe", "segmentation fault", "bus error", "terminate called",
	"std::bad_alloc", "assertion failed", "assertion `", "stack smashing", "ggml_assert", "ggml_abort", "cuda error", "error loading model",
	"failed to load model", "out of memory", "error while loading shared libraries",
}

// tells reports whether a line says why a program ends.
func tells(line string) bool {
	return has(line, signs) && !strings.Contains(strings.ToLower(line), "pinned memory")
}

func has(line string, signs []string) bool {
	line = strings.ToLower(line)
	return slices.ContainsFunc(signs, func(sign string) bool { return strings.Contains(line, sign) })
}

// cause returns the first lines since the last quiet moment that tell of a cause; none: nothing did.
func (r *ring) cause() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.told)
}

// tail returns the last lines, oldest first. Where the worker has said more than is kept since its last quiet moment, the beginning of
// that and what tells of a cause come before them, and a line says how many are missing.
func (r *ring) tail() []string {
	last := r.last("", tailLines)
	r.mu.Lock()
	defer r.mu.Unlock()
	gap := r.count - tailLines - r.began // so many of its lines came before the last ones
	if gap <= 0 {
		return last
	}
	head := r.head[:min(len(r.head), gap)]
	out, missing := slices.Clone(head), gap-len(head)
	if at := r.where - r.began; len(r.told) > 0 && at >= len(head) && at < gap {
		out, missing = append(out, r.told...), missing-min(len(r.told), gap-at)
	}
	if missing > 0 {
		out = append(out, fmt.Sprintf("(%d lines are left out)", missing))
	}
	return append(out, last...)
}

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
	slices.Reverse(out)
	return out
}
