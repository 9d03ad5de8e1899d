// SPDX-License-Identifier: GPL-3.0-or-later

package api

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/go-faster/jx"

	"github.com/llama-orch/llama-orch/gen"
	"github.com/llama-orch/llama-orch/service/task"
)

// toMessages maps the turns of a chat (LO-415).
func toMessages(in []gen.Message) ([]task.Message, error) {
	var out []task.Message
	for i, m := range in {
		t := task.Message{Role: string(m.Role), Reasoning: m.Reasoning.Or(""), ToolCallID: m.ToolCallID.Or("")}
		for _, c := range m.ToolCalls {
			t.ToolCalls = append(t.ToolCalls, task.ToolCall{ID: c.ID, Name: c.Name, Arguments: c.Arguments})
		}
		content, there := m.Content.Get()
		if !there && len(m.ToolCalls) == 0 {
			return nil, task.Errorf(task.InvalidParams, "`messages[%d].content` is missing: give a text, or a list of parts", i)
		}
		var err error
		if t.Content, t.Parts, err = toContent(content, i); err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	return out, nil
}

// toContent maps the content of message i: to parts if it has an image, else to its text.
func toContent(c gen.MessageContent, i int) (text string, parts []task.Part, err error) {
	if !c.IsPartArray() {
		return c.String, nil, nil
	}
	var texts strings.Builder
	images := false
	for j, p := range c.PartArray {
		wrong := func(what string) *task.Error {
			return task.Errorf(task.InvalidParams, "`messages[%d].content[%d]` is %s", i, j, what)
		}
		switch p.Type {
		case gen.PartTypeText:
			if !p.Text.Set || p.MediaType.Set || p.Data.Set {
				return "", nil, wrong("a text: give it `text`, and neither `media_type` nor `data`")
			}
			texts.WriteString(p.Text.Value)
			if n := len(parts); n > 0 && parts[n-1].Image == nil {
				parts[n-1].Text += p.Text.Value
			} else {
				parts = append(parts, task.Part{Text: p.Text.Value})
			}
		case gen.PartTypeImage:
			if p.Text.Set || !p.MediaType.Set || !p.Data.Set {
				return "", nil, wrong("an image: give it `media_type` and `data`, and no `text`")
			}
			data, err := base64.StdEncoding.DecodeString(p.Data.Value)
			if err != nil {
				return "", nil, wrong("an image whose `data` is no base64: encode the image's file with the standard alphabet and padding").Because(err)
			}
			image := task.Image{MIME: string(p.MediaType.Value), Data: data}
			if is := image.Type(); is != "" && is != image.MIME { // admission refuses what is none
				return "", nil, wrong("an image of the type " + is + ", and says that it is " + image.MIME + ": say what it is")
			}
			images = true
			parts = append(parts, task.Part{Image: &image})
		}
	}
	if !images {
		return texts.String(), nil, nil
	}
	return "", parts, nil
}

// toChat maps what a chat asks besides its messages. It is nil where it asks nothing.
func toChat(r *gen.TaskRequest) (*task.Chat, error) {
	var c task.Chat
	for _, t := range r.Tools {
		c.Tools = append(c.Tools, task.Tool{Name: t.Name, Description: t.Description.Or(""), Parameters: compact(t.Parameters)})
	}
	switch choice := r.ToolChoice.Or(""); choice {
	case "", "auto":
	case string(task.ChooseNone), string(task.ChooseRequired):
		c.ToolChoice = task.ToolChoice(choice)
	default:
		c.ToolChoice, c.ToolName = task.ChooseTool, choice
	}
	c.ParallelCalls = pointer(r.ParallelToolCalls.Get())
	c.TemplateArgs = compact(r.TemplateArgs)
	if w, ok := r.Reasoning.Get(); ok {
		c.Reasoning = task.Reasoning{
			Split: w.Split.Or(false), Enabled: pointer(w.Enabled.Get()), Effort: w.Effort.Or(""), Budget: w.Budget.Or(0),
		}
	}
	var err error
	if f, ok := r.Format.Get(); ok {
		if c.Format, err = toFormat(f); err != nil {
			return nil, err
		}
	}
	for key, bias := range r.LogitBias.Or(nil) {
		token, err := strconv.ParseUint(key, 10, 31)
		if err != nil || strconv.FormatUint(token, 10) != key {
			return nil, task.Errorf(task.InvalidParams, "`logit_bias` is by the ids of tokens, such as \"1734\", and %q is none", task.Clip(key, maxQuote))
		}
		c.LogitBias = append(c.LogitBias, task.Bias{Token: int(token), Bias: bias})
	}
	top, alternatives := r.TopLogprobs.Get()
	if alternatives && !r.Logprobs.Or(false) {
		return nil, task.Errorf(task.InvalidParams, "`top_logprobs` is for `logprobs`: set that to true, or leave `top_logprobs` out")
	}
	if r.Logprobs.Or(false) {
		c.Logprobs = &task.Logprobs{Top: top}
	}
	slices.SortFunc(c.LogitBias, func(a, b task.Bias) int { return cmp.Compare(a.Token, b.Token) })
	if reflect.ValueOf(c).IsZero() {
		return nil, nil //nolint:nilnil // nothing is asked, and that is no error
	}
	return &c, nil
}

func toFormat(f gen.Format) (*task.Format, error) {
	schema, grammar := f.Type == gen.FormatTypeJSONSchema, f.Type == gen.FormatTypeGrammar
	switch {
	case schema != (f.Schema != nil):
		return nil, task.Errorf(task.InvalidParams, "`format.schema` is for `format.type` json_schema, which needs it")
	case grammar != f.Grammar.Set:
		return nil, task.Errorf(task.InvalidParams, "`format.grammar` is for `format.type` grammar, which needs it")
	case grammar:
		return &task.Format{Kind: task.FormatGrammar, Grammar: f.Grammar.Value}, nil
	}
	return &task.Format{Kind: task.FormatJSON, Schema: compact(f.Schema)}, nil
}

// compact is JSON without its white space, as the record keeps it.
func compact(raw jx.Raw) json.RawMessage {
	if raw == nil {
		return nil
	}
	var b bytes.Buffer
	b.Grow(len(raw))
	if err := json.Compact(&b, raw); err != nil {
		return json.RawMessage(raw) // admission says what is wrong with it
	}
	return b.Bytes()
}

func toCalls(calls []task.ToolCall) []gen.ToolCall {
	var out []gen.ToolCall
	for _, c := range calls {
		out = append(out, gen.ToolCall{ID: task.Clip(c.ID, maxCallName), Name: task.Clip(c.Name, maxCallName), Arguments: c.Arguments})
	}
	return out
}

// maxCallName is what the contract allows for a call's id and name.
const maxCallName = 256

// optForm is the form of a transcript's digest. What an earlier version recorded has none.
func optForm(f task.TranscriptForm) gen.OptReceiptTranscriptForm {
	return gen.NewOptReceiptTranscriptForm(gen.ReceiptTranscriptForm(cmp.Or(f, task.FormText)))
}
