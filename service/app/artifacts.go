// SPDX-License-Identifier: GPL-3.0-or-later

package app

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/front/api"
	"github.com/llama-orch/llama-orch/service/record/artifact"
	"github.com/llama-orch/llama-orch/service/record/ledger/sqlite"
	"github.com/llama-orch/llama-orch/service/task"
)

// bundlesBehind bounds how many tasks of the run before are looked at for a bundle that they did not get.
const bundlesBehind = 1024

// openArtifacts opens the store and what writes proof bundles to it.
func (a *App) openArtifacts() (err error) {
	c := a.o.Config.Artifacts
	a.artifacts, err = artifact.Open(artifact.Options{
		Dir: filepath.Join(a.o.Config.DataDir, "artifacts"), MaxBytes: int64(c.MaxBytes), RetainAge: c.RetainAge, RetainBytes: int64(c.RetainBytes),
		Log: a.o.Log, Registerer: a.registry, Now: time.Now,
	})
	if err != nil {
		return fmt.Errorf("open the artifacts: %w", err)
	}
	a.cleanup.push("close the artifacts", func(context.Context) error { return a.artifacts.Close() })
	a.proofs, err = artifact.NewSink(artifact.SinkOptions{
		Store: a.artifacts, KeepPrompts: c.KeepPrompts, KeepTranscripts: c.KeepTranscripts, Log: a.o.Log, Registerer: a.registry,
	})
	if err != nil {
		return fmt.Errorf("prepare the proof bundles: %w", err)
	}
	a.cleanup.push("write the last proof bundles", func(ctx context.Context) error { a.proofs.Close(ctx); return nil })
	return nil
}

// proving is the ledger, and has a bundle written of each task that ended there (OC-CTRL-2067).
type proving struct {
	*sqlite.Ledger
	proofs *artifact.Sink
}

// Finish implements scheduler.Ledger.
func (p proving) Finish(ctx context.Context, r task.Record) error {
	err := p.Ledger.Finish(ctx, r)
	if err == nil {
		p.proofs.Finished(r)
	}
	return err
}

// catchUp hands over the tasks that ended when the process before had no time left to write their bundles: the newest ones.
func (a *App) catchUp(ctx context.Context) {
	ended, err := a.ledger.List(ctx, "", bundlesBehind)
	if err != nil {
		a.log.Warn("nobody knows which proof bundles a crash left unwritten", zap.Error(err))
		return
	}
	for _, r := range ended {
		if len(a.artifacts.List(artifact.Filter{Kind: artifact.KindProof, TaskID: r.Task.ID, Limit: 1})) > 0 {
			return
		}
		a.proofs.Finished(r)
	}
}

// artifacts shows the store to the API.
type artifacts struct{ store *artifact.Store }

func (a artifacts) Put(ctx context.Context, v api.ArtifactView, r io.Reader) (api.ArtifactView, error) {
	e, err := a.store.Put(ctx, artifact.Meta{
		Kind: artifact.Kind(v.Kind), MediaType: v.MediaType, TaskID: v.TaskID, Parent: v.Parent, Tags: v.Tags, Metadata: v.Metadata,
	}, r)
	return artifactView(e), err
}

func (a artifacts) Get(id string) (api.ArtifactView, error) {
	e, err := a.store.Get(id)
	return artifactView(e), err
}

func (a artifacts) List(f api.ArtifactFilter) []api.ArtifactView {
	list := a.store.List(artifact.Filter{Kind: artifact.Kind(f.Kind), TaskID: f.TaskID, Tag: f.Tag, Limit: f.Limit})
	out := make([]api.ArtifactView, len(list))
	for i, e := range list {
		out[i] = artifactView(e)
	}
	return out
}

func (a artifacts) Open(id string) (api.ArtifactView, io.ReadSeekCloser, error) {
	e, r, err := a.store.Open(id)
	return artifactView(e), r, err
}

func artifactView(e artifact.Entry) api.ArtifactView {
	return api.ArtifactView{
		ID: e.ID, Kind: string(e.Kind), MediaType: e.MediaType, TaskID: e.TaskID, Parent: e.Parent, Tags: e.Tags, Metadata: e.Metadata,
		Size: e.Size, CreatedAt: e.CreatedAt,
	}
}
