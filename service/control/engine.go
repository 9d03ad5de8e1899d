// SPDX-License-Identifier: GPL-3.0-or-later

package control

import (
	"context"
	"fmt"
	"strings"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/config"
	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/command"
	"github.com/llama-orch/llama-orch/service/fleet/engine/httpsse"
	"github.com/llama-orch/llama-orch/service/fleet/engine/llamacpp"
	"github.com/llama-orch/llama-orch/service/fleet/engine/openai"
	"github.com/llama-orch/llama-orch/service/fleet/engine/tgi"
	"github.com/llama-orch/llama-orch/service/fleet/engine/triton"
	"github.com/llama-orch/llama-orch/service/fleet/engine/vllm"
	"github.com/llama-orch/llama-orch/service/fleet/pool"
	"github.com/llama-orch/llama-orch/service/fleet/process"
	"github.com/llama-orch/llama-orch/service/supply/catalog"
	"github.com/llama-orch/llama-orch/service/supply/fetch"
	"github.com/llama-orch/llama-orch/service/supply/policy"
	"github.com/llama-orch/llama-orch/service/supply/provision"
)

// EngineKinds returns the kinds of engines that a pool can have, by their adapters.
func EngineKinds() []engine.Kind {
	return []engine.Kind{
		llamacpp.Kind(),
		vllm.Kind(),
		tgi.Kind(),
		triton.Kind(),
		openai.Kind(),
		command.Kind(),
	}
}

// Outbound is how engines that are not ours are reached: the policy is asked for each call.
func Outbound(p *policy.Policy) *httpsse.Network {
	return &httpsse.Network{Transport: p.Transport(policy.Adapter), Dial: p.Dial(policy.Adapter), Ask: p.Ask(policy.Adapter)}
}

// EngineFeatures says what the engines of each kind can do, or can have where their model does, as capabilities show it: llamacpp_embedding.
func EngineFeatures() (features []string) {
	for _, kind := range EngineKinds() {
		for _, face := range kind.Faces().Names() {
			features = append(features, kind.Name+"_"+face)
		}
		for _, feature := range kind.Features(engine.Worker{}) {
			features = append(features, kind.Name+"_"+string(feature))
		}
	}
	return features
}

// wantOf returns the engine that a pool's configuration asks for.
func wantOf(c config.Config, p config.Pool) provision.Want {
	v := p.Provisioning
	w := provision.Want{
		Pool: p.ID, Mode: provision.Mode(v.Mode), GPU: p.Device != config.CPU && v.Mode != config.ModeExternal, URLs: v.URLs,
		Path: v.Path, URL: v.URL, Digest: v.Digest, Package: v.Package, AllowPackages: c.Provision.AllowSystemPackages,
		Runtime: v.Runtime, Image: v.Image, Repository: v.Repository, Ref: v.Ref, CMakeFlags: v.CMakeFlags,
	}
	for _, kind := range EngineKinds() {
		if kind.Name == p.Engine && kind.Start != nil {
			w.Hub, w.KeyEnv, w.Env = kind.Start.Files != nil, kind.Start.KeyEnv, kind.Start.Env
		}
	}
	if len(p.RPC) > 0 && v.Mode == config.ModeSource {
		w = w.WithRPC()
	}
	return w
}

// EnginePlans returns the plans of how the pools' engines would be prepared, in the order of the file. It runs nothing (ORCH-3200).
func EnginePlans(c config.Config) ([]provision.Plan, error) {
	m, err := provision.ThisMachine(provision.Options{})
	if err != nil {
		return nil, err
	}
	plans := make([]provision.Plan, len(c.Pools))
	for i, p := range c.Pools {
		w := wantOf(c, p)
		w.Model = p.Model.Path
		if plans[i], err = provision.MakePlan(w, m); err != nil {
			return nil, fmt.Errorf("pool %s: %w", p.ID, err)
		}
	}
	return plans, nil
}

// engineSpec fills in how a pool gets its workers.
func engineSpec(s *pool.Spec, c config.Config, p config.Pool, by *Engines) {
	v := p.Provisioning
	s.Mode, s.BinaryPath = pool.Mode(v.Mode), v.Path
	switch {
	case v.Mode == config.ModeBuiltin && p.Device != config.CPU:
		if dir, err := provision.LocateCUDALibs(); err == nil { // where it fails, the pool's health says what is missing
			s.LibsDir = dir
		}
	case v.Mode == config.ModeContainer:
		s.Recipe = recipe{wantOf(c, p), by}
		if plan, err := provision.MakePlan(wantOf(c, p), provision.User()); err == nil && plan.Launch != nil {
			l := plan.Launch
			s.Container = &process.Container{Argv: l.Argv, GPUs: l.GPUs, Model: l.Model, Port: l.Port}
		}
	case v.Mode == config.ModePackage || v.Mode == config.ModeSource || v.URL != "":
		s.Mode, s.BinaryPath, s.Recipe = pool.Binary, "", recipe{wantOf(c, p), by}
	}
}

// Engines prepares engines for the pools.
type Engines struct {
	options provision.Options
	log     *zap.Logger
}

// NewEngines makes an Engines. The policy decides on each call that leaves the machine, engines are downloaded in the way that models
// are, and the catalog records what was prepared.
func NewEngines(o provision.Options, f *fetch.Fetcher, p *policy.Policy, s *Shelf, log *zap.Logger) *Engines {
	if o.Fetch == nil {
		o.Fetch = Fetcher{Fetcher: f}
	}
	if o.Decide == nil {
		o.Decide = decider{p}
	}
	if o.Record == nil {
		o.Record = recorder{s}
	}
	return &Engines{o, log}
}

// decider implements provision.Decider with the policy.
type decider struct{ *policy.Policy }

// Decide implements provision.Decider.
func (d decider) Decide(ctx context.Context, target string) error {
	t, err := policy.ParseTarget(target)
	if err != nil {
		return err
	}
	return d.Policy.Decide(ctx, policy.Download, t)
}

// recorder implements provision.Recorder with the catalog.
type recorder struct{ *Shelf }

// Prepared implements provision.Recorder.
func (r recorder) Prepared(e provision.Prepared) error {
	return r.Catalog.Prepared(catalog.Engine{
		Engine: e.Engine, Version: e.Version, Mode: string(e.Mode), BuildRef: e.BuildRef, Digest: e.Digest, Flags: e.Flags, Path: e.Path,
	})
}

// Checked implements provision.Recorder.
func (r recorder) Checked(engine string, matches bool) { r.EngineChecked(engine, matches) }

// recipe is pool.Recipe: the engine that a pool wants, and who makes it.
type recipe struct {
	want provision.Want
	by   *Engines
}

// Prepare implements pool.Recipe.
func (r recipe) Prepare(ctx context.Context) (pool.Prepared, error) {
	e, want := r.by, r.want
	m, err := provision.ThisMachine(e.options)
	if err != nil {
		return pool.Prepared{}, err
	}
	plan, err := provision.MakePlan(want, m)
	if err != nil {
		return pool.Prepared{}, err
	}
	o := e.options
	o.Progress = func(step string) {
		e.log.Info("preparing an engine", zap.String("pool_id", want.Pool), zap.String("mode", string(want.Mode)), zap.String("step", step))
	}
	o.Output = func(line string) {
		e.log.Debug("preparing an engine", zap.String("pool_id", want.Pool), zap.String("line", line))
	}
	made, err := provision.Run(ctx, o, plan)
	return pool.Prepared{Path: made.Path, Digest: made.Digest, BuildRef: made.BuildRef, Flags: made.Flags}, err
}

// found records the engines that need no preparing (OC-CAT-56): the packaged libraries in the cache, and programs. It does not record a
// folder of libraries that somebody named: nobody knows what is in it.
func (e *Engines) found(ctx context.Context, c config.Config) {
	m, err := provision.ThisMachine(e.options)
	if err != nil || e.options.Record == nil {
		return
	}
	for _, p := range c.Pools {
		if v := p.Provisioning; v.Mode != config.ModeBuiltin && (v.Mode != config.ModeBinary || v.URL != "") {
			continue
		}
		plan, err := provision.MakePlan(wantOf(c, p), m)
		if err == nil && plan.BuildRef == provision.EnvEngineLibs {
			continue
		}
		if err == nil {
			err = provision.Found(ctx, e.options, plan)
		}
		if err != nil { // the pool's health says what keeps it from serving
			e.log.Warn("an engine is not in the catalog", zap.String("pool_id", p.ID), zap.Error(err))
		}
	}
}

// Missing says in one line what a plan needs that this machine lacks, and how to get it. It is empty where nothing is missing.
func Missing(p provision.Plan) string {
	if err := provision.Lacks(p); err != nil {
		return strings.TrimSpace(err.Error())
	}
	return ""
}
