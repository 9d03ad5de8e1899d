// SPDX-License-Identifier: GPL-3.0-or-later

package pool

import (
	"cmp"
	"context"
	"io/fs"
	"os"
	"time"

	"github.com/llama-orch/llama-orch/service/contain"
	"github.com/llama-orch/llama-orch/service/safefile"
)

// lookEvery is how often an on-demand pool that is not loaded looks whether its model's file is there.
const lookEvery = 10 * time.Second

// unreadable says what to do about a model's file.
const unreadable = "the model's file cannot be read: put it there, or correct `model.ref`"

// rest waits until something else is desired. An on-demand pool looks meanwhile whether its model's file is there: its next task relies on
// that, and nobody else would notice before (LO-840).
func (r *replica) rest(changed <-chan struct{}) {
	for {
		due, stop := (<-chan time.Time)(nil), func() {}
		if r.spec.OnDemand && r.index == 0 {
			r.look(changed)
			due, stop = r.m.opts.Clock.Until(r.m.now().Add(lookEvery))
		}
		select {
		case <-due:
			continue
		case <-changed:
		case <-r.m.run.Done():
		}
		stop()
		return
	}
}

// look shows whether the model's file is missing. It gives up as soon as something else is desired, because storage may be slow.
func (r *replica) look(changed <-chan struct{}) {
	ctx, stop := context.WithCancel(r.m.run)
	defer stop()
	type answer struct {
		missing string
		err     error // it panicked
	}
	found := make(chan answer, 1)
	go func() {
		missing, err := contain.Try(func() (string, error) { return r.m.missing(ctx, r.spec), nil })
		found <- answer{missing, err}
	}()
	select {
	case a := <-found:
		if a.err != nil {
			panic(a.err) // the supervisor tells of it
		}
		missing := a.missing
		if missing != r.shown.Load().Missing {
			r.change(func(i *Info) { i.Missing = missing })
			r.m.opts.OnChange(r.spec.ID)
		}
	case <-changed:
		stop()
		<-found // it ends with ctx
	}
}

// missing says what is wrong with the place where a model's file should be. It is empty where nothing is, and where nobody knows the place yet.
func (m *Manager) missing(ctx context.Context, spec Spec) string {
	path := cmp.Or(m.opts.Models.Path(spec.ModelRef), spec.ModelPath)
	if spec.Mode == External || path == "" {
		return ""
	}
	stat, err := safefile.Wait(ctx, func(context.Context) (fs.FileInfo, error) { return os.Stat(path) })
	kind, _ := m.opts.kind(spec.Engine) // the spec was checked
	folder := kind.Start != nil && kind.Start.Files != nil
	if ctx.Err() != nil || err == nil && (stat.Mode().IsRegular() && !folder || stat.IsDir() && folder) {
		return ""
	}
	return fixable(unreadable, path, err).Error()
}
