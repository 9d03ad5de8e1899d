// SPDX-License-Identifier: GPL-3.0-or-later

package catalog

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/safefile"
	"github.com/llama-orch/llama-orch/service/task"
)

// Verification is the result of a check of a model's bytes.
type Verification struct {
	ModelID    string
	Digest     string // of the bytes as they are; empty: they could not be read
	Verified   bool
	Signature  SignatureState
	Warnings   []string
	VerifiedAt time.Time
}

// Verify reads all bytes of a model again and records what it finds (ORCH-3061). The check goes on when ctx ends. A call during a check
// joins it. Errors: NOT_FOUND; CONFLICT for a model that is not there.
func (c *Catalog) Verify(ctx context.Context, id string) (Verification, error) {
	c.mu.Lock()
	e, err := c.entry(id)
	switch {
	case err != nil:
	case c.closed:
		err = closing()
	case e.deleting || e.rec.State != Active && e.rec.State != Retired:
		err = task.Errorf(task.Conflict, "model %s is not there: wait for its fetch, or delete it", id)
	case e.rec.absent():
		err = task.Errorf(task.Conflict, "the files of model %s are not there, since it was retired when the backup was made: activate it, which fetches them", id)
	case e.job == nil:
		c.verify(e) //nolint:contextcheck // the check outlives the call
	}
	var j *job
	if err == nil {
		j = e.job
	}
	c.mu.Unlock()
	if err != nil {
		return Verification{}, err
	}
	select {
	case <-j.over:
		if !j.checked {
			return Verification{}, j.err
		}
		return j.found, nil
	case <-ctx.Done():
		return Verification{}, fmt.Errorf("verify a model: %w", ctx.Err())
	}
}

// verify begins to check an entry. The caller holds mu.
func (c *Catalog) verify(e *entry) {
	ctx, cancel := context.WithCancel(c.ctx)
	j := &job{cancel: cancel, over: make(chan struct{})}
	e.job = j
	rec := e.rec
	c.jobs.Go(func() {
		defer close(j.over)
		defer cancel()
		var h hashed
		var f finding
		err := c.guard(rec.ID, func() (err error) {
			h, f, err = c.look(ctx, rec)
			return err
		})
		if panicked := c.guard(rec.ID, func() error {
			changed := c.checked(ctx, e, j, h, f, err)
			if j.checked {
				c.o.Changed(changed)
			}
			return nil
		}); panicked != nil && j.err == nil {
			j.err = panicked
		}
	})
}

// look reads a model's bytes. Bytes that it cannot read count as a mismatch of the digest.
func (c *Catalog) look(ctx context.Context, rec *record) (hashed, finding, error) {
	inside := ""
	if rec.Cached {
		inside = c.homePath(rec.ID)
	}
	at := rec.path(c)
	l, err := safefile.Wait(ctx, func(context.Context) (layout, error) {
		l, err := lay(at, inside)
		if err == nil && !l.folder { // what has no digest of a model's gets none
			_, err = describeModel(l)
		}
		return l, err
	})
	var h hashed
	if err == nil {
		h, err = c.hash(ctx, l, rec.SignatureText != "")
	}
	if err != nil {
		if ctx.Err() != nil {
			return h, finding{}, ctx.Err()
		}
		return hashed{}, finding{
			result: fail, reason: digestMismatch, signature: rec.Signature,
			problem: task.Errorf(task.UntrustedArtifact, "the model's files are not what was fetched, or cannot be read: delete the model and add it again").Because(err),
		}, nil
	}
	return h, c.trust.check(h, rec.Digest, rec.SignatureText), nil
}

// checked records the result of a check.
func (c *Catalog) checked(ctx context.Context, e *entry, j *job, h hashed, f finding, failed error) (changed Model) {
	c.change.Lock()
	defer c.change.Unlock()
	c.mu.Lock()
	deleting := e.deleting
	rec := *e.rec // read again: its state may have changed meanwhile
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		e.job = nil
	}()
	switch {
	case deleting:
		j.err = task.Errorf(task.Conflict, "model %s is being deleted", rec.ID)
		return changed
	case ctx.Err() != nil:
		j.err = closing()
		return changed
	case failed != nil: // it panicked
		j.err = failed
		return changed
	}
	c.count(f, rec.Metadata)
	rec.Verified, rec.VerifiedAt, rec.Warnings, rec.Problem = f.problem == nil, c.o.Now().UTC(), f.warnings, nil
	if f.signature != SignatureUnchecked {
		rec.Signature = f.signature
	}
	found := Verification{
		ModelID: rec.ID, Digest: h.digest, Verified: rec.Verified, Signature: rec.Signature, Warnings: f.warnings, VerifiedAt: rec.VerifiedAt,
	}
	if f.problem != nil {
		rec.Problem = &Problem{Code: f.problem.Code, Message: f.problem.Message}
		found.Warnings = append(found.Warnings, f.problem.Message)
		c.log.Error("a model is not what it should be, and is not used", zap.String("model_id", rec.ID), zap.Error(f.problem))
	} else {
		rec.Files = h.files
	}
	changed, err := c.store(e, &rec)
	if err != nil {
		j.err = err
		return changed
	}
	j.found, j.checked = found, true
	return changed
}

// InUse is a model that a pool has, or is about to load.
type InUse struct {
	Model
	Marks   []safefile.Mark // what its files looked like when their digest was last checked
	Release func()          // may be called more than once
}

// Use returns a model for a pool to load. Until the pool calls Release, the model cannot be deleted. If somebody has written to the model's
// files since they were hashed, or has put others in their place, they are checked first (LO-808). Errors: MODEL_NOT_FOUND;
// UNTRUSTED_ARTIFACT; POOL_UNREADY while the model is fetched; and the error of a failed fetch.
func (c *Catalog) Use(ctx context.Context, id string) (u InUse, err error) {
	var files []File
	if u.Model, files, u.Release, err = c.hold(id); err != nil {
		return InUse{}, err
	}
	release := u.Release
	defer func() {
		if err != nil {
			release()
			u = InUse{}
		}
	}()
	for checked := false; ; checked = true {
		if u.Marks, err = c.marks(ctx, u.Model, files); err != nil {
			return u, fmt.Errorf("look at a model's files: %w", err)
		}
		if u.Verified && u.Marks != nil {
			return u, nil
		}
		if checked {
			return u, unusable(u.Model)
		}
		if _, err = c.Verify(ctx, id); err != nil {
			return u, err
		}
		c.mu.RLock()
		e, err := c.entry(id)
		if err == nil {
			u.Model, files = c.model(e), e.rec.Files
		}
		c.mu.RUnlock()
		if err != nil {
			return u, err
		}
	}
}

// marks looks at the files of a model. It returns nothing if they are not those that were hashed.
func (c *Catalog) marks(ctx context.Context, m Model, files []File) ([]safefile.Mark, error) {
	return safefile.Wait(ctx, func(context.Context) ([]safefile.Mark, error) {
		if len(files) == 0 {
			return nil, nil
		}
		marks, _ := unchanged(m.dir(), files)
		return marks, nil
	})
}

func unusable(m Model) error {
	if m.Problem != nil {
		return m.Problem.Typed()
	}
	return task.Errorf(task.PoolUnready, "the files of model %s change while they are checked: wait until nobody writes to them", m.ID).Retry(time.Second)
}
