// SPDX-License-Identifier: GPL-3.0-or-later

package applet

import (
	"context"
	"strings"

	"github.com/llama-orch/llama-orch/sdk"
	"github.com/llama-orch/llama-orch/utils/prompt"
)

// The inputs and results of prompt.*.
type (
	// Message is one of text. Go programs have all of sdk.Message.
	Message struct {
		Role string `json:"role" jsonschema:"enum=system,enum=user,enum=assistant"`
		Text string `json:"text"`
	}
	LinesIn struct {
		Lines     []string `json:"lines"`
		Separator *string  `json:"separator,omitempty" jsonschema:"description=default: a line feed\\, and one at the end"`
	}
	TemplateIn struct {
		Template string         `json:"template" jsonschema:"description=of Go: {{.name}}"`
		Values   map[string]any `json:"values,omitempty"`
	}
	Thread struct {
		Messages []Message `json:"messages"`
	}
)

func prompts() Catalog {
	return Catalog{
		acting(New("prompt.file", "Reads a text below the root and removes its common indent.", func(_ context.Context, env *Env, in FileName) (FileText, error) {
			root, err := env.root("prompt.file", in.Path)
			if err != nil {
				return FileText{}, err
			}
			text, err := prompt.File(root, in.Path)
			return FileText{Text: prompt.Dedent(text)}, err
		})),
		New("prompt.lines", "Joins lines to a text.", func(_ context.Context, _ *Env, in LinesIn) (FileText, error) {
			if in.Separator == nil {
				return FileText{Text: prompt.Lines(in.Lines...)}, nil
			}
			return FileText{Text: strings.Join(in.Lines, *in.Separator)}, nil
		}),
		New("prompt.dedent", "Removes the indent that all lines have.", func(_ context.Context, _ *Env, in FileText) (FileText, error) {
			return FileText{Text: prompt.Dedent(in.Text)}, nil
		}),
		New("prompt.template", "Fills a template with values.", func(_ context.Context, _ *Env, in TemplateIn) (FileText, error) {
			text, err := prompt.Template(in.Template, in.Values)
			return FileText{Text: text}, err
		}),
		New("prompt.thread", "Brings messages into an order that a model takes.", func(_ context.Context, _ *Env, in Thread) (Thread, error) {
			thread, err := prompt.Thread(messages(in.Messages))
			out := Thread{Messages: []Message{}}
			for _, m := range thread {
				out.Messages = append(out.Messages, Message{Role: string(m.Role), Text: m.Content.Text})
			}
			return out, err
		}),
	}
}

func messages(plain []Message) []sdk.Message {
	all := make([]sdk.Message, len(plain))
	for i, m := range plain {
		all[i] = sdk.Say(sdk.Role(m.Role), m.Text)
	}
	return all
}
