// SPDX-License-Identifier: GPL-3.0-or-later

package app

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/llama-orch/llama-orch/service/front/api"
	"github.com/llama-orch/llama-orch/service/record/artifact"
)

// openArtifacts opens the store of artifacts.
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
	return nil
}

// artifacts shows the library to the API.
type artifacts struct{ library *artifact.Library }

func (a artifacts) Put(ctx context.Context, v api.ArtifactView, r io.Reader) (api.ArtifactView, error) {
	e, err := a.library.Put(ctx, artifact.Meta{
		Kind: artifact.Kind(v.Kind), MediaType: v.MediaType, TaskID: v.TaskID, Parent: v.Parent, Tags: v.Tags, Metadata: v.Metadata,
	}, r)
	return artifactView(e), err
}

func (a artifacts) Get(ctx context.Context, id string) (api.ArtifactView, error) {
	e, err := a.library.Get(ctx, id)
	return artifactView(e), err
}

func (a artifacts) List(ctx context.Context, f api.ArtifactFilter) ([]api.ArtifactView, error) {
	list, err := a.library.List(ctx, artifact.Filter{Kind: artifact.Kind(f.Kind), TaskID: f.TaskID, Tag: f.Tag, Limit: f.Limit})
	if err != nil {
		return nil, err
	}
	out := make([]api.ArtifactView, len(list))
	for i, e := range list {
		out[i] = artifactView(e)
	}
	return out, nil
}

func (a artifacts) Open(ctx context.Context, id string) (api.ArtifactView, io.ReadSeekCloser, error) {
	e, r, err := a.library.Open(ctx, id)
	return artifactView(e), r, err
}

func artifactView(e artifact.Entry) api.ArtifactView {
	return api.ArtifactView{
		ID: e.ID, Kind: string(e.Kind), MediaType: e.MediaType, TaskID: e.TaskID, Parent: e.Parent, Tags: e.Tags, Metadata: e.Metadata,
		Size: e.Size, CreatedAt: e.CreatedAt,
	}
}
