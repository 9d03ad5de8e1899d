// SPDX-License-Identifier: GPL-3.0-or-later

package fronts

import (
	"context"
	"io"

	"github.com/llama-orch/llama-orch/service/front/api"
	"github.com/llama-orch/llama-orch/service/record/artifact"
)

// Artifacts shows the library to the API.
type Artifacts struct{ Library *artifact.Library }

func (a Artifacts) Put(ctx context.Context, v api.ArtifactView, r io.Reader) (api.ArtifactView, error) {
	e, err := a.Library.Put(ctx, artifact.Meta{
		Kind: artifact.Kind(v.Kind), MediaType: v.MediaType, TaskID: v.TaskID, Parent: v.Parent, Tags: v.Tags, Metadata: v.Metadata,
	}, r)
	return artifactView(e), err
}

func (a Artifacts) Get(ctx context.Context, id string) (api.ArtifactView, error) {
	e, err := a.Library.Get(ctx, id)
	return artifactView(e), err
}

func (a Artifacts) List(ctx context.Context, f api.ArtifactFilter) ([]api.ArtifactView, error) {
	list, err := a.Library.List(ctx, artifact.Filter{Kind: artifact.Kind(f.Kind), TaskID: f.TaskID, Tag: f.Tag, Limit: f.Limit})
	if err != nil {
		return nil, err
	}
	out := make([]api.ArtifactView, len(list))
	for i, e := range list {
		out[i] = artifactView(e)
	}
	return out, nil
}

func (a Artifacts) Open(ctx context.Context, id string) (api.ArtifactView, io.ReadSeekCloser, error) {
	e, r, err := a.Library.Open(ctx, id)
	return artifactView(e), r, err
}

func artifactView(e artifact.Entry) api.ArtifactView {
	return api.ArtifactView{
		ID: e.ID, Kind: string(e.Kind), MediaType: e.MediaType, TaskID: e.TaskID, Parent: e.Parent, Tags: e.Tags, Metadata: e.Metadata,
		Size: e.Size, CreatedAt: e.CreatedAt,
	}
}
