// SPDX-License-Identifier: GPL-3.0-or-later

package admission

import (
	"context"
	"slices"
	"strings"

	"github.com/llama-orch/llama-orch/service/task"
)

// Pass admits an opaque request and hands its task on, which is not recorded (LO-467), or refuses it with a *task.Error.
func (d *Desk) Pass(ctx context.Context, req task.Request, on func(task.Task) error) error {
	pool, err := d.pass(req, on)
	if err == nil {
		return nil
	}
	return d.refused(ctx, req, pool, err)
}

func (d *Desk) pass(req task.Request, on func(task.Task) error) (pool Pool, err error) {
	if err := d.caps.take(d.o.Now(), req.Actor, req.Priority); err != nil {
		return Pool{}, err
	}
	if req.ModelRef == "" {
		if req.ModelRef, err = d.only(req); err != nil {
			return Pool{}, err
		}
	} else if req, err = d.o.Pools.Resolve(req); err != nil {
		return Pool{}, err
	}
	pool, routing, err := d.route(req)
	if err != nil {
		return pool, err
	}
	if err := pool.Refusal(); err != nil {
		return pool, err
	}
	if err := inTime(req, pool); err != nil {
		return pool, err
	}
	return pool, on(task.Task{
		ID: d.o.NewID(), Request: req, PoolID: pool.ID, Engine: pool.Engine, EngineVersion: pool.EngineVersion, ModelID: pool.ModelID,
		Determinism: task.BestEffort, AcceptedAt: d.o.Now(), PinnedPool: routing.Pinned, Fallback: routing.Fallback,
	})
}

// only is the one model that takes requests for a path.
func (d *Desk) only(req task.Request) (string, error) {
	var models []string
	for _, p := range d.o.Pools.Snapshot(req.Priority) {
		if p.Takes(req.Path) && !p.Retired {
			models = append(models, p.ModelID)
		}
	}
	slices.Sort(models)
	models = slices.Compact(models)
	switch len(models) {
	case 0:
		return "", errNoRoute(req.Path)
	case 1:
		return models[0], nil
	}
	return "", task.Errorf(task.InvalidParams, "the request names no model, and several take requests for %s: send `model`, before the file where the body is a form, as one of %s",
		task.Clip(req.Path, 100), strings.Join(models, ", "))
}

func errNoRoute(path string) *task.Error {
	return task.Errorf(task.NotFound, "no pool takes requests for %s: name the path under `routes` of a pool of engine command", task.Clip(path, 100))
}
