// SPDX-License-Identifier: GPL-3.0-or-later

package pool

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/gguf"
	"github.com/llama-orch/llama-orch/service/safefile"
	"github.com/llama-orch/llama-orch/service/task"
)

// Models finds models that are not simply files of the configuration: they are fetched, or the catalog looks after them.
type Models interface {
	// Use waits until a model's file is there, and fetches it if need be. Nobody deletes the file before Held.Release. Known is false for
	// a model that Models does not look after: the caller opens its path as it is. While Use fetches, it calls progress with bytes.
	Use(ctx context.Context, ref, digest string, progress func(done, total int64)) (held Held, known bool, err error)
	// Path is where a model's file is, if that is known without waiting; else empty.
	Path(ref string) string
	// Retired reports whether new tasks for a model are refused.
	Retired(ref string) bool
}

// Held is a model in use.
type Held struct {
	Path    string          // of its file, or of the first of its parts
	Digest  string          // "sha256:<hex>", of all of its bytes
	Size    int64           // of all of its files
	Marks   []safefile.Mark // what its files looked like when they had that digest
	Release func()          // nil: nobody keeps it
}

// noModels looks after no model.
type noModels struct{}

func (noModels) Use(context.Context, string, string, func(done, total int64)) (Held, bool, error) {
	return Held{}, false, nil
}

func (noModels) Path(string) string { return "" }

func (noModels) Retired(string) bool { return false }

// model waits for the replica's model, checks it, and holds it for the worker.
func (r *replica) model(w *worker, log *zap.Logger) (Held, error) {
	spec, began := r.spec, false
	if r.kind.Start.Files != nil { // its folder stays where it is, and the catalog does not look after it
		return r.m.file(w.ctx, spec)
	}
	if spec.NoModel {
		return Held{}, nil
	}
	held, known, err := r.m.opts.Models.Use(w.ctx, spec.ModelRef, spec.ModelDigest, func(done, total int64) {
		if !began {
			log.Info("waiting for the model to be fetched", zap.String("model_ref", shownRef(spec.ModelRef)))
			began = true
		}
		r.change(func(i *Info) { i.FetchedBytes, i.FetchTotal = done, total })
	})
	if began {
		r.change(func(i *Info) { i.FetchedBytes, i.FetchTotal = 0, 0 })
		w.born = r.m.now() // the time of a fetch does not count as load time
	}
	if err != nil {
		if w.ctx.Err() != nil {
			return held, context.Cause(w.ctx)
		}
		typed := *task.AsError(err)
		typed.Engine, typed.PoolID = spec.Engine, spec.ID
		return held, &loss{reason: refused, fixed: !typed.Retriable, err: &typed}
	}
	if known {
		w.held = held
		return held, nil
	}
	if spec.ModelPath == "" {
		return held, &loss{reason: refused, fixed: true, err: task.Errorf(task.ModelNotFound, "nobody here fetches the model %q", shownRef(spec.ModelRef))}
	}
	return r.m.file(w.ctx, spec)
}

// file checks the model of a spec that is simply a file, or one of several parts.
func (m *Manager) file(ctx context.Context, spec Spec) (Held, error) {
	kind, err := m.opts.kind(spec.Engine)
	if err != nil {
		return Held{}, err
	}
	folder := kind.Start.Files != nil
	parts, err := safefile.Wait(ctx, func(context.Context) ([]string, error) { return files(kind, spec.ModelPath) })
	if ctx.Err() != nil {
		return Held{}, context.Cause(ctx)
	}
	if err != nil && folder {
		return Held{}, fixable(err.Error(), spec.ModelPath, nil)
	}
	if missing, ok := errors.AsType[*gguf.MissingError](err); ok && missing.Of > 1 {
		return Held{}, fixable(missing.Error()+": put what is missing there, or correct `model.ref`", spec.ModelPath, missing.Err)
	}
	if err != nil {
		return Held{}, fixable(unreadable, spec.ModelPath, errors.Unwrap(err))
	}
	sum, err := m.digests.of(ctx, parts...)
	if err != nil {
		return Held{}, fmt.Errorf("compute the model's digest: %w", err)
	}
	if sum.Size == 0 {
		return Held{}, fixable("the model's file is empty: fetch it again, or correct `model.ref`", spec.ModelPath, nil)
	}
	digest := sum.Digest
	if spec.ModelDigest != "" && !strings.EqualFold(spec.ModelDigest, digest) {
		untrusted := task.Errorf(task.UntrustedArtifact, "the model's file has the digest %s, and %s is expected: fetch the file again, or correct the digest",
			digest, spec.ModelDigest)
		untrusted.Engine, untrusted.PoolID = spec.Engine, spec.ID
		return Held{}, &loss{reason: refused, fixed: true, err: untrusted}
	}
	path := parts[0]
	if folder {
		path = spec.ModelPath
	}
	return Held{Path: path, Digest: digest, Size: sum.Size, Marks: sum.Marks}, nil
}

// files are those of the model at a path.
func files(kind engine.Kind, path string) ([]string, error) {
	if kind.Start.Files != nil {
		return kind.Start.Files(path)
	}
	return gguf.Find(path)
}

// checkModel says why a model cannot be used, before a reload touches anything. It waits while the model is fetched.
func (m *Manager) checkModel(ctx context.Context, spec Spec) *task.Error {
	if spec.Mode == External {
		return task.Errorf(task.InvalidParams, "the engines of pool '%s' run elsewhere and load their own models: reload them there", spec.ID)
	}
	if m.fromFolder(spec) {
		return m.unusable(ctx, spec)
	}
	held, known, err := m.opts.Models.Use(ctx, spec.ModelRef, spec.ModelDigest, func(int64, int64) {})
	if err != nil {
		refusal := *task.AsError(err)
		return &refusal
	}
	if known {
		held.Release()
		return nil
	}
	return m.unusable(ctx, spec)
}

// fromFolder reports whether the model of a spec is a folder.
func (m *Manager) fromFolder(spec Spec) bool {
	kind, err := m.opts.kind(spec.Engine)
	return err == nil && kind.Start != nil && kind.Start.Files != nil
}

// unusable says why the model of a spec that is simply there cannot be used; nil: it can.
func (m *Manager) unusable(ctx context.Context, spec Spec) *task.Error {
	_, err := m.file(ctx, spec)
	if err == nil {
		return nil
	}
	if typed, ok := errors.AsType[*task.Error](err); ok {
		return typed
	}
	if why, ok := errors.AsType[*loss](err); ok && m.fromFolder(spec) { // its kind knows what the folder lacks
		return task.Errorf(task.ModelNotFound, "%s", why.Error())
	}
	return task.Errorf(task.ModelNotFound, "there is no model file for %q that can be read: fetch it, or correct the reference or its permissions",
		shownRef(spec.ModelRef)).Because(err)
}

// shownRef is a ref without its query, which may hold credentials.
func shownRef(ref string) string {
	if strings.HasPrefix(ref, "https:") {
		ref, _, _ = strings.Cut(ref, "?")
	}
	return ref
}
