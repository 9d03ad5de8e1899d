// SPDX-License-Identifier: GPL-3.0-or-later

package worker

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var hello = json.RawMessage(`{"messages":[{"role":"user","content":"hello"}],"add_generation_prompt":true}`)

// stop ends the process that renders, if one runs.
func (t *templates) stop() {
	if r := <-t.turn; r != nil {
		_ = r.end()
	}
}

// What a template is, and what is said of it. The process outlives what is only broken, and another follows one that passed its bounds.
// LO-804
func TestTemplatesAreProgramsWithBounds(t *testing.T) {
	templates := newTemplates()
	t.Cleanup(templates.stop)
	apply := func(source string) (string, error) {
		return templates.apply(t.Context(), &model{path: "/models/evil.gguf", template: source}, hello)
	}
	loop := func(deep int) string {
		return strings.Repeat("{% for i in range(20000) %}", deep) + strings.Repeat("{% endfor %}", deep)
	}
	for name, sent := range map[string]struct{ source, says string }{
		"broken":                    {"{% if %}{{", "cannot be used"},
		"broken in the middle":      {"{% for m in messages %}{{ m.content }}", "cannot be used"},
		"an unknown filter":         {"{{ messages | nonsense }}", "refused the messages"},
		"one that refuses":          {"{{ raise_exception('roles must alternate') }}", "refused the messages: roles must alternate"},
		"a macro that calls itself": {"{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}", "than a template may"},
		"a macro that grows":        {"{% macro f(x) %}{{ f(x ~ x) }}{% endmacro %}{{ f('aaaaaaaa') }}", "than a template may"},
		"nested loops":              {loop(2), "more time"},
		"deeply nested loops":       {loop(6), "more time"},
		"an endless list":           {"{% set l = range(100000000000) %}", "than a template may"},
		"a long text":               {"{{ 'x' * 10000000000 }}", "needs more memory"},
		"a text of less than 0":     {"{{ 'x' * -1 }}", "computes what cannot be"},
		"a text that doubles":       {"{% set n = namespace(x='xxxxxxxx') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}", "than a template may"},
		"a prompt that is too long": {"{{ 'x' * 20000000 }}", "makes a prompt of 20000000 bytes|takes more time than"}, // the race detector takes its time
		"brackets":                  {"{{ " + strings.Repeat("(", 200_000) + "1" + strings.Repeat(")", 20_000) + " }}", "than a template may"},
		"a template that is long":   {strings.Repeat("x", 1<<20), "has 1048576 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := apply(sent.source)
			var refused *apiError
			require.ErrorAs(t, err, &refused)
			require.Equal(t, http.StatusBadRequest, refused.Code)
			require.Contains(t, refused.Message, "the chat template of evil.gguf")
			require.Regexp(t, sent.says, refused.Message)
			require.Less(t, len(refused.Message), 600)

			prompt, err := apply("{{ messages[0].content }}!")
			require.NoError(t, err)
			require.Equal(t, "hello!", prompt)
		})
	}
}

// LO-804: when the client goes, nothing is rendered for it any more.
func TestARenderingEndsWithItsClient(t *testing.T) {
	templates := newTemplates()
	t.Cleanup(templates.stop)
	source := &model{path: "evil.gguf", template: strings.Repeat("{% for i in range(20000) %}", 4) + strings.Repeat("{% endfor %}", 4)}
	gone := errors.New("the client went")
	ctx, leave := context.WithCancelCause(t.Context())
	time.AfterFunc(50*time.Millisecond, func() { leave(gone) })
	_, err := templates.apply(ctx, source, hello)
	require.ErrorIs(t, err, gone)
	r := <-templates.turn
	require.Nil(t, r, "the process has ended")
	templates.turn <- r

	_, err = templates.apply(ctx, source, hello)
	require.ErrorIs(t, err, gone)
}

// LO-804: without a template of its own a model gets ChatML.
func TestAModelWithoutATemplate(t *testing.T) {
	templates := newTemplates()
	t.Cleanup(templates.stop)
	prompt, err := templates.apply(t.Context(), &model{path: "x.gguf"}, hello)
	require.NoError(t, err)
	require.Equal(t, "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n", prompt)
}

// LO-804: a process that somebody ended while it had nothing to do is replaced, and no template is blamed.
func TestARendererThatWasKilled(t *testing.T) {
	templates := newTemplates()
	t.Cleanup(templates.stop)
	fine := &model{path: "x.gguf", template: "{{ messages[0].content }}"}
	_, err := templates.apply(t.Context(), fine, hello)
	require.NoError(t, err)
	r := <-templates.turn
	require.NoError(t, r.command.Process.Kill())
	_, err = r.out.ReadByte()
	require.ErrorIs(t, err, io.EOF)
	require.Eventually(t, r.dead, 10*time.Second, time.Millisecond)
	templates.turn <- r
	prompt, err := templates.apply(t.Context(), fine, hello)
	require.NoError(t, err)
	require.Equal(t, "hello", prompt)
}

// LO-804: nor is it blamed for the end of a process that somebody kills while it renders. It is rendered again.
func TestARendererThatIsKilledWhileItRenders(t *testing.T) {
	templates := newTemplates()
	t.Cleanup(templates.stop)
	slow := &model{path: "x.gguf", template: strings.Repeat("{% for i in range(100) %}", 2) + strings.Repeat("{% endfor %}", 2) + "{{ messages[0].content }}"}
	for range 20 {
		_, err := templates.apply(t.Context(), slow, hello)
		require.NoError(t, err)
		r := <-templates.turn
		pid := r.command.Process.Pid
		templates.turn <- r
		killed := make(chan error)
		go func() { killed <- syscall.Kill(pid, syscall.SIGKILL) }()
		prompt, err := templates.apply(t.Context(), slow, hello)
		require.NoError(t, err)
		require.Equal(t, "hello", prompt)
		require.NoError(t, <-killed)
	}
}

// LO-410: a template gets all that a chat has: the text of parts, the results of tools, arguments.
func TestATemplateGetsTheWholeChat(t *testing.T) {
	m := &model{path: "/models/chat.gguf", template: `{%- for m in messages -%}{{- m.role + ':' + m.content -}}` +
		`{%- for c in m.tool_calls or [] -%}{{- '(' + c.function.name + ' ' + c.function.arguments.path + ')' -}}{%- endfor -%};{%- endfor -%}` +
		`{%- for tool in tools -%}{{- tool.function.name -}}{%- endfor -%} {{ mood }} {{ n + 1 }} {{ enable_thinking }} {{ reasoning_effort }}`}
	templates := newTemplates()
	t.Cleanup(templates.stop)
	var c chat
	require.NoError(t, json.Unmarshal([]byte(`{"messages": [
		{"role": "user", "content": [{"type": "text", "text": "read "}, {"type": "text", "text": "it"}]},
		{"role": "assistant", "content": null, "tool_calls": [{"id": "1", "type": "function", "function": {"name": "read", "arguments": "{\"path\": \"a.txt\"}"}}]},
		{"role": "tool", "tool_call_id": "1", "content": "words"}],
		"tools": [{"type": "function", "function": {"name": "read"}}], "reasoning_effort": "high",
		"chat_template_kwargs": {"mood": "calm", "n": 2, "enable_thinking": false}}`), &c))
	used, err := c.used()
	require.NoError(t, err)
	prompt, err := templates.apply(t.Context(), m, used)
	require.NoError(t, err)
	require.Equal(t, "user:read it;assistant:(read a.txt);tool:words;readcalm 3 False high", prompt)
	for body, says := range map[string]string{
		`{}`: "non-empty",
		`{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:"}}]}]}`: "message 0: the built-in worker takes parts of text only",
		`{"messages":[{"role":"user","content":7}]}`:                                                  "must be a text",
	} {
		var c chat
		require.NoError(t, json.Unmarshal([]byte(body), &c))
		_, err := c.used()
		require.ErrorContains(t, err, says)
	}
}
