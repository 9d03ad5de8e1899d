// SPDX-License-Identifier: GPL-3.0-or-later

package sdk

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/contracts/proof"
	"github.com/llama-orch/llama-orch/service/task"
)

// chatScript is a log with thinking, an answer and two calls, one within the other.
func chatScript() *script {
	return newScript().
		add("token", `{"t":"hm","i":0,"channel":"reasoning"}`).
		add("token", `{"t":"Well","i":1}`).
		add("tool_call", `{"n":0,"id":"c0","name":"look","arguments":""}`).
		add("tool_call", `{"n":0,"arguments":"{"}`).
		add("tool_call", `{"n":1,"id":"c1","name":"gö","arguments":"[]"}`).
		add("tool_call", `{"n":0,"arguments":"}"}`)
}

// partsDigest is the digest of that log, written down by the contract's words.
func partsDigest() string {
	b := []byte("llorch-transcript-2\n")
	for _, part := range [][2]string{
		{"a", "Well"}, {"r", "hm"}, {"i", "c0"}, {"n", "look"}, {"j", "{}"}, {"i", "c1"}, {"n", "gö"}, {"j", "[]"},
	} {
		b = append(b, part[0]...)
		b = binary.BigEndian.AppendUint64(b, uint64(len(part[1])))
		b = append(b, part[1]...)
	}
	return sha(string(b))
}

func (s *script) endChat(digest, form string) *script {
	return s.add("end", fmt.Sprintf(`{"tokens_in":3,"tokens_out":6,"decode_time_ms":12,"finish_reason":"tool_calls",`+
		`"tool_calls":[{"id":"c0","name":"look","arguments":"{}"},{"id":"c1","name":"gö","arguments":"[]"}],"receipt":{"seed":7,"determinism":"strict",`+
		`"fingerprint":"f","request_digest":"d","transcript_sha256":%q,"transcript_form":%q,"replica_id":"default-0","engine_version":"v","model_digest":"m"}}`, digest, form))
}

// LO-450
func TestLogprobsAreTyped(t *testing.T) {
	t.Parallel()
	const list = `[{"token":"W","logprob":-0.5,"bytes":[87],"top_logprobs":[{"token":"A","logprob":-0.25,"bytes":[65]}]}]`
	c, _ := setup(t, fixed(newScript().add("token", `{"t":"W","i":0,"logprobs":`+list+`}`).add("token", `{"t":"!","i":1}`).endWith(sha("W!")).String()))
	var tokens []Token
	for e, err := range c.Stream(t.Context(), "t", "") {
		require.NoError(t, err)
		if token, ok := e.(Token); ok {
			tokens = append(tokens, token)
		}
	}
	require.Len(t, tokens, 2)
	require.Equal(t, []Logprob{{Likely{"W", -0.5, []int{87}}, []Likely{{"A", -0.25, []int{65}}}}}, tokens[0].Logprobs)
	require.Nil(t, tokens[1].Logprobs)
}

// LO-416, LO-204
func TestTheEventsOfAChatAreTyped(t *testing.T) {
	t.Parallel()
	c, _ := setup(t, fixed(chatScript().endChat(partsDigest(), "parts").String()))
	var events []Event
	for e, err := range c.Stream(t.Context(), "t", "") {
		require.NoError(t, err)
		events = append(events, e)
	}
	require.Len(t, events, 8)
	require.Equal(t, "hm", events[1].(Reasoning).Text)
	require.Equal(t, "Well", events[2].(Token).Text)
	require.Equal(t, 1, events[2].(Token).Index)
	first, last := events[3].(ToolCall), events[6].(ToolCall)
	require.Equal(t, []any{0, "c0", "look", ""}, []any{first.N, first.CallID, first.Name, first.Arguments})
	require.Equal(t, []any{0, "", "", "}"}, []any{last.N, last.CallID, last.Name, last.Arguments})
	require.True(t, strings.HasPrefix(first.Wire().ID, "3-"), "the event's id and the call's are two")
	end := events[7].(End)
	require.Equal(t, FinishReasonToolCalls, end.FinishReason)
	require.Equal(t, []Call{{ID: "c0", Name: "look", Arguments: "{}"}, {ID: "c1", Name: "gö", Arguments: "[]"}}, end.ToolCalls)
}

// LO-416, LO-204
func TestAReceiptIsHeldAgainstItsForm(t *testing.T) {
	t.Parallel()
	plain := func() *script { return newScript().tokens("Well") }
	for name, s := range map[string]*script{
		"the digest of other parts":          chatScript().endChat(sha("x"), "parts"),
		"the digest of the answer alone":     chatScript().endChat(sha("Well"), "text"),
		"parts that are said to be text":     chatScript().endChat(partsDigest(), "text"),
		"text that is said to be parts":      plain().endChat(sha("Well"), "parts"),
		"a call's piece that went elsewhere": newScript().add("token", `{"t":"hm","i":0}`).endChat(partsDigest(), "parts"),
	} {
		c, _ := setup(t, fixed(s.String()))
		_, _, err := read(t.Context(), c, "")
		var wrong *VerifyError
		require.ErrorAs(t, err, &wrong, name)
		require.Equal(t, CheckTranscript, wrong.Check, name)
	}
	c, _ := setup(t, fixed(plain().endChat(sha("Well"), "text").String()))
	_, _, err := read(t.Context(), c, "")
	require.NoError(t, err)

	c, _ = setup(t, fixed(newScript().add("token", `{"t":"hm","i":0,"channel":"song"}`).String()))
	_, _, err = read(t.Context(), c, "")
	var strange *ProtocolError
	require.ErrorAs(t, err, &strange)
	require.ErrorContains(t, err, "song")
}

// LO-416
func TestMessagesAreMade(t *testing.T) {
	t.Parallel()
	m, err := Show(RoleUser, "see", []byte("\x89PNG\r\n\x1a\n..."), []byte("GIF89a..."))
	require.NoError(t, err)
	text, err := m.MarshalJSON()
	require.NoError(t, err)
	require.JSONEq(t, `{"role":"user","content":[{"type":"text","text":"see"},{"type":"image","media_type":"image/png","data":"iVBORw0KGgouLi4="},
		{"type":"image","media_type":"image/gif","data":"R0lGODlhLi4u"}]}`, string(text))
	_, err = Show(RoleUser, "", []byte("%PDF-1.7"))
	require.ErrorContains(t, err, "image 0 of a message is application/pdf: give a PNG")

	calls := []Call{{ID: "c", Name: "look", Arguments: "{}"}}
	for want, m := range map[string]Message{
		`{"role":"assistant","reasoning":"hm","tool_calls":[{"id":"c","name":"look","arguments":"{}"}]}`: Said("", "hm", calls),
		`{"role":"assistant","content":"yes"}`:                    Said("yes", "", nil),
		`{"role":"assistant","content":""}`:                       Said("", "", nil),
		`{"role":"tool","tool_call_id":"c","content":"it rains"}`: Result("c", "it rains"),
	} {
		text, err := m.MarshalJSON()
		require.NoError(t, err)
		require.JSONEq(t, want, string(text))
	}
}

// LO-416, LO-301
func TestAgainAsksTheSameOfAChat(t *testing.T) {
	t.Parallel()
	r := recordOf("ab")
	yes := true
	q := &r.Task.Request
	q.Prompt = ""
	q.Messages = []task.Message{
		{Role: "user", Parts: []task.Part{{Text: "see"}, {Image: &task.Image{MIME: "image/png", Data: []byte("png")}}}},
		{Role: "assistant", Reasoning: "hm", ToolCalls: []task.ToolCall{{ID: "c", Name: "look", Arguments: "{}"}}},
		{Role: "tool", ToolCallID: "c", Content: "rain"},
	}
	q.Chat = &task.Chat{
		Tools: []task.Tool{{Name: "look", Description: "d", Parameters: json.RawMessage(`{"a":"<"}`)}}, ToolChoice: task.ChooseTool, ToolName: "look", ParallelCalls: &yes,
		Format: &task.Format{Kind: task.FormatGrammar, Grammar: "root ::= x"}, Reasoning: task.Reasoning{Split: true, Enabled: &yes, Effort: "low", Budget: 3},
		LogitBias: []task.Bias{{Token: 3, Bias: 1}}, Logprobs: &task.Logprobs{Top: 2}, TemplateArgs: json.RawMessage(`{"x":1}`),
	}
	p := proofOf(r)
	require.False(t, p.Request.Kept)
	r.Proof.KeepsPrompt = true
	kept := proofOf(r)
	require.True(t, p.Keep(proof.Words{Messages: kept.Request.Messages, Chat: *kept.Request.Chat}))
	for _, p := range []*proof.Bundle{p, kept} {
		again := Again(p)
		text := fits(t, again)
		var w proof.Words
		require.NoError(t, json.Unmarshal(text, &w))
		require.Equal(t, p.Request.MessagesSHA256, proof.DigestMessages(w.Messages))
		require.Equal(t, p.Request.ChatSHA256, proof.DigestChat(w.Chat))
		require.Equal(t, "look", again.ToolChoice)
		require.Equal(t, "low", again.Reasoning.Effort)
		require.Contains(t, string(text), `"parameters":{"a":"<"}`)
	}
}
