// SPDX-License-Identifier: GPL-3.0-or-later

package bundle

import (
	"strconv"

	"github.com/llama-orch/llama-orch/contracts/proof"
	"github.com/llama-orch/llama-orch/service/task"
)

func messages(in []task.Message) (out []proof.Message) {
	for _, m := range in {
		p := proof.Message{Role: m.Role, Content: m.Content, Reasoning: m.Reasoning, ToolCallID: m.ToolCallID}
		for _, part := range m.Parts {
			if part.Image == nil {
				p.Parts = append(p.Parts, proof.Part{Type: "text", Text: part.Text})
				continue
			}
			p.Parts = append(p.Parts, proof.Part{Type: "image", MediaType: part.Image.MIME, Data: part.Image.Data})
		}
		for _, c := range m.ToolCalls {
			p.ToolCalls = append(p.ToolCalls, proof.ToolCall(c))
		}
		out = append(out, p)
	}
	return out
}

// chat is what was asked besides the messages, with the names that the API has.
func chat(c *task.Chat) (out proof.Chat) {
	if c == nil {
		return out
	}
	for _, t := range c.Tools {
		out.Tools = append(out.Tools, proof.Tool(t))
	}
	out.ToolChoice = string(c.ToolChoice)
	if c.ToolChoice == task.ChooseTool {
		out.ToolChoice = c.ToolName
	}
	out.ParallelToolCalls, out.TemplateArgs = c.ParallelCalls, c.TemplateArgs
	if f := c.Format; f != nil {
		out.Format = &proof.AnswerFormat{Type: "json_object", Schema: f.Schema, Grammar: f.Grammar}
		switch {
		case f.Kind == task.FormatGrammar:
			out.Format.Type = "grammar"
		case len(f.Schema) > 0:
			out.Format.Type = "json_schema"
		}
	}
	if c.Reasoning != (task.Reasoning{}) {
		wish := proof.Thinking(c.Reasoning)
		out.Reasoning = &wish
	}
	if l := c.Logprobs; l != nil {
		out.Logprobs, out.TopLogprobs = true, l.Top
	}
	for _, b := range c.LogitBias {
		if out.LogitBias == nil {
			out.LogitBias = map[string]float64{}
		}
		out.LogitBias[strconv.Itoa(b.Token)] = b.Bias
	}
	return out
}

// runs joins the marks of tokens that follow each other and are alike.
func runs(marks []task.Mark) (out []proof.Run) {
	for _, m := range marks {
		kind := proof.Reasoning
		if m.Kind == task.EventToolCall {
			kind = proof.Call
		}
		r := proof.Run{From: m.Piece, Tokens: 1, Kind: kind, N: m.Call.N, ID: m.Call.ID, Name: m.Call.Name}
		if n := len(out); n > 0 {
			last := &out[n-1]
			longer := r
			longer.From, longer.Tokens = last.From, m.Piece-last.From
			if longer == *last {
				last.Tokens++
				continue
			}
		}
		out = append(out, r)
	}
	return out
}
