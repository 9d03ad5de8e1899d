// SPDX-License-Identifier: GPL-3.0-or-later

// Package model defines which model a task is for, and finds out what the server's pools can do with it.
package model

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/llama-orch/llama-orch/internal/nearest"
	"github.com/llama-orch/llama-orch/sdk"
)

// Server is what is asked about models; an *sdk.Client is one.
type Server interface {
	Capabilities(ctx context.Context) (*sdk.Capabilities, error)
	Explain(ctx context.Context, request *sdk.ExplainRequest) (*sdk.Explanation, error)
}

// Wish is a model and where it is to run. Only Ref is required.
type Wish struct {
	Ref      string         `json:"ref"`                // as in `model_ref`: a model's id, its ref, or an alias
	Workload sdk.Workload   `json:"workload,omitempty"` // default completion
	Engine   sdk.EngineName `json:"engine,omitempty"`   // pools of this engine alone
	Pool     string         `json:"pool,omitempty"`     // this pool or none
}

// Model is a model that is served, with the pools that a wish leaves.
type Model struct {
	Wish Wish `json:"wish"`

	ID       string               `json:"id"`
	Ctx      int                  `json:"ctx"` // of the pool with the longest
	Features []sdk.ChatFeature    `json:"features"`
	Pools    []sdk.CapabilityPool `json:"pools"`
	Limits   sdk.Limits           `json:"limits"`
}

// UnknownError says that the server has no such model or pool.
type UnknownError struct {
	What    string   // `model` or `pool`
	Name    string   // as it was asked for
	Nearest string   // one that is there and may have been meant, or empty
	Known   []string // those that are there
}

func (e *UnknownError) Error() string {
	text := fmt.Sprintf("the server has no %s %q", e.What, e.Name)
	if e.Nearest != "" {
		return text + fmt.Sprintf(": did you mean %q?", e.Nearest)
	}
	if len(e.Known) == 0 {
		return text + ", and no other: add a pool to its configuration"
	}
	return text + ": choose one of " + strings.Join(e.Known, ", ")
}

// UnfitError says that no pool of a model is as the wish wants it.
type UnfitError struct {
	Ref  string
	What string   // `workload` or `engine`
	Want string   // as it was asked for
	Have []string // what the model's pools are
}

func (e *UnfitError) Error() string {
	return fmt.Sprintf("the model %q has no pool of the %s %s: its pools are of %s", e.Ref, e.What, e.Want, strings.Join(e.Have, ", "))
}

// List is what the server serves: each model once for each of its workloads, by its id.
func List(c *sdk.Capabilities) []Model {
	var models []Model
	for _, p := range c.Pools {
		wish := Wish{Ref: p.Model.ID, Workload: p.Workload}
		if len(p.Routes) == 0 && !slices.ContainsFunc(models, func(m Model) bool { return m.Wish == wish }) {
			same := slices.DeleteFunc(slices.Clone(c.Pools), func(o sdk.CapabilityPool) bool { return o.Model.ID != p.Model.ID || o.Workload != p.Workload })
			models = append(models, of(c, wish, same))
		}
	}
	slices.SortStableFunc(models, func(a, b Model) int { return cmp.Compare(a.ID, b.ID) })
	return models
}

// Define holds a wish to what the server serves. The error is an *UnknownError or an *UnfitError, or that of a call.
func Define(ctx context.Context, server Server, w Wish) (*Model, error) {
	c, err := server.Capabilities(ctx)
	if err != nil {
		return nil, err
	}
	pools, err := named(ctx, server, c, w.Ref)
	if err != nil {
		return nil, err
	}
	w.Workload = cmp.Or(w.Workload, sdk.WorkloadCompletion)
	for _, narrow := range []struct {
		what, want string
		of         func(sdk.CapabilityPool) string
	}{
		{"pool", w.Pool, func(p sdk.CapabilityPool) string { return p.ID }},
		{"workload", string(w.Workload), func(p sdk.CapabilityPool) string { return string(p.Workload) }},
		{"engine", string(w.Engine), func(p sdk.CapabilityPool) string { return p.Engine }},
	} {
		if narrow.want == "" {
			continue
		}
		have := names(pools, narrow.of)
		pools = slices.DeleteFunc(pools, func(p sdk.CapabilityPool) bool { return narrow.of(p) != narrow.want })
		if len(pools) > 0 {
			continue
		}
		if narrow.what == "pool" {
			return nil, &UnknownError{What: "pool of the model " + w.Ref, Name: w.Pool, Nearest: nearest.Name(w.Pool, have), Known: have}
		}
		return nil, &UnfitError{Ref: w.Ref, What: narrow.what, Want: narrow.want, Have: have}
	}
	m := of(c, w, pools)
	return &m, nil
}

// named are the pools of a model. An alias is none of capabilities: the server alone knows what it stands for.
func named(ctx context.Context, server Server, c *sdk.Capabilities, ref string) ([]sdk.CapabilityPool, error) {
	pools := slices.DeleteFunc(slices.Clone(c.Pools), func(p sdk.CapabilityPool) bool { return p.Model.ID != ref && p.Model.Ref != ref })
	if len(pools) > 0 {
		return pools, nil
	}
	known := names(c.Pools, func(p sdk.CapabilityPool) string { return p.Model.ID })
	unknown := &UnknownError{What: "model", Name: ref, Nearest: nearest.Name(ref, known), Known: known}
	if ref == "" {
		return nil, unknown
	}
	e, err := server.Explain(ctx, &sdk.ExplainRequest{ModelRef: ref})
	if refused, ok := errors.AsType[*sdk.Error](err); ok && (refused.Code == sdk.ErrorCodeModelNotFound || refused.Code == sdk.ErrorCodeNotFound) {
		return nil, unknown
	}
	if err != nil {
		return nil, err
	}
	pools = slices.DeleteFunc(slices.Clone(c.Pools), func(p sdk.CapabilityPool) bool {
		return !slices.ContainsFunc(e.Candidates, func(v sdk.Candidate) bool { return v.PoolID == p.ID })
	})
	if len(pools) == 0 {
		return nil, unknown
	}
	return pools, nil
}

func of(c *sdk.Capabilities, w Wish, pools []sdk.CapabilityPool) Model {
	m := Model{Wish: w, ID: pools[0].Model.ID, Features: []sdk.ChatFeature{}, Pools: pools, Limits: c.Limits}
	for _, p := range pools {
		m.Ctx = max(m.Ctx, p.Ctx)
		m.Features = append(m.Features, p.Features...)
	}
	slices.Sort(m.Features)
	m.Features = slices.Compact(m.Features)
	return m
}

// names are what pools have, sorted, each once.
func names(pools []sdk.CapabilityPool, of func(sdk.CapabilityPool) string) []string {
	all := make([]string, len(pools))
	for i, p := range pools {
		all[i] = of(p)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Request is a request for the model, as the wish wants it, with nothing asked yet.
func (m *Model) Request() *sdk.TaskRequest {
	r := &sdk.TaskRequest{ModelRef: m.Wish.Ref, Workload: m.Wish.Workload, Engine: m.Wish.Engine}
	if m.Wish.Pool != "" {
		r.Placement = &sdk.PlacementWish{Mode: sdk.PlacementWishModePin, PoolID: m.Wish.Pool}
	}
	return r
}
