// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"cmp"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/llama-orch/llama-orch/sdk"
)

// psCmd is what people type who know Ollama or Docker.
type psCmd struct {
	All bool `short:"a" help:"The pools that are not in memory, too."`
}

// memory is a pool as `ps` shows it.
type memory struct {
	Name      string `json:"name"` // of its model
	PoolID    string `json:"pool_id"`
	State     string `json:"state"`
	SizeBytes int64  `json:"size_bytes"` // of all its replicas; 0: nobody has said
	Processor string `json:"processor"`
	Ctx       int    `json:"ctx"`
	Running   int    `json:"running"`
	Queued    int    `json:"queued"`
	Until     string `json:"until"`
}

// Run shows the models in memory, and what they do.
func (c *psCmd) Run(a *app) error {
	pools, err := a.client.Pools(a.ctx)
	if err != nil {
		return err
	}
	all := []memory{}
	for _, p := range pools {
		if !p.Loaded && !c.All {
			continue
		}
		health, err := a.client.PoolHealth(a.ctx, p.ID)
		if e, ok := errors.AsType[*sdk.Error](err); ok && e.Status == http.StatusNotFound {
			continue // the configuration has changed since
		}
		if err != nil {
			return err
		}
		all = append(all, inMemory(health))
	}
	if a.json {
		return a.printJSON(map[string]any{"models": all})
	}
	rows := [][]string{{"NAME", "POOL", "STATE", "SIZE", "PROCESSOR", "CONTEXT", "RUNNING", "QUEUED", "UNTIL"}}
	for _, m := range all {
		size := ""
		if m.SizeBytes > 0 {
			size = bytesText(m.SizeBytes)
		}
		rows = append(rows, []string{m.Name, m.PoolID, m.State, size, m.Processor, positive(m.Ctx), strconv.Itoa(m.Running), strconv.Itoa(m.Queued), m.Until})
	}
	return a.table(rows)
}

func inMemory(h *sdk.PoolHealth) memory {
	p := h.Pool
	m := memory{Name: p.Model.ID, PoolID: p.ID, State: poolState(p), Ctx: p.Ctx, Queued: p.Queue.Depth, Processor: "elsewhere", Until: "always"}
	var cards []int
	for _, r := range h.Replicas {
		m.Running += r.Active
		if r.ObservedBytes != nil {
			m.SizeBytes += *r.ObservedBytes
		} else if r.EstimateBytes != nil {
			m.SizeBytes += *r.EstimateBytes
		}
		cards = append(cards, r.Cards...)
	}
	slices.Sort(cards)
	cards = slices.Compact(cards)
	switch {
	case len(cards) > 0:
		names := make([]string, len(cards))
		for i, card := range cards {
			names[i] = strconv.Itoa(card)
		}
		m.Processor = "GPU " + strings.Join(names, ",")
	case p.Device == "cpu":
		m.Processor = "CPU"
	case p.Device != "":
		m.Processor = "GPU"
	}
	switch {
	case !p.Loaded:
		m.Until = "not loaded"
	case p.Lifecycle == sdk.LifecycleOnDemand:
		m.Until = "others need the room, or idle"
	}
	return m
}

// listCmd is what people type who know Ollama.
type listCmd struct{}

// named is a model as `list` shows it.
type named struct {
	Name      string    `json:"name"`
	Digest    string    `json:"digest,omitempty"`
	SizeBytes int64     `json:"size_bytes,omitempty"`
	Pools     []string  `json:"pools"` // that serve it
	State     string    `json:"state"`
	Modified  time.Time `json:"modified,omitzero"`
}

// Run lists the models that pools serve, and those of the catalog, each once.
func (listCmd) Run(a *app) error {
	pools, err := a.client.Pools(a.ctx)
	if err != nil {
		return err
	}
	catalog, err := a.client.Models(a.ctx, "")
	if err != nil {
		return err
	}
	all := []named{}
	at := func(name string) *named {
		i := slices.IndexFunc(all, func(n named) bool { return n.Name == name })
		if i < 0 {
			i, all = len(all), append(all, named{Name: name, Pools: []string{}})
		}
		return &all[i]
	}
	for _, p := range pools {
		m := at(p.Model.ID)
		m.Pools, m.Digest, m.State = append(m.Pools, p.ID), cmp.Or(m.Digest, p.Model.Digest), cmp.Or(m.State, string(p.State))
	}
	for _, c := range catalog {
		name := c.ID
		for _, p := range pools { // a pool may call it otherwise
			if p.Model.Ref == c.Ref {
				name = p.Model.ID
			}
		}
		m := at(name)
		m.Digest, m.SizeBytes, m.Modified = cmp.Or(c.Digest, m.Digest), c.SizeBytes, c.CreatedAt
		if len(m.Pools) == 0 {
			m.State = "no pool serves it"
			if c.State != sdk.ModelStateActive {
				m.State = strings.ToLower(modelState(c))
			}
		}
	}
	if a.json {
		return a.printJSON(map[string]any{"models": all})
	}
	rows := [][]string{{"NAME", "ID", "SIZE", "MODIFIED", "POOLS", "STATE"}}
	for _, m := range all {
		size := ""
		if m.SizeBytes > 0 {
			size = bytesText(m.SizeBytes)
		}
		id, _ := strings.CutPrefix(m.Digest, "sha256:")
		rows = append(rows, []string{m.Name, clip(id, 12), size, localTime(m.Modified), strings.Join(m.Pools, ","), m.State})
	}
	return a.table(rows)
}

// pullCmd is what people type who know Ollama or Docker.
type pullCmd struct {
	Model string `arg:"" help:"hf:ORG/REPO/FILE or another ref, hf.co/ORG/REPO as Ollama has it, or the name of a model of the catalog or of a pool."`
}

// Run fetches a model into the catalog and waits for it. A model that is there is not fetched again.
func (c *pullCmd) Run(a *app) error {
	ref := c.Model
	for _, hub := range []string{"hf.co/", "huggingface.co/", "https://huggingface.co/"} {
		if repository, ok := strings.CutPrefix(ref, hub); ok {
			ref = "hf:" + strings.TrimSuffix(repository, ":latest")
		}
	}
	if !strings.Contains(ref, ":") || strings.HasPrefix(ref, ":") {
		return c.known(a, ref)
	}
	if scheme, _, _ := strings.Cut(ref, ":"); !slices.Contains([]string{"hf", "https", "s3", "oci", "file"}, scheme) {
		return c.known(a, ref) // a name may have a colon, like llama3.2:3b
	}
	return (&modelsAddCmd{Ref: ref, Wait: true}).Run(a)
}

// known is for a name that is no ref: the server may have it.
func (c *pullCmd) known(a *app, name string) error {
	m, err := a.client.Model(a.ctx, name)
	switch e, refused := errors.AsType[*sdk.Error](err); {
	case err == nil && m.State == sdk.ModelStateFetching:
		if m, err = a.follow(m); err != nil {
			return err
		}
		return a.showModel(m)
	case err == nil && m.State == sdk.ModelStateFailed:
		return (&modelsAddCmd{Ref: m.Ref, ID: m.ID, Wait: true}).Run(a)
	case err == nil:
		return a.showModel(m)
	case refused && e.Status != http.StatusNotFound:
		return err
	case !refused:
		if _, wrong := errors.AsType[*sdk.RequestError](err); !wrong {
			return err
		}
	}
	pools, err := a.client.Pools(a.ctx)
	if err != nil {
		return err
	}
	for _, p := range pools {
		if p.Model.ID == name || p.Model.ID == strings.TrimSuffix(name, ":latest") {
			if a.json {
				return a.printJSON(p)
			}
			return a.table(poolRows(p))
		}
	}
	return usagef("%s is no model that the server has, and no ref: there is no library of names, so say where it is, like hf:ORG/REPO/FILE.gguf", name)
}
