// SPDX-License-Identifier: GPL-3.0-or-later

package pool

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/safefile"
	"github.com/llama-orch/llama-orch/service/task"
)

// lookWithin bounds a look at files, since a disk or a share may not answer.
const lookWithin = 5 * time.Second

// codeTries is how often the list of what a worker runs may change while it is hashed.
const codeTries = 3

// seal finds out what the worker runs, now that it has loaded all of it (LO-809), and whether its files are still those that were hashed.
func (r *replica) seal(w *worker, p *plan, log *zap.Logger) error {
	if w.proc != nil && p.container == nil {
		if err := r.sealCode(w, p, log); err != nil {
			return err
		}
	}
	if why := w.look(w.ctx); why != nil {
		return why
	}
	return nil
}

func (r *replica) sealCode(w *worker, p *plan, log *zap.Logger) error {
	unknown := rand.Text() // it makes the fingerprint one that no other worker has
	var files []string
	for range codeTries {
		now, err := w.proc.Code()
		if err != nil {
			log.Warn("the libraries that the worker has loaded are not known, so the fingerprint has its program alone", zap.Error(err))
			now = nil
		}
		now = append(now, p.exe) // it may be a script
		if files != nil && slices.Equal(files, now) {
			return nil
		}
		files = now
		if p.facts.EngineDigest, w.code, err = r.m.digests.code(w.ctx, files, unknown); err != nil {
			return fmt.Errorf("compute the digest of the worker's program and libraries: %w", err)
		}
	}
	return &loss{reason: filesChanged, detail: "the worker's program or libraries change while it starts: it is started again"}
}

// look says why the bytes of the worker are not those of its fingerprint any more: somebody has written to its model's files, or has put others in
// their place; or has written to a program or library that it runs (LO-808). It returns nil if nothing has changed, or if ctx ends.
func (w *worker) look(ctx context.Context) *loss {
	if len(w.marks)+len(w.code) == 0 {
		return nil
	}
	bounded, stop := context.WithTimeoutCause(ctx, lookWithin, fmt.Errorf("no answer within %s", lookWithin))
	defer stop()
	overwritten, err := safefile.Wait(bounded, func(context.Context) (string, error) {
		if err := differs(w.marks); err != nil {
			return "", err
		}
		for _, m := range w.code {
			if m.Overwritten() {
				return m.Path, nil
			}
		}
		return "", nil
	})
	switch {
	case ctx.Err() != nil:
	case err != nil:
		return &loss{reason: filesChanged, detail: "the model's files are not those any more that were hashed, and are loaded anew", err: err}
	case overwritten != "":
		return &loss{reason: filesChanged, detail: "a program or library was overwritten while the worker ran it, so the worker is started again", err: errors.New(overwritten)}
	}
	return nil
}

// Intact returns nil if the files of the worker are still those of its fingerprint. Else the worker is lost, and so is what it has generated: the
// error is a WORKER_RESET (LO-808). It also returns nil when ctx ends.
func (l *Lease) Intact(ctx context.Context) error {
	why, _ := errors.AsType[*loss](context.Cause(l.w.ctx))
	if why == nil || why.reason != filesChanged {
		if why = l.w.look(ctx); why == nil {
			return nil
		}
		l.w.lose(why)
	}
	err := task.Errorf(task.WorkerReset, "the files of the model or of its engine changed while the task ran, so its answer has no receipt: send the task again")
	err.Engine, err.PoolID = l.r.spec.Engine, l.r.spec.ID
	return err.Retry(0).Because(why)
}
