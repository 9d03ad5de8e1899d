// SPDX-License-Identifier: GPL-3.0-or-later

package sdk

import "github.com/llama-orch/llama-orch/contracts/proof"

// Again makes the request that runs a bundle's task again, with the recorded seed and every sampling value as it was (LO-301).
// Where the bundle does not keep the request's words, the server takes them from its record of the task, as long as it has that.
func Again(p *proof.Bundle) *TaskRequest {
	in := p.Request
	r := &TaskRequest{
		ModelRef: in.ModelRef, Prompt: in.Prompt, Inputs: in.Inputs, Seed: new(int64(p.Seed)), Workload: Workload(in.Workload),
		Priority: Priority(in.Priority), Determinism: Determinism(p.Determinism), MaxTokens: in.MaxTokens, Ctx: in.Ctx,
	}
	if !in.Kept {
		r.ReplayOf = p.TaskID
	}
	for _, m := range in.Messages {
		r.Messages = append(r.Messages, messageOf(m))
	}
	if in.Chat != nil {
		chat(r, *in.Chat)
	}
	if r.Workload == WorkloadCompletion {
		s := p.Sampling
		r.SamplerProfileVersion = s.Profile
		r.Params = &Params{Temperature: &s.Temperature, TopP: &s.TopP, TopK: &s.TopK, MinP: &s.MinP, RepeatPenalty: s.RepeatPenalty, Stop: s.Stop}
	}
	return r
}

// messageOf is a message of a proof bundle as a request has it.
func messageOf(m proof.Message) Message {
	out := Message{Role: Role(m.Role), Content: Content{Text: m.Content}, Reasoning: m.Reasoning, ToolCallID: m.ToolCallID}
	if len(m.Parts) > 0 {
		out.Content = Content{}
	}
	for _, p := range m.Parts {
		part := Part{Type: PartTypeText, Text: p.Text}
		if p.Type == string(PartTypeImage) {
			part = image(MediaType(p.MediaType), p.Data)
		}
		out.Content.Parts = append(out.Content.Parts, part)
	}
	for _, c := range m.ToolCalls {
		out.ToolCalls = append(out.ToolCalls, Call(c))
	}
	return out
}

// chat puts what a bundle's task asked of a chat into a request.
func chat(r *TaskRequest, c proof.Chat) {
	for _, t := range c.Tools {
		r.Tools = append(r.Tools, Tool{Name: t.Name, Description: t.Description, Parameters: t.Parameters})
	}
	r.ToolChoice, r.ParallelToolCalls = c.ToolChoice, c.ParallelToolCalls
	if f := c.Format; f != nil {
		r.Format = &Format{Type: FormatType(f.Type), Schema: f.Schema, Grammar: f.Grammar}
	}
	if w := c.Reasoning; w != nil {
		r.Reasoning = &ReasoningWish{Split: w.Split, Enabled: w.Enabled, Effort: w.Effort, Budget: w.Budget}
	}
	r.LogitBias, r.Logprobs, r.TopLogprobs, r.TemplateArgs = c.LogitBias, c.Logprobs, c.TopLogprobs, c.TemplateArgs
}
