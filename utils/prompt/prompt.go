// SPDX-License-Identifier: GPL-3.0-or-later

// Package prompt makes texts and threads of messages (LO-912). Texts are strings; sdk.Say makes a message of one.
package prompt

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/template"
	"unicode/utf8"

	"github.com/llama-orch/llama-orch/internal/nearest"
	"github.com/llama-orch/llama-orch/sdk"
	"github.com/llama-orch/llama-orch/utils/fs"
)

// MaxText bounds what a template makes, in bytes.
const MaxText = 16 << 20

// Lines joins lines to a text that ends with a line feed.
func Lines(lines ...string) string {
	if len(lines) == 0 {
		return ""
	}
	return strings.Join(lines, "\n") + "\n"
}

// Dedent removes the indent that all lines have, and the empty lines before and behind them: for texts that stand indented in a program. Tabs and spaces are
// not the same.
func Dedent(text string) string {
	lines := strings.Split(text, "\n")
	indent, found := "", false
	for i, line := range lines {
		bare := strings.TrimLeft(line, " \t")
		if strings.TrimRight(bare, "\r") == "" {
			lines[i] = ""
			continue
		}
		own := line[:len(line)-len(bare)]
		if !found {
			indent, found = own, true
		}
		for !strings.HasPrefix(own, indent) {
			indent = indent[:len(indent)-1]
		}
	}
	for i, line := range lines {
		lines[i] = strings.TrimPrefix(line, indent)
	}
	return strings.Trim(strings.Join(lines, "\n"), "\n")
}

// ErrNotText says that a file is not text in UTF-8.
var ErrNotText = errors.New("it is not text in UTF-8")

// File reads a text below a root.
func File(root *fs.Root, name string) (string, error) {
	content, err := root.Read(name)
	if err == nil && !utf8.Valid(content) {
		err = fmt.Errorf("read %q: %w", name, ErrNotText)
	}
	return string(content), err
}

// TemplateError says what is wrong with a template, or with its values.
type TemplateError struct{ Err error }

func (e *TemplateError) Error() string {
	return fmt.Sprintf("the template cannot be filled: %v; it is one of Go's, such as `Dear {{.name}}`", e.Err)
}

func (e *TemplateError) Unwrap() error { return e.Err }

// Template fills a template of text/template with values. A value that is not there is an error.
func Template(text string, values map[string]any) (string, error) {
	t, err := template.New("prompt").Option("missingkey=error").Funcs(template.FuncMap{"join": join, "dedent": Dedent}).Parse(text)
	if err != nil {
		return "", &TemplateError{Err: err}
	}
	var b limited
	if err := t.Execute(&b, values); err != nil {
		if missing, ok := missingKey(t, values); ok {
			err = fmt.Errorf("%w%s", err, missing)
		}
		return "", &TemplateError{Err: err}
	}
	return b.String(), nil
}

// join joins a list of any values, as JSON has them.
func join(separator string, list []any) string {
	parts := make([]string, len(list))
	for i, one := range list {
		parts[i] = fmt.Sprint(one)
	}
	return strings.Join(parts, separator)
}

// missingKey finds the name that somebody may have meant.
func missingKey(t *template.Template, values map[string]any) (string, bool) {
	known := slices.Sorted(maps.Keys(values))
	for _, word := range strings.FieldsFunc(t.Root.String(), func(r rune) bool { return strings.ContainsRune("{}() |\n\t", r) }) {
		name, ok := strings.CutPrefix(word, ".")
		if _, there := values[name]; !ok || there || name == "" {
			continue
		}
		if like := nearest.Name(name, known); like != "" {
			return fmt.Sprintf("; did you mean %q?", like), true
		}
	}
	return "", false
}

// limited is a text of bounded length.
type limited struct{ strings.Builder }

var errTooLong = fmt.Errorf("it makes more than %d bytes", MaxText)

// Write implements io.Writer.
func (b *limited) Write(p []byte) (int, error) {
	if b.Len()+len(p) > MaxText {
		return 0, errTooLong
	}
	return b.Builder.Write(p)
}

// OrderError says which message cannot stand where it does.
type OrderError struct {
	Index   int // of the message, from 0; the length of the thread: one is missing there
	Problem string
}

func (e *OrderError) Error() string { return fmt.Sprintf("message %d: %s", e.Index, e.Problem) }

// Thread joins messages to a thread that a model takes: one system message at the beginning, then the user's and the assistant's in turn, with the results of tools
// behind the calls. Messages of one role that follow each other become one, where they are text; those of the system go to the front.
func Thread(parts ...[]sdk.Message) ([]sdk.Message, error) {
	var system, thread []sdk.Message
	open := map[string]bool{} // calls that wait for their results
	for i, m := range slices.Concat(parts...) {
		switch m.Role {
		case sdk.RoleSystem:
			system = fold(system, m)
			continue
		case sdk.RoleTool:
			if !open[m.ToolCallID] {
				return nil, &OrderError{Index: i, Problem: fmt.Sprintf("it is the result of a call %q, which no message before it makes: keep the assistant's message with its calls", m.ToolCallID)}
			}
			delete(open, m.ToolCallID)
			thread = append(thread, m)
			continue
		case sdk.RoleUser, sdk.RoleAssistant:
		default:
			return nil, &OrderError{Index: i, Problem: fmt.Sprintf("there is no role %q: take system, user, assistant or tool", m.Role)}
		}
		if len(open) > 0 {
			return nil, &OrderError{Index: i, Problem: fmt.Sprintf("the result of the call %q has to come first", slices.Sorted(maps.Keys(open))[0])}
		}
		if len(thread) == 0 && m.Role != sdk.RoleUser {
			return nil, &OrderError{Index: i, Problem: "a thread begins with a user's message: put one before it"}
		}
		for _, call := range m.ToolCalls {
			open[call.ID] = true
		}
		thread = fold(thread, m)
	}
	if len(thread) == 0 {
		return nil, &OrderError{Problem: "there is no user's message: add one"}
	}
	if len(open) > 0 {
		return nil, &OrderError{Index: len(system) + len(thread), Problem: fmt.Sprintf("the result of the call %q is missing: add it", slices.Sorted(maps.Keys(open))[0])}
	}
	return append(system, thread...), nil
}

// fold appends a message, or joins it to the last one.
func fold(thread []sdk.Message, m sdk.Message) []sdk.Message {
	if n := len(thread) - 1; n >= 0 && thread[n].Role == m.Role && plain(thread[n]) && plain(m) {
		thread[n].Content.Text += "\n\n" + m.Content.Text
		return thread
	}
	return append(thread, m)
}

// plain reports whether a message is text alone.
func plain(m sdk.Message) bool {
	return m.Content.Parts == nil && len(m.ToolCalls) == 0 && m.Reasoning == "" && m.ToolCallID == ""
}
