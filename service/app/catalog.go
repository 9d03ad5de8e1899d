// SPDX-License-Identifier: GPL-3.0-or-later

package app

import (
	"context"
	"fmt"
	"time"

	"github.com/llama-orch/llama-orch/service/config"
	"github.com/llama-orch/llama-orch/service/control"
	"github.com/llama-orch/llama-orch/service/supply/catalog"
	"github.com/llama-orch/llama-orch/service/supply/fetch"
	"github.com/llama-orch/llama-orch/service/supply/policy"
)

// openCatalog opens the catalog, with what fetches for it and the policy that decides on each fetch.
func (a *App) openCatalog() (err error) {
	c := a.o.Config
	if a.policy, err = policy.New(policy.Options{Rules: control.PolicyRules(c), Log: a.o.Log, Registerer: a.registry}); err != nil {
		return err
	}
	endpoints := fetch.Endpoints{HF: c.Catalog.Endpoints.HF, S3: c.Catalog.Endpoints.S3, OCI: map[string]string{}}
	for _, o := range c.Catalog.Endpoints.OCI {
		endpoints.OCI[o.Name] = o.URL
	}
	client := a.policy.Client(policy.Download)
	a.fetches, err = fetch.New(fetch.Settings{Client: client, Endpoints: endpoints, Getenv: a.o.Env, Log: a.o.Log})
	if err != nil {
		return fmt.Errorf("prepare to fetch models: %w", err)
	}
	a.cleanup.push("end the fetches", func(context.Context) error {
		a.fetches.Close()
		client.CloseIdleConnections()
		return nil
	})
	a.shelf, err = control.OpenShelf(a.setup, catalog.Options{
		Dir: c.DataDir, Fetcher: control.Fetcher{Fetcher: a.fetches, Setup: a.setup},
		Trust:   catalog.Trust{Strict: c.Catalog.Trust.Mode == config.TrustStrict, Sources: c.Catalog.Trust.Sources, Keys: c.Catalog.Trust.Keys},
		Fetches: c.Catalog.Fetches, Hashes: c.Catalog.Hashes,
		Log: a.o.Log, Registerer: a.registry, Now: time.Now,
	})
	if err != nil {
		return fmt.Errorf("open the catalog: %w", err)
	}
	a.cleanup.push("close the catalog", func(context.Context) error { return a.shelf.Close() })
	return nil
}
