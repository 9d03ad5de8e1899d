// SPDX-License-Identifier: GPL-3.0-or-later

package control

import (
	"slices"

	"github.com/llama-orch/llama-orch/service/flow/admission"
	"github.com/llama-orch/llama-orch/service/flow/placement"
	"github.com/llama-orch/llama-orch/service/flow/scheduler"
	"github.com/llama-orch/llama-orch/service/supply/catalog"
	"github.com/llama-orch/llama-orch/service/task"
)

// Candidates returns the pools as admission asks for them.
func (f Fleet) Candidates(s *scheduler.Scheduler) admission.Pools {
	return candidates{f, s, &slowness{}}
}

// candidates implements admission.Pools.
type candidates struct {
	Fleet
	schedule *scheduler.Scheduler
	slow     *slowness
}

func (f candidates) Snapshot(p task.Priority) []admission.Pool {
	now := f.config()
	pools := make([]admission.Pool, len(now.Pools))
	for i, c := range now.Pools {
		s, profile := f.summary(c), now.Profile(c)
		facts, bits, retired := f.shelf.facts(c)
		if s.ctx == 0 {
			s.ctx = facts.CtxMax
		}
		if facts.Quantisation == "" && c.Model.Path != "" { // Resolve has read it, if the request wants to know
			facts.Quantisation = f.files.seen(c.Model.Path).Quantisation
		}
		pools[i] = admission.Pool{
			Pool: placement.Pool{
				ID: c.ID, Engine: c.Engine, ModelID: c.Model.ID, Ref: c.Model.Canonical, Workload: c.Workload, Routes: c.Routes, Ctx: s.ctx, Strict: s.strict,
				Profile: c.SamplerProfile, Ready: s.ready > 0, Retired: retired, Quantisation: facts.Quantisation, Bits: bits,
				NoTemplate: facts.Format != "" && !slices.Contains(facts.Features, catalog.FeatureChatTemplate),
				OnDemand:   onDemand(c), Standing: f.standing(c), Wait: f.schedule.Wait(c.ID, p), Backlog: f.schedule.Backlog(c.ID),
				Features: s.features,
			},
			EngineVersion: s.version, Faces: f.manager.Faces(c.ID), Rules: rules(c.Params),
			Sampling: task.Sampling{
				Profile: c.SamplerProfile, Temperature: profile.Temperature, TopP: profile.TopP, TopK: profile.TopK,
				MinP: profile.MinP, RepeatPenalty: profile.RepeatPenalty,
			},
		}
	}
	return pools
}

func (f candidates) Tokenizer(poolID string) (admission.Tokenizer, bool) {
	engines := f.manager.Engines(poolID)
	return asking{engines, f.slow, f.now}, len(engines) > 0
}
