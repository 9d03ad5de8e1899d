// SPDX-License-Identifier: GPL-3.0-or-later

package bundle

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/llama-orch/llama-orch/contracts/proof"
	"github.com/llama-orch/llama-orch/service/task"
)

// chatting is the record of a chat with an image and tools, whose answer thinks, speaks and calls.
func chatting() task.Record {
	r := ended("hm", "m", "Well", "{", "}", "[]")
	q := &r.Task.Request
	q.Prompt = ""
	q.Messages = []task.Message{
		{Role: task.RoleUser, Parts: []task.Part{{Text: "a secret"}, {Image: &task.Image{MIME: "image/png", Data: []byte("a secret picture")}}}},
		{Role: task.RoleAssistant, Reasoning: "a secret thought", ToolCalls: []task.ToolCall{{ID: "c", Name: "look", Arguments: "secret"}}},
		{Role: task.RoleTool, ToolCallID: "c", Content: "a secret result"},
	}
	q.Chat = &task.Chat{
		Tools: []task.Tool{{Name: "look", Description: "a secret tool", Parameters: json.RawMessage(`{"a":1}`)}}, ToolChoice: task.ChooseTool, ToolName: "look",
		Format: &task.Format{Kind: task.FormatJSON, Schema: json.RawMessage(`{}`)}, Reasoning: task.Reasoning{Split: true}, LogitBias: []task.Bias{{Token: 7, Bias: -1}},
		Logprobs: &task.Logprobs{Top: 2},
	}
	r.Transcript.Marks = []task.Mark{
		{Piece: 0, Kind: task.EventReasoning},
		{Piece: 1, Kind: task.EventReasoning},
		{Piece: 3, Kind: task.EventToolCall, Call: task.CallPart{ID: "c0", Name: "look"}},
		{Piece: 4, Kind: task.EventToolCall},
		{Piece: 5, Kind: task.EventToolCall, Call: task.CallPart{N: 1, ID: "c1", Name: "go"}},
	}
	r.Transcript.Logprobs = make([]string, len(r.Transcript.Ends))
	r.Transcript.Logprobs[2] = `[{"token":"a secret"}]`
	r.End.ToolCalls = r.Transcript.Parts().Calls
	r.End.Receipt.TranscriptSHA256, r.End.Receipt.TranscriptForm = r.Transcript.Digest(), r.Transcript.Form()
	return r
}

// LO-416, LO-450, OC-CTRL-2067
func TestABundleHoldsAChat(t *testing.T) {
	r := chatting()
	p := Of(r)
	text := encoded(t, p)
	require.NotContains(t, text, "secret")
	require.NotContains(t, text, "look")
	require.Equal(t, proof.FormParts, p.Transcript.Form)
	require.Equal(t, proof.FormParts, p.Receipt.TranscriptForm)
	require.Equal(t, r.End.Receipt.TranscriptSHA256, p.Transcript.SHA256)
	require.NotEmpty(t, p.Request.MessagesSHA256)
	require.NotEmpty(t, p.Request.ChatSHA256)
	other := chatting()
	other.Task.Request.Messages[0].Parts[1].Image.Data[0] = 'b'
	require.NotEqual(t, p.Request.MessagesSHA256, Of(other).Request.MessagesSHA256, "images count")

	kept := Of(keeping(r))
	require.Equal(t, []proof.Run{
		{From: 0, Tokens: 2, Kind: proof.Reasoning},
		{From: 3, Tokens: 1, Kind: proof.Call, ID: "c0", Name: "look"},
		{From: 4, Tokens: 1, Kind: proof.Call},
		{From: 5, Tokens: 1, Kind: proof.Call, N: 1, ID: "c1", Name: "go"},
	}, kept.Transcript.Runs)
	back, err := proof.Decode([]byte(encoded(t, kept)))
	require.NoError(t, err)
	require.Equal(t, kept.Request, back.Request)
	require.Equal(t, "a secret picture", string(back.Request.Messages[0].Parts[1].Data))
	require.Equal(t, "look", back.Request.Chat.ToolChoice)
	require.Equal(t, &proof.AnswerFormat{Type: "json_schema", Schema: json.RawMessage(`{}`)}, back.Request.Chat.Format)
	require.Equal(t, map[string]float64{"7": -1}, back.Request.Chat.LogitBias)
	require.True(t, back.Request.Chat.Logprobs)
	require.Equal(t, 2, back.Request.Chat.TopLogprobs)
	require.Len(t, back.Transcript.Logprobs, back.Transcript.Tokens)
	require.JSONEq(t, `[{"token":"a secret"}]`, string(back.Transcript.Logprobs[2]))
	kept.Transcript.Logprobs = kept.Transcript.Logprobs[1:]
	_, err = proof.Decode([]byte(encoded(t, kept)))
	require.ErrorContains(t, err, "this proof bundle was changed")

	var none task.Record
	require.Empty(t, Of(none).Request.ChatSHA256)
	require.Nil(t, Of(keeping(none)).Request.Chat)
}

// Both sides make the same digest of the same pieces.
//
// LO-416
func TestBothSidesHashATranscriptAlike(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var of task.Transcript
		var sum proof.Sum
		calls := 0
		for i := range rapid.IntRange(0, 12).Draw(t, "pieces") {
			p := proof.Piece{Text: rapid.StringN(0, 3, -1).Draw(t, "text")}
			m := task.Mark{Piece: i}
			switch rapid.IntRange(0, 3).Draw(t, "kind") {
			case 1:
				p.Kind, m.Kind = proof.Reasoning, task.EventReasoning
			case 2:
				p.Kind, p.N, p.ID, p.Name = proof.Call, calls, rapid.String().Draw(t, "id"), rapid.String().Draw(t, "name")
				m.Kind, m.Call = task.EventToolCall, task.CallPart{N: p.N, ID: p.ID, Name: p.Name}
				calls++
			case 3:
				p.Kind, p.N = proof.Call, rapid.IntRange(0, max(calls-1, 0)).Draw(t, "call")
				m.Kind, m.Call.N = task.EventToolCall, p.N
				calls = max(calls, p.N+1)
			}
			sum.Add(p)
			of.Text += p.Text
			of.Ends = append(of.Ends, len(of.Text))
			if p.Kind != proof.Answer {
				of.Marks = append(of.Marks, m)
			}
		}
		digest, form := sum.Digest()
		require.Equal(t, of.Digest(), digest)
		require.EqualValues(t, of.Form(), form)
		pieces := proof.Transcript{Kept: true, Text: of.Text, Ends: of.Ends, Runs: runs(of.Marks)}.Pieces()
		require.Len(t, pieces, len(of.Ends))
		var again proof.Sum
		for _, p := range pieces {
			again.Add(p)
		}
		same, _ := again.Digest()
		require.Equal(t, digest, same)
	})
}
