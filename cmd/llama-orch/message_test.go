// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"bytes"
	"encoding/base64"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/gen"
	"github.com/llama-orch/llama-orch/sdk"
	"github.com/llama-orch/llama-orch/service/task"
)

// answered are the pieces of an answer that thinks, speaks and calls.
func answered() []task.Piece {
	return []task.Piece{
		{Kind: task.EventReasoning, Text: "hm,"},
		{Kind: task.EventReasoning, Text: " rain"},
		{Kind: task.EventText, Text: "I look"},
		{Kind: task.EventToolCall, Call: task.CallPart{ID: "c0", Name: "weather"}},
		{Kind: task.EventToolCall, Text: "{\"city\":\n\"Bern\"}"},
		{Kind: task.EventToolCall, Text: "{}", Call: task.CallPart{N: 1, ID: "c1", Name: "clock"}},
	}
}

// LO-416
func TestRunShowsThinkingAndCalls(t *testing.T) {
	t.Parallel()
	d := newDaemon().chat(t, answered()...)
	addr := d.serve(t)
	got := call(t.Context(), addr, "", "run", "x", "--reasoning")
	require.Zero(t, got.code, got.err)
	require.Equal(t, "I look\ncall weather {\"city\": \"Bern\"} as c0\ncall clock {} as c1\n", got.out)
	_, digest := d.log.Transcript()
	require.Equal(t, "hm, rain\n6 tokens, 1.5 s, default-0, seed 7, receipt "+digest[:12]+"\n", got.err)
	require.True(t, d.request.Reasoning.Value.Split.Value)
	require.Equal(t, []gen.Message{say("user", "x")}, d.request.Messages)
	require.False(t, d.request.Prompt.Set)

	got = call(t.Context(), addr, "", "stream", "t")
	require.Contains(t, got.out, "call clock {} as c1\n", "and what was submitted elsewhere")

	got = call(t.Context(), addr, "", "--json", "run", "x")
	require.Zero(t, got.code)
	require.Contains(t, got.out, `"event":"tool_call","data":{"n":0,"id":"c0","name":"weather","arguments":""}}`)
	require.Contains(t, got.out, `"channel":"reasoning"`)
}

// say is a message of text as the server gets it.
func say(role gen.MessageRole, text string) gen.Message {
	return gen.Message{Role: role, Content: gen.NewOptMessageContent(gen.NewStringMessageContent(text))}
}

// On a terminal the thinking is faint, and nothing that a model writes controls it.
//
// LO-416
func TestThinkingOnATerminal(t *testing.T) {
	var out, errs bytes.Buffer
	v := &answer{app: &app{out: &out, err: &errs, env: func(string) string { return "" }}, plainOut: true, lineErr: true, ended: true}
	v.think("h\x1b[31mm")
	v.think("m")
	require.NoError(t, v.text("yes"))
	v.think("more\n")
	require.NoError(t, v.calls([]sdk.Call{{ID: "c\x1b", Name: "n", Arguments: "a\rb"}}))
	v.endLine()
	require.Equal(t, dim+"h[31mm"+bright+dim+"m"+bright+"\n"+dim+"more\n"+bright, errs.String())
	require.Equal(t, "yes\ncall n a b as c\n", out.String())
}

// LO-416
func TestRunAsksOfAChat(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	png := "\x89PNG\r\n\x1a\n..."
	image, tools, schema := file("a.png", png), file("tools.json", `[{"name":"weather","description":"d","parameters":{"type":"object"}},{"name":"clock"}]`), file("schema.json", "{ \"type\":\"object\" }\n")
	d := newDaemon().complete(t)
	addr := d.serve(t)
	got := call(t.Context(), addr, "", "run", "see", "--image", image, "--image", image, "--tools", tools, "--tool-choice", "weather", "--format", schema, "--system", "be brief")
	require.Zero(t, got.code, got.err)
	r := d.request
	data := gen.NewOptString(base64.StdEncoding.EncodeToString([]byte(png)))
	part := gen.Part{Type: gen.PartTypeImage, MediaType: gen.NewOptPartMediaType(gen.PartMediaTypeImagePNG), Data: data}
	require.Equal(t, say("system", "be brief"), r.Messages[0])
	require.Equal(t, []gen.Part{{Type: gen.PartTypeText, Text: gen.NewOptString("see")}, part, part}, r.Messages[1].Content.Value.PartArray)
	require.Len(t, r.Tools, 2)
	require.JSONEq(t, `{"type":"object"}`, string(r.Tools[0].Parameters))
	require.Equal(t, gen.NewOptString("weather"), r.ToolChoice)
	require.Equal(t, gen.FormatTypeJSONSchema, r.Format.Value.Type)
	require.JSONEq(t, `{"type":"object"}`, string(r.Format.Value.Schema))
	require.False(t, r.Reasoning.Set)

	got = call(t.Context(), addr, "[]", "run", "x", "--format", "json", "--tools", "-")
	require.Zero(t, got.code, got.err)
	require.Equal(t, gen.FormatTypeJSONObject, d.request.Format.Value.Type)

	d.request = nil
	for says, args := range map[string][]string{
		"no PNG, JPEG, WebP or GIF file": {"--image", tools},
		"no such file":                   {"--image", filepath.Join(dir, "none.png")},
		"is no JSON list of tools":       {"--tools", schema},
		"is not a JSON list of tools":    {"--tools", image},
		"is not a JSON schema":           {"--format", image},
	} {
		got := call(t.Context(), addr, "", append([]string{"run", "x"}, args...)...)
		require.Equal(t, exitUsage, got.code, says)
		require.Contains(t, got.err, says)
	}
	require.Nil(t, d.request, "nothing was submitted")
}

// LO-416, LO-301
func TestAChatIsReplayed(t *testing.T) {
	t.Parallel()
	record := func() task.Record {
		r := recordOf()
		r.Task.Request.Prompt, r.Task.Request.Messages = "", []task.Message{{Role: "user", Content: "a wish"}}
		r.Task.Request.Chat = &task.Chat{Tools: []task.Tool{{Name: "weather"}}, Reasoning: task.Reasoning{Split: true}}
		said, _ := newDaemon().chat(t, answered()...).log.Transcript()
		r.Transcript = said
		return r
	}
	words := filepath.Join(t.TempDir(), "request.json")
	require.NoError(t, os.WriteFile(words, []byte(`{"model_ref":"haiku","messages":[{"role":"user","content":[{"type":"text","text":"a wish"}]}],
		"tools":[{"name":"weather"}],"reasoning":{"split":true},"tool_choice":"auto"}`), 0o600))
	other := answered()
	other[5].Text = "[]"
	for name, c := range map[string]struct {
		now  []task.Piece
		code int
		out  string
	}{
		"the same":     {answered(), 0, "match: 6 tokens, transcript "},
		"another call": {other, exitFailed, `the answers differ at token 5: recorded "(call 1 c1 clock) {}", now "(call 1 c1 clock) []"`},
	} {
		k := newArchive(newDaemon().chat(t, c.now...))
		addr := k.serve(t)
		k.keep(gen.ArtifactKindProof, "recorded", proofOf(t, record(), true, true))
		got := call(t.Context(), addr, "", "replay", "recorded")
		require.Equal(t, c.code, got.code, "%s: %s%s", name, got.out, got.err)
		require.Contains(t, got.out, c.out, name)
		require.Equal(t, "weather", k.request.Tools[0].Name)
		require.True(t, k.request.Reasoning.Value.Split.Value)

		got = call(t.Context(), addr, "", "proof", "recorded")
		require.Contains(t, got.out, "call weather")
		require.Regexp(t, `thinking +"hm, rain"`, got.out)
	}
	k := newArchive(newDaemon().chat(t, answered()...))
	addr := k.serve(t)
	k.keep(gen.ArtifactKindProof, "recorded", proofOf(t, record(), false, false))
	got := call(t.Context(), addr, "", "replay", "recorded", "--prompt-file", words)
	require.Zero(t, got.code, got.err)
	require.Equal(t, "weather", k.request.Tools[0].Name)
}
