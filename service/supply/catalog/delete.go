// SPDX-License-Identifier: GPL-3.0-or-later

package catalog

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/task"
)

// hold counts one more user of a model.
func (c *Catalog) hold(id string) (m Model, files []File, release func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.byID[id]
	switch {
	case e == nil:
		return m, nil, nil, task.Errorf(task.ModelNotFound, "the catalog has no model %q: add it first", task.Clip(id, 128))
	case e.deleting:
		return m, nil, nil, task.Errorf(task.ModelNotFound, "model %s is being deleted", id)
	case e.rec.State == Fetching:
		return m, nil, nil, task.Errorf(task.PoolUnready, "model %s is being fetched", id).Retry(time.Second)
	case e.rec.State == Failed:
		return m, nil, nil, e.rec.Problem.Typed()
	case e.rec.absent():
		return m, nil, nil, task.Errorf(task.ModelDeprecated, "model %s is retired, and its files are not there: activate it, which fetches them", id)
	}
	e.holds++
	return c.model(e), e.rec.Files, sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		e.holds--
	}), nil
}

// dir is the folder in which a model's files have their names.
func (m Model) dir() string {
	if at, err := os.Stat(m.Path); err == nil && at.IsDir() {
		return m.Path
	}
	return filepath.Dir(m.Path)
}

// Delete removes a model and what was fetched of it (ORCH-3062), but never the file that a `file:` ref names. It gives up a fetch or a check
// of the model. The deletion goes on when ctx ends. Errors: NOT_FOUND; CONFLICT for a model in use.
func (c *Catalog) Delete(ctx context.Context, id string) error {
	e, err := c.claim(id)
	if err != nil {
		return err
	}
	over := make(chan error, 1)
	c.mu.Lock()
	if c.closed {
		e.deleting = false
		c.mu.Unlock()
		return closing()
	}
	c.jobs.Go(func() { over <- c.guard(id, func() error { return c.finish(id, e) }) })
	c.mu.Unlock()
	select {
	case err := <-over:
		return err
	case <-ctx.Done():
		return fmt.Errorf("delete a model: %w", ctx.Err())
	}
}

// finish deletes an entry that claim has marked.
func (c *Catalog) finish(id string, e *entry) error {
	c.mu.RLock()
	j := e.job
	c.mu.RUnlock()
	if j != nil {
		j.cancel()
		<-j.over
	}
	c.change.Lock()
	defer c.change.Unlock()
	rec := *e.rec
	rec.Deleting = true // after a crash from here on, the next start finishes the deletion
	err := c.guard(id, func() error {
		err := c.disk.write(recordName(id), &rec)
		if err == nil {
			err = c.erase(id)
		}
		return err
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		e.deleting = false
		return notWritten(err)
	}
	c.drop(e)
	c.log.Info("a model was deleted", zap.String("model_id", id))
	return nil
}

// claim marks an entry that nobody uses, so that nobody begins to use it.
func (c *Catalog) claim(id string) (*entry, error) {
	c.change.Lock()
	defer c.change.Unlock()
	c.mu.Lock()
	e, err := c.entry(id)
	switch {
	case err != nil:
	case c.closed:
		err = closing()
	case e.deleting:
		err = task.Errorf(task.Conflict, "model %s is being deleted", id)
	case e.holds > 0:
		err = inUse(id)
	}
	if err != nil {
		c.mu.Unlock()
		return nil, err
	}
	e.deleting = true
	c.mu.Unlock()
	if !c.o.InUse(id) {
		return e, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	e.deleting = false
	return nil, inUse(id)
}

func inUse(id string) error {
	return task.Errorf(task.Conflict, "a pool uses model %s, or is loading it: retire the model, or take it out of the pool first", id)
}
