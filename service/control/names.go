// SPDX-License-Identifier: GPL-3.0-or-later

package control

import (
	"context"
	"slices"
	"strings"

	"github.com/llama-orch/llama-orch/internal/nearest"
	"github.com/llama-orch/llama-orch/service/config"
	"github.com/llama-orch/llama-orch/service/flow/admission"
	"github.com/llama-orch/llama-orch/service/task"
)

// Resolve implements admission.Pools: the name that a request gives a model becomes that of a pool's model, and what an alias says of
// parameters is applied (LO-428, LO-429). A name is looked for as it stands, then without what is behind its @, then as any name.
func (f candidates) Resolve(q task.Request) (task.Request, error) {
	now := f.config()
	q, err := f.resolve(now, q)
	if err != nil || q.Quantisation == "" {
		return q, err
	}
	for _, p := range serving(now, q.ModelRef) {
		if _, known := f.shelf.Find(p.Model.Canonical); !known && p.Model.Path != "" { // then only its file says what its weights are in
			f.files.of(context.Background(), p.Model.Path)
		}
	}
	return q, nil
}

func (f candidates) resolve(now config.Config, q task.Request) (task.Request, error) {
	if f.named(now, &q, q.ModelRef) {
		return q, nil
	}
	if name, wish := config.SplitName(q.ModelRef); wish != (config.Wish{}) && f.named(now, &q, name) {
		wanted(&q, wish)
		return q, nil
	}
	if alias, ok := now.Aliases[config.AnyName]; ok {
		aliased(now, &q, alias)
		return q, nil
	}
	return q, task.Errorf(task.ModelNotFound, "no pool serves the model %.80q: %s", q.ModelRef, suggest(now, q.ModelRef))
}

// serving are the pools of a name that was resolved.
func serving(now config.Config, model string) (list []config.Pool) {
	for _, p := range now.Pools {
		if p.Model.ID == model || p.Model.Canonical == model {
			list = append(list, p)
		}
	}
	return list
}

// named reports whether something has the name, and makes the request one for it.
func (f candidates) named(now config.Config, q *task.Request, name string) bool {
	if alias, ok := now.Aliases[name]; ok && name != config.AnyName {
		aliased(now, q, alias)
		return true
	}
	if pooled(now, q, name) {
		return true
	}
	m, err := f.shelf.Get(name) // the catalog's id of a model stands for its ref (LO-844)
	return err == nil && pooled(now, q, m.Ref)
}

// pooled reports whether a pool has the model of that name or ref, and makes the request one for it.
func pooled(now config.Config, q *task.Request, name string) bool {
	canonical := now.CanonicalRef(name)
	switch {
	case slices.ContainsFunc(now.Pools, func(p config.Pool) bool { return p.Model.ID == name }):
		q.ModelRef = name
	case slices.ContainsFunc(now.Pools, func(p config.Pool) bool { return p.Model.Canonical == canonical }):
		q.ModelRef = canonical
	default:
		return false
	}
	return true
}

// aliased makes the request one for what an alias stands for. There is such a model, or the configuration would have been refused.
func aliased(now config.Config, q *task.Request, alias config.Alias) {
	model, wish, _ := now.Named(alias.Model)
	pooled(now, q, model)
	wanted(q, wish)
	*q = rules(alias.Params).Apply(*q)
}

// wanted asks for what a name says behind its @.
func wanted(q *task.Request, w config.Wish) {
	q.Ctx = max(q.Ctx, w.Ctx)
	if q.Quantisation == "" {
		q.Quantisation = w.Quantisation
	}
}

// suggest names the models that there are, the one that was most likely meant first.
func suggest(now config.Config, name string) string {
	var known []string
	for _, p := range now.Pools {
		known = append(known, p.Model.ID)
	}
	for alias := range now.Aliases {
		known = append(known, alias)
	}
	slices.Sort(known)
	known = slices.Compact(known)
	text := "use one of " + strings.Join(known, ", ")
	if meant := nearest.Name(name, known); meant != "" {
		text = "did you mean " + meant + "? Otherwise " + text
	}
	return text
}

// rules are the parameters of a pool or an alias as admission applies them.
func rules(p config.Params) admission.Rules {
	r := admission.Rules{Default: admission.Settings(p.Default), Override: admission.Settings(p.Override)}
	for _, name := range p.Strip {
		r.Strip = append(r.Strip, task.Setting(name))
	}
	return r
}
