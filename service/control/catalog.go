// SPDX-License-Identifier: GPL-3.0-or-later

package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/llama-orch/llama-orch/service/config"
	"github.com/llama-orch/llama-orch/service/fleet/pool"
	"github.com/llama-orch/llama-orch/service/front/api"
	"github.com/llama-orch/llama-orch/service/supply/catalog"
	"github.com/llama-orch/llama-orch/service/supply/fetch"
	"github.com/llama-orch/llama-orch/service/supply/policy"
	"github.com/llama-orch/llama-orch/service/task"
)

// Check is config.Check, and looks at what packages that the configuration does not know read of it.
func Check(c config.Config) error {
	if err := c.Check(); err != nil {
		return err
	}
	if err := policy.Check(PolicyRules(c)); err != nil {
		return fmt.Errorf("%s: policy: %w", c.Path, err)
	}
	return nil
}

// PolicyRules are the policy of a configuration.
func PolicyRules(c config.Config) policy.Rules {
	return policy.Rules{
		Off: c.Policy.Outbound == config.OutboundOff, DryRun: c.Policy.Outbound == config.OutboundDryRun,
		Allow: c.Policy.Allow, Deny: c.Policy.Deny,
	}
}

// canonical is the one spelling of a ref that somebody adds.
func canonical(s *Setup) func(string) (string, error) {
	return func(ref string) (string, error) {
		m, err := s.config().ModelAt(ref)
		if err != nil {
			return "", err
		}
		r, err := fetch.ParseRef(m.Canonical)
		if err != nil {
			return "", err
		}
		if r.String() != m.Canonical {
			return "", fmt.Errorf("it is not in its one spelling, %s", r.Shown())
		}
		return m.Canonical, nil
	}
}

// Fetcher is catalog.Fetcher over fetch.Fetcher.
type Fetcher struct{ *fetch.Fetcher }

// Fetch is catalog.Fetcher's.
func (f Fetcher) Fetch(ctx context.Context, ref, into, digest string, progress func(done, total int64)) (string, int64, string, error) {
	r, err := fetch.ParseRef(ref)
	if err != nil {
		return "", 0, "", err
	}
	file, err := f.Fetcher.Fetch(ctx, r, into, fetch.Options{Digest: digest, Progress: progress})
	return file.Path, file.Size, file.Digest, err
}

// Shelf is the catalog as the other packages ask for it.
type Shelf struct {
	*catalog.Catalog
	setup *Setup
}

// OpenShelf opens the catalog for the pools of the configuration in force.
func OpenShelf(s *Setup, o catalog.Options) (_ *Shelf, err error) {
	shelf := &Shelf{setup: s}
	o.Canonical, o.InUse = canonical(s), shelf.inUse
	if shelf.Catalog, err = catalog.Open(o); err != nil {
		return nil, err
	}
	return shelf, nil
}

// inUse reports whether a pool has the model, or is to get it.
func (s *Shelf) inUse(id string) bool {
	m, err := s.Get(id)
	return err == nil && slices.ContainsFunc(s.setup.served(), func(p config.Pool) bool { return p.Model.Canonical == m.Ref })
}

// lookEvery is how often a replica that waits for a fetch hears how far it is.
const lookEvery = 250 * time.Millisecond

// Use is pool.Models's: the catalog has what was added to it, and what is fetched is added.
func (s *Shelf) Use(ctx context.Context, ref, digest string, progress func(done, total int64)) (pool.Held, bool, error) {
	m, known := s.Find(ref)
	if !known && strings.HasPrefix(ref, "file:") {
		return pool.Held{}, false, nil
	}
	var err error
	if !known || m.State == catalog.Failed {
		if m, err = s.Create(ctx, catalog.Request{ID: m.ID, Ref: ref, Digest: digest}); err != nil {
			return pool.Held{}, true, err
		}
	}
	if m.State == catalog.Fetching {
		if m, err = s.await(ctx, m.ID, progress); err != nil {
			return pool.Held{}, true, err
		}
	}
	m, release, err := s.Catalog.Use(ctx, m.ID)
	if err != nil {
		return pool.Held{}, true, err
	}
	if digest != "" && !strings.EqualFold(digest, m.Digest) {
		release()
		return pool.Held{}, true, task.Errorf(task.UntrustedArtifact, "the model %s has the digest %s in the catalog, and %s is expected: correct the digest, or delete the model",
			m.ID, m.Digest, digest)
	}
	return pool.Held{Path: m.Path, Digest: m.Digest, Size: m.Size, Release: release}, true, nil
}

// await returns once the model is no longer fetched.
func (s *Shelf) await(ctx context.Context, id string, progress func(done, total int64)) (catalog.Model, error) {
	for {
		bounded, stop := context.WithTimeout(ctx, lookEvery)
		m, err := s.Wait(bounded, id)
		stop()
		if ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
			return m, err
		}
		if m, err = s.Get(id); err != nil {
			return m, err
		}
		if m.Progress != nil {
			progress(m.Progress.Done, m.Progress.Total)
		}
	}
}

// Path is pool.Models's.
func (s *Shelf) Path(ref string) string {
	m, _ := s.Find(ref)
	return m.Path
}

// Retired is pool.Models's.
func (s *Shelf) Retired(ref string) bool { return s.Deprecated(ref) }

// facts are what is known of a pool's model without an engine: of one in the catalog.
func (s *Shelf) facts(p config.Pool) (f catalog.Metadata, bits float64, retired bool) {
	m, known := s.Find(p.Model.Canonical)
	if known && m.Metadata != nil {
		f = *m.Metadata
	}
	if f.Parameters > 0 {
		bits = 8 * float64(m.Size) / float64(f.Parameters)
	}
	return f, bits, known && m.State == catalog.Retired
}

// AddModel is api.Catalog's.
func (s *Shelf) AddModel(ctx context.Context, a api.ModelAddition) (api.CatalogModel, error) {
	m, err := s.Create(ctx, catalog.Request(a))
	return toModel(m), err
}

// Models is api.Catalog's.
func (s *Shelf) Models(state string) []api.CatalogModel {
	list := s.List(catalog.State(state))
	out := make([]api.CatalogModel, len(list))
	for i, m := range list {
		out[i] = toModel(m)
	}
	return out
}

// Model is api.Catalog's.
func (s *Shelf) Model(id string) (api.CatalogModel, error) {
	m, err := s.Get(id)
	return toModel(m), err
}

// DeleteModel is api.Catalog's.
func (s *Shelf) DeleteModel(ctx context.Context, id string) error { return s.Delete(ctx, id) }

// VerifyModel is api.Catalog's.
func (s *Shelf) VerifyModel(ctx context.Context, id string) (api.VerificationView, error) {
	v, err := s.Verify(ctx, id)
	return api.VerificationView{
		ModelID: v.ModelID, Digest: v.Digest, Verified: v.Verified, Signature: string(v.Signature), Warnings: v.Warnings, VerifiedAt: v.VerifiedAt,
	}, err
}

// SetModelState is api.Catalog's.
func (s *Shelf) SetModelState(_ context.Context, id, state string, deadline time.Duration) (api.CatalogModel, error) {
	m, err := s.SetState(id, catalog.State(state), deadline)
	return toModel(m), err
}

// Engines is api.Catalog's.
func (s *Shelf) Engines() []api.EngineView {
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
