// SPDX-License-Identifier: GPL-3.0-or-later

package fetch

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/llama-orch/llama-orch/service/task"
)

// saved is what a later process needs to know about a partial file.
type saved struct {
	Where     string `json:"where"`
	Size      int64  `json:"size_bytes"` // of the whole; unknown: -1
	Validator string `json:"validator,omitempty"`
	Synced    int64  `json:"synced_bytes"` // so many bytes are on the disk for certain
	Boot      string `json:"boot"`         // id of the machine's boot: until the next boot, written bytes are there even if they were not synced
}

// checkpoint is the number of bytes after which a partial file is made durable and the room on the disk is checked again.
const checkpoint = 64 << 20

// errStale says that the source now has another file than the one that was begun.
var errStale = errors.New("the source has another file now than when it was begun")

// errLength says that a file has another length at its source than its source announced. An answer may be wrong once.
var errLength = errors.New("the file has another length than its source announced")

// piece is one file that is being downloaded. Only one goroutine uses it.
type piece struct {
	j      *job
	r      remote
	expect string // expected digest; empty: not known
	at     *os.File
	saved
	have       int64
	one, whole hash.Hash // one covers the first have bytes; whole also covers the parts before, and is nil for a single file
	old        bool      // some bytes are from an earlier download
}

// part downloads one file under its temporary name. The Path that it returns is the final name.
func (j *job) part(ctx context.Context, r remote, single bool) (_ Part, err error) {
	p := &piece{j: j, r: r, expect: r.digest}
	if single && p.expect == "" {
		p.expect = j.digest
	}
	if p.at, err = j.root.OpenFile(r.name+partial, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o644); err != nil {
		return Part{}, disk(err)
	}
	defer func() {
		err = errors.Join(err, p.at.Close())
		if err != nil && p.have == 0 {
			err = errors.Join(err, j.drop(r))
		}
	}()
	if err := p.resume(ctx); err != nil {
		return Part{}, err
	}
	for {
		err := j.retrying(ctx, p.attempt)
		if kept := p.keep(); err == nil && kept != nil {
			err = disk(kept)
		}
		if err != nil {
			return Part{}, err
		}
		digest := hexOf(p.one)
		if p.expect == "" || p.expect == digest {
			j.whole = p.whole
			return Part{Path: r.name, Size: p.have, Digest: digest}, nil
		}
		if !p.old {
			if !isModel(p.at) { // what it is instead is nobody's business
				digest = "of no model"
			}
			return Part{}, mismatch(r.where, digest, p.expect)
		}
		j.log.Warn("what was there of a file does not fit the rest: it is fetched from the start")
		if err := p.restart(); err != nil {
			return Part{}, err
		}
	}
}

// resume takes over the partial file, if it surely belongs to the same file.
func (p *piece) resume(ctx context.Context) error {
	info, err := p.at.Stat()
	if err != nil {
		return disk(err)
	}
	if !info.Mode().IsRegular() {
		return disk(fmt.Errorf("%s is no regular file", p.at.Name()))
	}
	var s saved
	known := p.j.readJSON(p.r.name+state, &s) == nil && s.Where == p.r.where && s.Synced >= 0 &&
		(p.r.size < 0 || s.Size < 0 || s.Size == p.r.size) && (p.r.fixed || s.Validator != "" || p.expect != "")
	have := info.Size()
	if p.expect == "" && (s.Boot == "" || s.Boot != p.j.f.boot) { // the machine may have crashed, and nobody would notice bytes that it left unwritten
		have = min(have, s.Synced)
	}
	if !known || s.Size >= 0 && have > s.Size {
		return p.restart()
	}
	if err := p.at.Truncate(have); err != nil {
		return disk(err)
	}
	p.begin()
	p.saved = s
	if p.Size < 0 {
		p.Size = p.r.size
	}
	p.have, err = copyTo(ctx, p.hashes(), io.NewSectionReader(p.at, 0, have), func(n int64) { p.tell(n) })
	if err != nil {
		return disk(err)
	}
	if p.old = p.have > 0; p.old {
		p.j.log.Info("a download goes on", zap.String("file", p.r.name), zap.Int64("from_bytes", p.have))
	}
	return nil
}

// begin resets the hashes to before this file's first byte.
func (p *piece) begin() {
	p.one, p.whole, p.have, p.old = sha256.New(), nil, 0, false
	p.saved = saved{Where: p.r.where, Size: p.r.size}
	if p.j.whole != nil {
		p.whole = clone(p.j.whole)
	}
}

func clone(h hash.Hash) hash.Hash {
	c, err := h.(hash.Cloner).Clone()
	if err != nil {
		panic("SHA-256 clones: " + err.Error())
	}
	return c.(hash.Hash)
}

func (p *piece) restart() error {
	p.begin()
	if err := p.at.Truncate(0); err != nil {
		return disk(err)
	}
	return nil
}

func (p *piece) hashes() io.Writer { return both(p.one, p.whole) }

// keep makes the partial file durable, and records how long it is.
func (p *piece) keep() error {
	if err := p.at.Sync(); err != nil {
		return err
	}
	p.Synced, p.Boot = p.have, p.j.f.boot
	return p.j.writeJSON(p.r.name+state, p.saved)
}

func (p *piece) tell(have int64) {
	done, total := p.j.before+have, p.j.total
	if total == 0 && p.whole == nil && p.Size > 0 {
		total = p.Size
	}
	p.j.progress(done, total)
	if total > 0 && done*10/total > p.j.share {
		p.j.share = done * 10 / total
		p.j.log.Info("a model is on its way", zap.Int64("done_bytes", done), zap.Int64("total_bytes", total))
	}
}

// attempt makes one request for the missing bytes and writes what comes.
func (p *piece) attempt(ctx context.Context, alive func()) (gained bool, err error) {
	if p.Size >= 0 && p.have == p.Size {
		return false, nil
	}
	validator := p.Validator
	if p.r.fixed {
		validator = ""
	}
	s, err := p.r.open(ctx, p.have, validator)
	if errors.Is(err, errStale) {
		return false, errors.Join(p.restart(), err)
	}
	if err != nil {
		return false, err
	}
	defer func() { _ = s.body.Close() }()
	if s.from != p.have {
		if err := p.restart(); err != nil {
			return false, err
		}
		if s.from != 0 {
			return false, fmt.Errorf("the source sends from byte %d on, which nobody asked for", s.from)
		}
	}
	if err := p.learn(s); err != nil {
		return false, err
	}
	start := p.have
	err = p.take(ctx, s.body, alive)
	if err != nil {
		if kept := p.keep(); kept != nil {
			p.j.log.Warn("what there is of a file could not be kept", zap.Error(kept))
		}
	}
	return p.have > start, err
}

// learn notes what the source says about the file, and refuses it if that does not fit.
func (p *piece) learn(s *stream) error {
	if s.size >= 0 && p.Size >= 0 && s.size != p.Size {
		err := fmt.Errorf("%w: the source announced %d bytes and now says %d", errLength, p.Size, s.size)
		return errors.Join(p.restart(), err)
	}
	if p.have == 0 {
		p.Validator = s.validator
	}
	if p.Size < 0 && s.size >= 0 {
		if s.size > p.j.f.s.MaxBytes-p.j.before {
			return tooLarge(p.j.ref.Shown(), p.j.f.s.MaxBytes)
		}
		p.Size = s.size
		if err := p.j.room(p.j.before+p.Size, p.j.before+p.have); err != nil {
			return err
		}
	}
	return nil
}

// take appends the body to the partial file.
func (p *piece) take(ctx context.Context, body io.Reader, alive func()) error {
	most := p.j.f.s.MaxBytes - p.j.before
	if p.Size >= 0 {
		most = min(most, p.Size)
	}
	if err := p.keep(); err != nil { // before the first byte, so that a later process knows which file these bytes belong to
		return disk(err)
	}
	hashes, chunk, next := p.hashes(), make([]byte, 256<<10), p.have+checkpoint
	for {
		n, err := body.Read(chunk)
		alive()
		if p.have+int64(n) > most {
			if p.Size >= 0 && p.Size <= most {
				return task.Errorf(task.UntrustedArtifact, "%s sends more than the %d bytes that it announced: do not use it, or tell its owner", p.r.where, p.Size)
			}
			return tooLarge(p.j.ref.Shown(), p.j.f.s.MaxBytes)
		}
		if n > 0 {
			if _, err := p.at.WriteAt(chunk[:n], p.have); err != nil {
				return disk(errors.Join(err, p.at.Truncate(p.have)))
			}
			_, _ = hashes.Write(chunk[:n]) // writing to a hash never fails
			p.have += int64(n)
			p.tell(p.have)
		}
		switch {
		case errors.Is(err, io.EOF) && p.Size >= 0 && p.have < p.Size:
			return fmt.Errorf("%w: the source sent %d of %d bytes", errLength, p.have, p.Size)
		case errors.Is(err, io.EOF):
			p.Size = p.have
			return nil
		case err != nil:
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
		if p.have >= next {
			next = p.have + checkpoint
			if err := p.keep(); err != nil {
				return disk(err)
			}
			if err := p.j.room(p.have, p.have); err != nil {
				return err
			}
		}
	}
}

const (
	maxAttempts = 200 // for one file, however much each attempt gains
	maxWait     = 60 * time.Second
)

// errStalled says that no byte arrived for too long.
var errStalled = errors.New("no byte came for a while")

// retrying tries until it works, until it meets an error that waiting does not mend, or until several tries in a row gained no byte.
func (j *job) retrying(ctx context.Context, try func(ctx context.Context, alive func()) (gained bool, err error)) error {
	s := &j.f.s
	wait, row := s.RetryWait, 0
	for n := 1; ; n++ {
		gained, err := j.guarded(ctx, try)
		if err == nil || ctx.Err() != nil {
			return err
		}
		e := typed(err, j.ref)
		if gained {
			wait, row = s.RetryWait, 0
		}
		if row++; !e.Retriable || row > s.Retries || n == maxAttempts || e.RetryAfter > maxWait {
			if errors.Is(err, errLength) { // it stays so: that is no outage (LO-806)
				return task.Errorf(task.UntrustedArtifact, "%s has another length at its source than the source announces: do not use it, or tell its owner", j.ref.Shown()).Because(err)
			}
			return e
		}
		j.log.Warn("the source failed: it is asked again", zap.Error(e), zap.Duration("wait_ms", max(wait, e.RetryAfter)))
		timer := time.NewTimer(max(wait, e.RetryAfter))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
		wait = min(2*wait, maxWait)
	}
}

// guarded gives up an attempt when nothing has come for a while.
func (j *job) guarded(ctx context.Context, try func(ctx context.Context, alive func()) (bool, error)) (bool, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stall := j.f.s.Stall
	timer := time.AfterFunc(stall, func() { cancel(errStalled) })
	defer timer.Stop()
	gained, err := try(ctx, func() { timer.Reset(stall) })
	if err != nil && errors.Is(context.Cause(ctx), errStalled) {
		err = errors.Join(errStalled, asTyped(err))
	}
	return gained, err
}
