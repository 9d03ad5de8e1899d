// SPDX-License-Identifier: GPL-3.0-or-later

package app

import (
	"context"
	"time"

	"github.com/llama-orch/llama-orch/service/api"
	"github.com/llama-orch/llama-orch/service/catalog"
	"github.com/llama-orch/llama-orch/service/fetch"
)

// fetcher is catalog.Fetcher over fetch.Fetcher.
type fetcher struct {
	*fetch.Fetcher
	parse func(ref string) (fetch.Ref, error)
}

// Fetch is catalog.Fetcher's.
func (f fetcher) Fetch(ctx context.Context, ref, into, digest string, progress func(done, total int64)) (string, int64, string, error) {
	r, err := f.parse(ref)
	if err != nil {
		return "", 0, "", err
	}
	file, err := f.Fetcher.Fetch(ctx, r, into, fetch.Options{Digest: digest, Progress: progress})
	return file.Path, file.Size, file.Digest, err
}

// shelf is api.Catalog over catalog.Catalog.
type shelf struct{ *catalog.Catalog }

func (s shelf) AddModel(ctx context.Context, a api.ModelAddition) (api.CatalogModel, error) {
	m, err := s.Create(ctx, catalog.Request(a))
	return toModel(m), err
}

func (s shelf) Models(state string) []api.CatalogModel {
	list := s.List(catalog.State(state))
	out := make([]api.CatalogModel, len(list))
	for i, m := range list {
		out[i] = toModel(m)
	}
	return out
}

func (s shelf) Model(id string) (api.CatalogModel, error) {
	m, err := s.Get(id)
	return toModel(m), err
}

func (s shelf) DeleteModel(ctx context.Context, id string) error { return s.Delete(ctx, id) }

func (s shelf) VerifyModel(ctx context.Context, id string) (api.VerificationView, error) {
	v, err := s.Verify(ctx, id)
	return api.VerificationView{
		ModelID: v.ModelID, Digest: v.Digest, Verified: v.Verified, Signature: string(v.Signature), Warnings: v.Warnings, VerifiedAt: v.VerifiedAt,
	}, err
}

func (s shelf) SetModelState(_ context.Context, id, state string, deadline time.Duration) (api.CatalogModel, error) {
	m, err := s.SetState(id, catalog.State(state), deadline)
	return toModel(m), err
}

func (s shelf) Engines() []api.EngineView {
	list := s.Catalog.Engines()
	out := make([]api.EngineView, len(list))
	for i, e := range list {
		out[i] = api.EngineView(e)
	}
	return out
}

func toModel(m catalog.Model) api.CatalogModel {
	out := api.CatalogModel{
		ID: m.ID, Ref: m.Ref, Digest: m.Digest, Verified: m.Verified, State: string(m.State), Size: m.Size, Signature: string(m.Signature),
		Warnings: m.Warnings, SBOM: m.SBOM, DrainBy: m.DrainBy, CreatedAt: m.CreatedAt, VerifiedAt: m.VerifiedAt,
	}
	if m.Metadata != nil {
		meta := api.ModelMetadata(*m.Metadata)
		out.Metadata = &meta
	}
	if m.Progress != nil {
		out.Progress = &api.FetchProgress{Done: m.Progress.Done, Total: m.Progress.Total}
	}
	if m.Problem != nil {
		out.Problem = m.Problem.Typed()
	}
	return out
}
