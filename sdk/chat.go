// SPDX-License-Identifier: GPL-3.0-or-later

package sdk

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"

	"github.com/go-faster/jx"

	"github.com/llama-orch/llama-orch/contracts/proof"
	"github.com/llama-orch/llama-orch/gen"
)

// Say is a message of text.
func Say(role gen.MessageRole, text string) gen.Message {
	return gen.Message{Role: role, Content: gen.NewOptMessageContent(gen.NewStringMessageContent(text))}
}

// Show is a message of a text and images, each the bytes of a PNG, JPEG, WebP or GIF file.
func Show(role gen.MessageRole, text string, images ...[]byte) (gen.Message, error) {
	var parts []gen.Part
	if text != "" {
		parts = append(parts, textPart(text))
	}
	for i, file := range images {
		kind := gen.PartMediaType(http.DetectContentType(file))
		if !slices.Contains(kind.AllValues(), kind) {
			return gen.Message{}, fmt.Errorf("image %d of a message is %s: give a PNG, JPEG, WebP or GIF file", i, kind)
		}
		parts = append(parts, imagePart(kind, file))
	}
	return gen.Message{Role: role, Content: gen.NewOptMessageContent(gen.NewPartArrayMessageContent(parts))}, nil
}

// Result is the message that answers a call of a tool.
func Result(callID, text string) gen.Message {
	m := Say(gen.MessageRoleTool, text)
	m.ToolCallID.SetTo(callID)
	return m
}

// Said is the message for the next turn that holds what the model answered: its text, its thinking and its calls.
func Said(text, reasoning string, calls []gen.ToolCall) gen.Message {
	m := gen.Message{Role: gen.MessageRoleAssistant, ToolCalls: calls}
	if text != "" || len(calls) == 0 {
		m.Content.SetTo(gen.NewStringMessageContent(text))
	}
	if reasoning != "" {
		m.Reasoning.SetTo(reasoning)
	}
	return m
}

func textPart(text string) gen.Part {
	return gen.Part{Type: gen.PartTypeText, Text: gen.NewOptString(text)}
}

func imagePart(kind gen.PartMediaType, file []byte) gen.Part {
	return gen.Part{
		Type: gen.PartTypeImage, MediaType: gen.NewOptPartMediaType(kind), Data: gen.NewOptString(base64.StdEncoding.EncodeToString(file)),
	}
}

// messageOf is a message of a proof bundle as a request has it.
func messageOf(m proof.Message) gen.Message {
	out := gen.Message{Role: gen.MessageRole(m.Role), Content: gen.NewOptMessageContent(gen.NewStringMessageContent(m.Content))}
	if len(m.Parts) > 0 {
		parts := make([]gen.Part, len(m.Parts))
		for i, p := range m.Parts {
			if p.Type == string(gen.PartTypeImage) {
				parts[i] = imagePart(gen.PartMediaType(p.MediaType), p.Data)
			} else {
				parts[i] = textPart(p.Text)
			}
		}
		out.Content.SetTo(gen.NewPartArrayMessageContent(parts))
	}
	if m.Reasoning != "" {
		out.Reasoning.SetTo(m.Reasoning)
	}
	for _, c := range m.ToolCalls {
		out.ToolCalls = append(out.ToolCalls, gen.ToolCall(c))
	}
	if m.ToolCallID != "" {
		out.ToolCallID.SetTo(m.ToolCallID)
	}
	return out
}

// ask puts what a bundle's task asked of a chat into a request.
func ask(r *gen.TaskRequest, c proof.Chat) {
	for _, t := range c.Tools {
		tool := gen.Tool{Name: t.Name, Parameters: jx.Raw(t.Parameters)}
		if t.Description != "" {
			tool.Description.SetTo(t.Description)
		}
		r.Tools = append(r.Tools, tool)
	}
	if c.ToolChoice != "" {
		r.ToolChoice.SetTo(c.ToolChoice)
	}
	if c.ParallelToolCalls != nil {
		r.ParallelToolCalls.SetTo(*c.ParallelToolCalls)
	}
	if f := c.Format; f != nil {
		format := gen.Format{Type: gen.FormatType(f.Type), Schema: jx.Raw(f.Schema)}
		if f.Grammar != "" {
			format.Grammar.SetTo(f.Grammar)
		}
		r.Format.SetTo(format)
	}
	if w := c.Reasoning; w != nil {
		wish := gen.Reasoning{Split: gen.NewOptBool(w.Split)}
		if w.Enabled != nil {
			wish.Enabled.SetTo(*w.Enabled)
		}
		if w.Effort != "" {
			wish.Effort.SetTo(w.Effort)
		}
		if w.Budget > 0 {
			wish.Budget.SetTo(w.Budget)
		}
		r.Reasoning.SetTo(wish)
	}
	if len(c.LogitBias) > 0 {
		r.LogitBias.SetTo(c.LogitBias)
	}
	if c.Logprobs {
		r.Logprobs.SetTo(true)
	}
	if c.TopLogprobs > 0 {
		r.TopLogprobs.SetTo(c.TopLogprobs)
	}
	r.TemplateArgs = jx.Raw(c.TemplateArgs)
}
