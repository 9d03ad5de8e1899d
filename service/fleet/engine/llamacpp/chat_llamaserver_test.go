// SPDX-License-Identifier: GPL-3.0-or-later

//go:build llamaserver

package llamacpp_test

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/enginetest"
	"github.com/llama-orch/llama-orch/service/fleet/engine/llamacpp"
	"github.com/llama-orch/llama-orch/service/task"
)

// withTools starts a llama-server whose template knows tools.
func withTools(t testing.TB) (*llamacpp.Engine, func() error) {
	t.Helper()
	e, cmd := launchServer(t, task.Completion, "--jinja", "--chat-template-file", "testdata/tools.jinja")
	return e, cmd.Process.Kill
}

var note = task.Tool{Name: "note", Parameters: json.RawMessage(
	`{"type":"object","properties":{"about":{"enum":["rain","snow","wind"]},"many":{"type":"boolean"}},"required":["about","many"]}`)}

// forced is a chat whose model has to call a tool. A call begins with ^, and the biases make the bundled model, which has never seen one, begin it, and end
// behind it. Before it the grammar of the required choice allows no end.
func forced(t testing.TB, e *llamacpp.Engine, change func(*engine.Job)) engine.Job {
	t.Helper()
	one := false
	j := job(func(j *engine.Job) {
		j.Prompt, j.MaxTokens = "", 120
		j.Messages = []task.Message{{Role: "user", Content: "Write a haiku about rain."}}
		j.Chat = &task.Chat{
			Tools: []task.Tool{note}, ToolChoice: task.ChooseRequired, ParallelCalls: &one, Reasoning: task.Reasoning{Split: true},
			LogitBias: []task.Bias{{Token: caret, Bias: 30}, {Token: endOfText, Bias: 60}},
		}
		j.CallID = func(n int) string { return engine.CallID("digest", n) }
	})
	if change != nil {
		change(&j)
	}
	return j
}

// Tokens of the bundled model.
const (
	endOfText = 1
	caret     = 96 // ^
)

// The suite of chats on a real llama-server, whose model obeys nobody.
//
// LO-410, LO-451
func TestChatsOfAServer(t *testing.T) {
	enginetest.RunChats(t, enginetest.ChatOptions{
		Features: []task.Feature{task.FeatureTools, task.FeatureFormats, task.FeatureGrammars, task.FeatureReasoning, task.FeatureArguments, task.FeatureBias, task.FeatureLogprobs}, Binds: true,
		Launch: func(t testing.TB) engine.Engine {
			e, _ := withTools(t)
			return e
		},
	})
}

// LO-411: a tool call that is forced has valid arguments, on any model; each time the same, and after a kill in the middle too.
func TestAForcedToolCall(t *testing.T) {
	e, kill := withTools(t)
	p, err := e.Props(t.Context())
	require.NoError(t, err)
	require.Contains(t, p.Features, task.FeatureTools)
	require.NotContains(t, p.Features, task.FeatureImages)
	for seed := range uint32(8) {
		ask := forced(t, e, func(j *engine.Job) { j.Seed = seed })
		first, r, err := pieces(t, e, ask)
		require.NoError(t, err)
		require.Equal(t, task.FinishToolCalls, r.Finish, "%v", first)
		require.Positive(t, r.TokensIn)
		require.Positive(t, r.Cells)
		calls := callsOf(first)
		require.Len(t, calls, 1)
		require.Equal(t, "note", calls[0].Name)
		require.Equal(t, engine.CallID("digest", 0), calls[0].ID)
		var arguments struct {
			About string
			Many  *bool
		}
		require.NoError(t, json.Unmarshal([]byte(calls[0].Arguments), &arguments), calls[0].Arguments)
		require.Contains(t, []string{"rain", "snow", "wind"}, arguments.About)
		require.NotNil(t, arguments.Many)
		again, _, err := pieces(t, e, ask)
		require.NoError(t, err)
		require.Equal(t, first, again)
	}
	whole, _, err := pieces(t, e, forced(t, e, nil))
	require.NoError(t, err)
	var begin []task.Piece
	_, err = e.Generate(t.Context(), forced(t, e, nil), func(p task.Piece) error {
		if begin = append(begin, p); len(begin) == 3 {
			return kill()
		}
		return nil
	})
	require.True(t, err == nil || task.HasCode(err, task.WorkerReset), "%v", err)
	require.Equal(t, whole[:len(begin)], begin)
	other, _ := withTools(t)
	again, _, err := pieces(t, other, forced(t, other, nil))
	require.NoError(t, err)
	require.Equal(t, whole, again)
}

func callsOf(all []task.Piece) []task.ToolCall {
	var t task.Transcript
	for i, p := range all {
		t.Text += p.Text
		t.Ends = append(t.Ends, len(t.Text))
		if p.Kind != task.EventText {
			t.Marks = append(t.Marks, task.Mark{Piece: i, Kind: p.Kind, Call: p.Call})
		}
	}
	return t.Parts().Calls
}

// LO-411: an answer has the form that was asked for, of a chat and of a prompt.
func TestFormatsBindTheAnswer(t *testing.T) {
	e, _ := withTools(t)
	schema := &task.Format{Kind: task.FormatJSON, Schema: json.RawMessage(`{"type":"object","properties":{"mood":{"enum":["calm","wild"]}},"required":["mood"]}`)}
	grammar := &task.Format{Kind: task.FormatGrammar, Grammar: `root ::= "ka" ("ra" | "na")`}
	for _, ofPrompt := range []bool{false, true} {
		ask := func(f *task.Format) string {
			got, r, err := pieces(t, e, forced(t, e, func(j *engine.Job) {
				j.Chat = &task.Chat{Format: f}
				if ofPrompt {
					j.Messages, j.Prompt = nil, prompt
				}
			}))
			require.NoError(t, err)
			require.Equal(t, task.FinishStop, r.Finish)
			text := ""
			for _, p := range got {
				require.Equal(t, task.EventText, p.Kind)
				text += p.Text
			}
			return text
		}
		var answer struct{ Mood string }
		require.NoError(t, json.Unmarshal([]byte(ask(schema)), &answer))
		require.Contains(t, []string{"calm", "wild"}, answer.Mood)
		require.Contains(t, []string{"kara", "kana"}, ask(grammar))
	}
	_, _, err := pieces(t, e, forced(t, e, func(j *engine.Job) {
		j.Chat = &task.Chat{Format: &task.Format{Kind: task.FormatGrammar, Grammar: "root ::= ("}}
	}))
	require.True(t, task.HasCode(err, task.InvalidParams), "%v", err)
}

// LO-411: what the template does not print of a call, and what tools return, comes back to the model in the next turn.
func TestAConversationWithAToolsResult(t *testing.T) {
	e, _ := withTools(t)
	turns := []task.Message{
		{Role: "user", Content: "rain?"},
		{Role: "assistant", ToolCalls: []task.ToolCall{{ID: "abcdefghi", Name: "note", Arguments: `{"about": "rain", "many": true}`}}},
		{Role: "tool", ToolCallID: "abcdefghi", Content: "wet"},
	}
	rendered, err := e.ApplyTemplate(t.Context(), turns, &task.Chat{Tools: []task.Tool{note}})
	require.NoError(t, err)
	require.Equal(t, "rain?\n^{\"name\": \"note\", \"arguments\": {\"about\": \"rain\", \"many\": true}}^\n[wet]\nnote \n", rendered)
	n, err := e.CountChat(t.Context(), turns, &task.Chat{Tools: []task.Tool{note}})
	require.NoError(t, err)
	counted, err := e.CountTokens(t.Context(), rendered)
	require.NoError(t, err)
	require.Equal(t, n, counted)
	_, r, err := pieces(t, e, forced(t, e, func(j *engine.Job) { j.Messages, j.Chat.ToolChoice = turns, task.ChooseAuto }))
	require.NoError(t, err)
	require.Equal(t, n, r.TokensIn)
}

// LO-412: the real template prints the day of the admission, however much later it is rendered again.
func TestTheDayOfTheAdmissionOnLlamaServer(t *testing.T) {
	e, _ := withTools(t)
	ask := forced(t, e, func(j *engine.Job) {
		j.Chat.TemplateArgs = json.RawMessage(`{"print_date":true}`)
		j.Prompt, j.RenderedOn = "02 Jan 2003\nWrite a haiku about rain.\nnote \n", time.Date(2003, 1, 2, 12, 0, 0, 0, time.UTC)
		j.Rendered = func(p string) error { return errors.New("another prompt: " + p) }
	})
	got, _, err := pieces(t, e, ask)
	require.NoError(t, err)
	require.NotEmpty(t, got)
	ask.RenderedOn = ask.RenderedOn.AddDate(0, 0, 1)
	_, _, err = pieces(t, e, ask)
	require.ErrorContains(t, err, "another prompt")
}

// LO-209: a chat with tools is continued behind an answer that was begun, and nothing of that comes again.
func TestAChatGoesOn(t *testing.T) {
	e, _ := withTools(t)
	_, err := e.Props(t.Context())
	require.NoError(t, err)
	ask := job(func(j *engine.Job) {
		j.Prompt, j.MaxTokens, j.Sampling.Temperature = "", 14, 0
		j.Messages = []task.Message{{Role: task.RoleUser, Content: "Write a haiku about rain."}}
		j.Chat = &task.Chat{Tools: []task.Tool{note}, Reasoning: task.Reasoning{Split: true}}
	})
	ask.Prompt, err = e.ApplyTemplate(t.Context(), ask.Messages, ask.Chat)
	require.NoError(t, err)
	whole, first, err := pieces(t, e, ask)
	require.NoError(t, err)
	require.Greater(t, len(whole), 8)
	texts := func(all []task.Piece) (s string) {
		for _, p := range all {
			require.Equal(t, task.EventText, p.Kind)
			s += p.Text
		}
		return s
	}
	for _, sent := range []int{1, 4, 7} {
		rest := ask
		rest.Sent, rest.SentTokens = texts(whole[:sent]), sent
		require.True(t, e.Continues(rest))
		came, r, err := pieces(t, e, rest)
		require.NoError(t, err)
		t.Logf("%q | %q", rest.Sent, texts(came))
		require.Equal(t, texts(whole), rest.Sent+texts(came))
		require.Equal(t, first.TokensIn, r.TokensIn)
		require.Equal(t, first.TokensOut, r.TokensOut)
	}
	forced := ask
	forced.Chat = &task.Chat{Tools: ask.Chat.Tools, ToolChoice: task.ChooseRequired}
	require.False(t, e.Continues(forced), "its grammar begins at the beginning")
	forced.Chat = &task.Chat{Format: &task.Format{Kind: task.FormatJSON}}
	require.False(t, e.Continues(forced))
}
