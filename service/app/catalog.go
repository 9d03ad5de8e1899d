// SPDX-License-Identifier: GPL-3.0-or-later

package app

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

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
	if err := policy.Check(policyRules(c)); err != nil {
		return fmt.Errorf("%s: policy: %w", c.Path, err)
	}
	return nil
}

func policyRules(c config.Config) policy.Rules {
	return policy.Rules{
		Off: c.Policy.Outbound == config.OutboundOff, DryRun: c.Policy.Outbound == config.OutboundDryRun,
		Allow: c.Policy.Allow, Deny: c.Policy.Deny,
	}
}

// openCatalog opens the catalog with what fetches for it.
func (a *App) openCatalog(r prometheus.Registerer, s *setup) error {
	c := a.o.Config
	endpoints := fetch.Endpoints{HF: c.Catalog.Endpoints.HF, S3: c.Catalog.Endpoints.S3, OCI: map[string]string{}}
	for _, o := range c.Catalog.Endpoints.OCI {
		endpoints.OCI[o.Name] = o.URL
	}
	client := a.policy.Client(policy.Download)
	var err error
	a.fetches, err = fetch.New(fetch.Settings{Client: client, Endpoints: endpoints, Getenv: a.o.Env, Log: a.o.Log})
	if err != nil {
		return fmt.Errorf("prepare to fetch models: %w", err)
	}
	a.cleanup.push("end the fetches", func(context.Context) error {
		a.fetches.Close()
		client.CloseIdleConnections()
		return nil
	})
	a.shelf = &shelf{setup: s}
	a.shelf.Catalog, err = catalog.Open(catalog.Options{
		Dir: c.DataDir, Fetcher: fetcher{a.fetches},
		Trust:     catalog.Trust{Strict: c.Catalog.Trust.Mode == config.TrustStrict, Sources: c.Catalog.Trust.Sources, Keys: c.Catalog.Trust.Keys},
		Canonical: canonical(s), InUse: a.shelf.inUse, Fetches: c.Catalog.Fetches, Hashes: c.Catalog.Hashes,
		Log: a.o.Log, Registerer: r, Now: time.Now,
	})
	if err != nil {
		return fmt.Errorf("open the catalog: %w", err)
	}
	a.cleanup.push("close the catalog", func(context.Context) error { return a.shelf.Close() })
	return nil
}

// canonical is the one spelling of a ref that somebody adds.
func canonical(s *setup) func(string) (string, error) {
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

// fetcher is catalog.Fetcher over fetch.Fetcher.
type fetcher struct{ *fetch.Fetcher }

// Fetch is catalog.Fetcher's.
func (f fetcher) Fetch(ctx context.Context, ref, into, digest string, progress func(done, total int64)) (string, int64, string, error) {
	r, err := fetch.ParseRef(ref)
	if err != nil {
		return "", 0, "", err
	}
	file, err := f.Fetcher.Fetch(ctx, r, into, fetch.Options{Digest: digest, Progress: progress})
	return file.Path, file.Size, file.Digest, err
}

// shelf is the catalog as the other packages ask for it.
type shelf struct {
	*catalog.Catalog
	setup *setup
}

// inUse reports whether a pool has the model, or is to get it.
func (s *shelf) inUse(id string) bool {
	m, err := s.Get(id)
	return err == nil && slices.ContainsFunc(s.setup.served(), func(p config.Pool) bool { return p.Model.Canonical == m.Ref })
}

// lookEvery is how often a replica that waits for a fetch hears how far it is.
const lookEvery = 250 * time.Millisecond

// Use is pool.Models's: the catalog has what was added to it, and what is fetched is added.
func (s *shelf) Use(ctx context.Context, ref, digest string, progress func(done, total int64)) (pool.Held, bool, error) {
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
func (s *shelf) await(ctx context.Context, id string, progress func(done, total int64)) (catalog.Model, error) {
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
func (s *shelf) Path(ref string) string {
	m, _ := s.Find(ref)
	return m.Path
}

// Retired is pool.Models's.
func (s *shelf) Retired(ref string) bool { return s.Deprecated(ref) }

// facts are what is known of a pool's model without an engine: of one in the catalog.
func (s *shelf) facts(p config.Pool) (f catalog.Metadata, bits float64, retired bool) {
	m, known := s.Find(p.Model.Canonical)
	if known && m.Metadata != nil {
		f = *m.Metadata
	}
	if f.Parameters > 0 {
		bits = 8 * float64(m.Size) / float64(f.Parameters)
	}
	return f, bits, known && m.State == catalog.Retired
}

func (s *shelf) AddModel(ctx context.Context, a api.ModelAddition) (api.CatalogModel, error) {
	m, err := s.Create(ctx, catalog.Request(a))
	return toModel(m), err
}

func (s *shelf) Models(state string) []api.CatalogModel {
	list := s.List(catalog.State(state))
	out := make([]api.CatalogModel, len(list))
	for i, m := range list {
		out[i] = toModel(m)
	}
	return out
}

func (s *shelf) Model(id string) (api.CatalogModel, error) {
	m, err := s.Get(id)
	return toModel(m), err
}

func (s *shelf) DeleteModel(ctx context.Context, id string) error { return s.Delete(ctx, id) }

func (s *shelf) VerifyModel(ctx context.Context, id string) (api.VerificationView, error) {
	v, err := s.Verify(ctx, id)
	return api.VerificationView{
		ModelID: v.ModelID, Digest: v.Digest, Verified: v.Verified, Signature: string(v.Signature), Warnings: v.Warnings, VerifiedAt: v.VerifiedAt,
	}, err
}

func (s *shelf) SetModelState(_ context.Context, id, state string, deadline time.Duration) (api.CatalogModel, error) {
	m, err := s.SetState(id, catalog.State(state), deadline)
	return toModel(m), err
}

func (s *shelf) Engines() []api.EngineView {
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
