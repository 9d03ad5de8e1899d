// SPDX-License-Identifier: GPL-3.0-or-later

package sdk

import (
	"github.com/llama-orch/llama-orch/contracts/proof"
	"github.com/llama-orch/llama-orch/gen"
)

// Again makes the request that runs a bundle's task again, with the recorded seed and every sampling value as it was (LO-301).
// Where the bundle does not keep the request's words, the server takes them from its record of the task, as long as it has that.
func Again(p *proof.Bundle) *gen.TaskRequest {
	in := p.Request
	r := &gen.TaskRequest{
		ModelRef: gen.ModelRef(in.ModelRef), Inputs: in.Inputs, Seed: gen.NewOptSeed(gen.Seed(p.Seed)),
		Workload: gen.NewOptTaskRequestWorkload(gen.TaskRequestWorkload(in.Workload)),
		Priority: gen.NewOptTaskRequestPriority(gen.TaskRequestPriority(in.Priority)),
	}
	if !in.Kept {
		r.ReplayOf.SetTo(gen.TaskID(p.TaskID))
	}
	if p.Determinism != "" {
		r.Determinism.SetTo(gen.Determinism(p.Determinism))
	}
	if in.Prompt != "" {
		r.Prompt.SetTo(in.Prompt)
	}
	for _, m := range in.Messages {
		r.Messages = append(r.Messages, messageOf(m))
	}
	if in.Chat != nil {
		ask(r, *in.Chat)
	}
	if in.MaxTokens > 0 {
		r.MaxTokens.SetTo(in.MaxTokens)
	}
	if in.Ctx > 0 {
		r.Ctx.SetTo(in.Ctx)
	}
	if in.Workload == string(gen.WorkloadCompletion) {
		s := p.Sampling
		if s.Profile != "" {
			r.SamplerProfileVersion.SetTo(s.Profile)
		}
		r.Params.SetTo(gen.Params{
			Temperature: gen.NewOptFloat64(s.Temperature), TopP: gen.NewOptFloat64(s.TopP), TopK: gen.NewOptInt(s.TopK),
			MinP: gen.NewOptFloat64(s.MinP), RepeatPenalty: gen.NewOptFloat64(s.RepeatPenalty), Stop: s.Stop,
		})
	}
	return r
}
