// SPDX-License-Identifier: GPL-3.0-or-later

package api

import (
	"context"
	"time"

	"github.com/llama-orch/llama-orch/gen"
	"github.com/llama-orch/llama-orch/service/task"
)

// Catalog is what the API does with the models and engines on local disk (ORCH-3060, OC-CAT-56). Errors are *task.Error.
type Catalog interface {
	// AddModel waits for the model as long as the addition says. If that is not long enough, the model is Fetching when it returns. A
	// repeated addition joins the first. INVALID_PARAMS, UNTRUSTED_ARTIFACT, POLICY_DENIED, CONFLICT.
	AddModel(ctx context.Context, a ModelAddition) (CatalogModel, error)
	// Models lists by id; an empty state means all.
	Models(state string) []CatalogModel
	Model(id string) (CatalogModel, error)            // NOT_FOUND
	DeleteModel(ctx context.Context, id string) error // NOT_FOUND, CONFLICT for one in use
	// VerifyModel returns once all bytes are read. NOT_FOUND, CONFLICT for one that is not there yet.
	VerifyModel(ctx context.Context, id string) (VerificationView, error)
	// SetModelState activates or retires. NOT_FOUND, CONFLICT for one that is not there yet.
	SetModelState(ctx context.Context, id, state string, deadline time.Duration) (CatalogModel, error)
	Engines() []EngineView
}

// ModelAddition asks for a model. Only Ref is needed.
type ModelAddition struct {
	ID, Ref, Digest, Signature, SBOM string
	Wait                             time.Duration
}

// CatalogModel is an entry as clients see it. State and Signature are the contract's.
type CatalogModel struct {
	ID, Ref, Digest       string
	Verified              bool
	State                 string
	Size                  int64 // bytes
	Signature             string
	Warnings              []string
	SBOM                  string
	Metadata              *ModelMetadata // nil: not known
	Progress              *FetchProgress // nil: it is not being fetched
	Problem               *task.Error    // nil: there is none
	DrainBy               time.Time      // zero: it is not retired
	CreatedAt, VerifiedAt time.Time
}

// ModelMetadata is what a model's file says of itself.
type ModelMetadata struct {
	Format, Architecture, Name string
	Parameters                 int64
	Quantisation               string
	CtxMax                     int // tokens; 0: it does not say
	Features                   []string
}

// FetchProgress is in bytes. Total is 0 until it is known.
type FetchProgress struct{ Done, Total int64 }

// VerificationView is what a check of a model's bytes found.
type VerificationView struct {
	ModelID, Digest string
	Verified        bool
	Signature       string
	Warnings        []string
	VerifiedAt      time.Time
}

// EngineView is an engine that was prepared.
type EngineView struct {
	Engine, Version, Mode, BuildRef, Digest string
	Flags                                   []string
	Path                                    string
	PreparedAt                              time.Time
}

// What the contract allows of the catalog.
const (
	maxRef      = 2048
	maxModels   = 10_000
	maxWarnings = 64
	maxFeatures = 16
	maxEngines  = 1024
	maxFlags    = 256
	maxFlag     = 512
	maxPath     = 4096
	maxMeta     = 256
	maxWarning  = 1024
)

// CreateModel adds a model. It may take longer to answer than other operations: it waits as long as the client asks, and it hashes
// the model.
func (h catalog) CreateModel(ctx context.Context, r *gen.ModelRequest) (*gen.ModelHeaders, error) {
	v, err := h.Catalog.AddModel(ctx, ModelAddition{
		ID: string(r.ID.Or("")), Ref: r.Ref, Digest: r.Digest.Or(""), Signature: r.Signature.Or(""), SBOM: r.Sbom.Or(""),
		Wait: time.Duration(r.WaitMs.Or(0)) * time.Millisecond,
	})
	if err != nil {
		return nil, err
	}
	return &gen.ModelHeaders{Location: "/v1/catalog/models/" + v.ID, Response: toCatalogModel(v)}, nil
}

// ListModels lists the catalog.
func (h catalog) ListModels(_ context.Context, p gen.ListModelsParams) (*gen.ModelListHeaders, error) {
	list := h.Catalog.Models(string(p.State.Or("")))
	out := gen.ModelList{Models: make([]gen.Model, min(len(list), maxModels))}
	for i := range out.Models {
		out.Models[i] = toCatalogModel(list[i])
	}
	return &gen.ModelListHeaders{Response: out}, nil
}

// GetModel shows one model.
func (h catalog) GetModel(_ context.Context, p gen.GetModelParams) (*gen.GetModelOKHeaders, error) {
	v, err := h.Catalog.Model(string(p.ID))
	if err != nil {
		return nil, err
	}
	return &gen.GetModelOKHeaders{Response: toCatalogModel(v)}, nil
}

// DeleteModel removes a model and what was fetched of it.
func (h catalog) DeleteModel(ctx context.Context, p gen.DeleteModelParams) (*gen.Done, error) {
	err := h.Catalog.DeleteModel(ctx, string(p.ID))
	if err != nil {
		return nil, err
	}
	return &gen.Done{}, nil
}

// VerifyModel reads all of a model's bytes.
func (h catalog) VerifyModel(ctx context.Context, p gen.VerifyModelParams) (*gen.VerificationHeaders, error) {
	v, err := h.Catalog.VerifyModel(ctx, string(p.ID))
	if err != nil {
		return nil, err
	}
	return &gen.VerificationHeaders{Response: gen.Verification{
		ModelID: gen.ModelID(v.ModelID), Digest: task.Clip(v.Digest, maxName), Verified: v.Verified, Signature: gen.SignatureState(v.Signature),
		Warnings: toWarnings(v.Warnings), VerifiedAt: v.VerifiedAt.UTC(),
	}}, nil
}

// SetModelState activates or retires a model.
func (h catalog) SetModelState(ctx context.Context, r *gen.ModelStateRequest, p gen.SetModelStateParams) (*gen.GetModelOKHeaders, error) {
	v, err := h.Catalog.SetModelState(ctx, string(p.ID), string(r.State), time.Duration(r.DeadlineMs.Or(0))*time.Millisecond)
	if err != nil {
		return nil, err
	}
	return &gen.GetModelOKHeaders{Response: toCatalogModel(v)}, nil
}

// ListEngines lists what was prepared.
func (h catalog) ListEngines(context.Context) (*gen.EngineListHeaders, error) {
	list := h.Catalog.Engines()
	list = list[max(len(list)-maxEngines, 0):]
	out := gen.EngineList{Engines: make([]gen.PreparedEngine, len(list))}
	for i, e := range list {
		out.Engines[i] = gen.PreparedEngine{
			Engine: task.Clip(e.Engine, maxShort), Version: task.Clip(e.Version, maxName), Mode: gen.PreparedEngineMode(e.Mode), BuildRef: task.Clip(e.BuildRef, maxFlag),
			Digest: task.Clip(e.Digest, maxName), Flags: clipAll(e.Flags[:min(len(e.Flags), maxFlags)], maxFlag), Path: task.Clip(e.Path, maxPath), PreparedAt: e.PreparedAt.UTC(),
		}
	}
	return &gen.EngineListHeaders{Response: out}, nil
}

func toWarnings(list []string) []string {
	return clipAll(list[:min(len(list), maxWarnings)], maxWarning)
}

func toCatalogModel(v CatalogModel) gen.Model {
	out := gen.Model{
		ID: gen.ModelID(v.ID), Ref: task.Clip(v.Ref, maxRef), Digest: task.Clip(v.Digest, maxName), Verified: v.Verified, State: gen.ModelState(v.State),
		SizeBytes: max(v.Size, 0), Signature: gen.SignatureState(v.Signature), Warnings: toWarnings(v.Warnings), Sbom: optString(task.Clip(v.SBOM, maxRef)),
		DrainBy: optTime(v.DrainBy), CreatedAt: v.CreatedAt.UTC(), VerifiedAt: optTime(v.VerifiedAt),
	}
	if m := v.Metadata; m != nil {
		meta := gen.ModelMetadata{
			Format: gen.ModelMetadataFormat(m.Format), Architecture: task.Clip(m.Architecture, maxShort), Name: optString(task.Clip(m.Name, maxMeta)),
			Parameters: max(m.Parameters, 0), Quantisation: task.Clip(m.Quantisation, maxShort), CtxMax: max(m.CtxMax, 0),
			Features: make([]gen.ModelMetadataFeaturesItem, min(len(m.Features), maxFeatures)),
		}
		for i := range meta.Features {
			meta.Features[i] = gen.ModelMetadataFeaturesItem(m.Features[i])
		}
		out.Metadata = gen.NewOptModelMetadata(meta)
	}
	if p := v.Progress; p != nil {
		out.Progress = gen.NewOptFetchProgress(gen.FetchProgress{DoneBytes: max(p.Done, 0), TotalBytes: max(p.Total, 0)})
	}
	if v.Problem != nil {
		e := toError(v.Problem)
		out.Problem = gen.NewOptModelProblem(gen.ModelProblem{Code: e.Code, Message: e.Message})
	}
	return out
}
