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
	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/port"
	"github.com/llama-orch/llama-orch/service/supply/catalog"
	"github.com/llama-orch/llama-orch/service/supply/fetch"
	"github.com/llama-orch/llama-orch/service/supply/policy"
	"github.com/llama-orch/llama-orch/service/task"
)

// Check checks a configuration whole: also what package config cannot check, because other packages read it. The files and programs of a
// pool are looked at where the function says so.
func Check(c config.Config, of func(config.Pool) bool) error {
	if err := c.CheckPools(of); err != nil {
		return err
	}
	if err := policy.Check(PolicyRules(c)); err != nil {
		return fmt.Errorf("%s: policy: %w", c.Path, err)
	}
	if c.TLS.Cert != "" {
		if _, err := port.LoadPair(c.TLS.Cert, c.TLS.Key, nil); err != nil {
			return fmt.Errorf("%s: %w", c.Path, err)
		}
	}
	return nil
}

// Warning says what a configuration that Check takes will have clients refuse; empty: nothing.
func Warning(c config.Config, now time.Time) string {
	if c.TLS.Cert == "" {
		return ""
	}
	pair, err := port.LoadPair(c.TLS.Cert, c.TLS.Key, nil)
	if err != nil { // Check has said so
		return ""
	}
	if wrong := pair.Dates().Warning(now); wrong != "" {
		return fmt.Sprintf("the certificate %s %s", c.TLS.Cert, wrong)
	}
	return ""
}

// PolicyRules returns the policy's rules from a configuration.
func PolicyRules(c config.Config) policy.Rules {
	return policy.Rules{
		Off: c.Policy.Outbound == config.OutboundOff, DryRun: c.Policy.Outbound == config.OutboundDryRun,
		Allow: c.Policy.Allow, Deny: c.Policy.Deny,
	}
}

// canonical returns what gives a ref that somebody adds its one spelling, or refuses it.
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

// Fetcher lets the catalog use fetch.Fetcher.
type Fetcher struct {
	*fetch.Fetcher
	Setup *Setup // says which files of this machine may be named; nil: any
}

// Fetch implements catalog.Fetcher.
func (f Fetcher) Fetch(ctx context.Context, ref, into, digest string, progress func(done, total int64)) (string, int64, string, error) {
	r, err := fetch.ParseRef(ref)
	if err != nil {
		return "", 0, "", err
	}
	if path := localPath(r.String()); f.Setup != nil && path != "" {
		if err := f.Setup.permitsTarget(ctx, path); err != nil {
			return "", 0, "", err
		}
	}
	file, err := f.Fetcher.Fetch(ctx, r, into, fetch.Options{Digest: digest, Progress: progress})
	return file.Path, file.Size, file.Digest, err
}

// Shelf is the catalog as the pools and the API ask for it.
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

// inUse reports whether a pool has the model, or will load it.
func (s *Shelf) inUse(id string) bool {
	m, err := s.Get(id)
	return err == nil && slices.ContainsFunc(s.setup.served(), func(p config.Pool) bool { return p.Model.Canonical == m.Ref })
}

// lookEvery is how often a replica that waits for a fetch is told how far that is.
const lookEvery = 250 * time.Millisecond

// Use implements pool.Models. A local file may be used without being in the catalog; whatever is fetched is added to it.
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
	used, err := s.Catalog.Use(ctx, m.ID)
	if err != nil {
		return pool.Held{}, true, err
	}
	if m = used.Model; digest != "" && !strings.EqualFold(digest, m.Digest) {
		used.Release()
		return pool.Held{}, true, task.Errorf(task.UntrustedArtifact, "the model %s has the digest %s in the catalog, and %s is expected: correct the digest, or delete the model",
			m.ID, m.Digest, digest)
	}
	return pool.Held{Path: m.Path, Digest: m.Digest, Size: m.Size, Marks: used.Marks, Release: used.Release}, true, nil
}

// await returns once the model is no longer being fetched.
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

// Path implements pool.Models.
func (s *Shelf) Path(ref string) string {
	m, _ := s.Find(ref)
	return m.Path
}

// Retired implements pool.Models.
func (s *Shelf) Retired(ref string) bool { return s.Deprecated(ref) }

// facts returns what the catalog knows of a pool's model. It knows that without an engine.
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

// AddModel implements api.Catalog.
func (s *Shelf) AddModel(ctx context.Context, a api.ModelAddition) (api.CatalogModel, error) {
	if named, err := s.setup.config().ModelAt(a.Ref); err == nil { // else Create says what is wrong
		if err := s.setup.permits(named.Path); err != nil {
			return api.CatalogModel{}, err
		}
	}
	m, err := s.Create(policy.WithActor(ctx, gate.CallFrom(ctx).Identity), catalog.Request(a))
	return toModel(m), err
}

// Models implements api.Catalog.
func (s *Shelf) Models(state string) []api.CatalogModel {
	list := s.List(catalog.State(state))
	out := make([]api.CatalogModel, len(list))
	for i, m := range list {
		out[i] = toModel(m)
	}
	return out
}

// Model implements api.Catalog.
func (s *Shelf) Model(id string) (api.CatalogModel, error) {
	m, err := s.Get(id)
	return toModel(m), err
}

// DeleteModel implements api.Catalog.
func (s *Shelf) DeleteModel(ctx context.Context, id string) error { return s.Delete(ctx, id) }

// VerifyModel implements api.Catalog.
func (s *Shelf) VerifyModel(ctx context.Context, id string) (api.VerificationView, error) {
	v, err := s.Verify(ctx, id)
	return api.VerificationView{
		ModelID: v.ModelID, Digest: v.Digest, Verified: v.Verified, Signature: string(v.Signature), Warnings: v.Warnings, VerifiedAt: v.VerifiedAt,
	}, err
}

// SetModelState implements api.Catalog.
func (s *Shelf) SetModelState(_ context.Context, id, state string, deadline time.Duration) (api.CatalogModel, error) {
	m, err := s.SetState(id, catalog.State(state), deadline)
	return toModel(m), err
}

// Engines implements api.Catalog.
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
